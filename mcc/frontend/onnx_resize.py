"""ONNX rules: resizing."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from onnx import helper
from torch import Tensor

from mcc.frontend.onnx_table import Result, Site, onnx_op
from mcc.frontend.resizing import Interpolation, by_matrices

_RANK = 4


@onnx_op("Resize")
def resize(site: Site) -> Result:
    """By a kernel where torch's conventions have it, else by matrices, see `mcc.frontend.resizing`."""
    e = site.emitter
    _, _, height, width = site.map_shape()
    scales = _scales(site, (height, width))
    size = _size(site, (height, width), scales)
    mode = _kernel_mode(site, (height, width), size, scales)
    if mode:
        aligned = site.get("coordinate_transformation_mode") == "align_corners"
        given = {"size": size, "mode": mode, "align_corners": aligned and mode == "bilinear"}
        return site.as_read(e.call("resize", site.as_map(), **given))
    if site.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        e.refuse("Resize to a part of the map is not supported", "use Slice and a whole Resize")
    return site.as_read(by_matrices(e, site.as_map(), size, _along(site, scales, size)))


def _kernel_mode(
    site: Site, before: tuple[int, int], size: tuple[int, int], scales: tuple[float, float] | None
) -> str:
    """The mode of the kernel that computes the same; "" for none."""
    mode = site.get("mode", "nearest")
    transform = site.get("coordinate_transformation_mode", "half_pixel")
    whole = all(new % old == 0 for old, new in zip(before, size, strict=True))
    exact = scales is None or all(s * old == new for s, old, new in zip(scales, before, size, strict=True))
    if site.get("antialias", 0) or not exact:
        return ""
    if mode == "nearest" and transform != "align_corners":
        rounding = site.get("nearest_mode", "round_prefer_floor")
        floors = transform == "asymmetric" and (rounding == "floor" or (whole and rounding != "ceil"))
        centred = transform in ("half_pixel", "pytorch_half_pixel") and whole and rounding != "ceil"
        return "nearest" if floors or (centred and rounding != "floor") else ""
    single = transform == "pytorch_half_pixel" and 1 in size
    known = transform in ("half_pixel", "pytorch_half_pixel", "align_corners") and not single
    return "bilinear" if mode == "linear" and known else ""


def _along(site: Site, scales: tuple[float, float] | None, size: tuple[int, int]) -> Interpolation:
    """What the node does along one axis, by ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    kept = {k: v for k, v in site.attributes.items() if k not in ("axes", "keep_aspect_ratio_policy")}
    node = helper.make_node("Resize", ["x", "", "scales", "sizes"], ["y"], **kept)
    names = [helper.make_empty_tensor_value_info(name) for name in ("x", "scales", "sizes")]
    result = helper.make_empty_tensor_value_info("y")
    model = helper.make_model(
        helper.make_graph([node], "resize", names, [result]),
        opset_imports=[helper.make_opsetid("", max(site.opset, 18))],
    )

    def interpolate(x: Tensor, axis: int) -> Tensor:
        factors, lengths = [1.0, 1.0, 1.0, 1.0], list(x.shape)
        lengths[2 + axis] = size[axis]
        factors[2 + axis] = scales[axis] if scales else size[axis] / x.shape[2 + axis]
        by_size = None if scales else np.array(lengths, np.int64)
        feed: dict[str, Any] = {
            "x": x.numpy(),
            "scales": None if by_size is not None else np.array(factors, np.float32),
            "sizes": by_size,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Any = ReferenceEvaluator(model).run(None, feed)
        return torch.from_numpy(np.ascontiguousarray(found[0], dtype=np.float32))

    return interpolate


def _positions(site: Site, given: list[Any]) -> dict[int, Any]:
    """What is given for each axis of the map."""
    rank = len(site.emitter.shape(site.value()))
    axes = site.get("axes") or range(rank)
    lifted = _RANK - rank  # a row has no height
    found = {axis % rank: value for axis, value in zip(axes, given, strict=True)}
    return {axis + lifted if axis >= 2 else axis: value for axis, value in found.items()}


def _scales(site: Site, before: tuple[int, int]) -> tuple[float, float] | None:
    """Factors of height and width, where these are what is given."""
    if site.numbers(3, "sizes"):
        return None
    given = _positions(site, site.numbers(2, "scales") or [])
    if any(given.get(axis, 1.0) != 1.0 for axis in (0, 1)):
        site.emitter.refuse("Resize of channels is not supported")
    return float(given.get(2, 1.0)), float(given.get(3, 1.0))


def _size(site: Site, before: tuple[int, int], scales: tuple[float, float] | None) -> tuple[int, int]:
    """The new (height, width), from sizes or scales."""
    if scales is not None:
        return math.floor(before[0] * scales[0]), math.floor(before[1] * scales[1])
    e = site.emitter
    if site.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        e.refuse("Resize that keeps the aspect ratio is not supported", "give the sizes themselves")
    given = _positions(site, site.numbers(3, "sizes") or [])
    if any(int(given.get(axis, n)) != n for axis, n in ((0, e.batch), (1, e.shape(site.value())[1]))):
        e.refuse("Resize of channels is not supported")
    return int(given.get(2, before[0])), int(given.get(3, before[1]))
