"""Published phone tables: names read, sums, what a fit between rows gives, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cost_models.phones.blocks import Block, block_named, read_network
from cost_models.phones.model import FEATURES, PhoneCostModel, Row, features, read_table
from mcc.cost_api import CostModel
from mcc.errors import DataError, UnsupportedError

NAME = "expanded_conv-input:14x14x80-output:7x7x96-expand:{}-kernel:5-stride:2-idskip:0"
TRUE = np.linspace(1.0, 2.0, len(FEATURES)) * 1e-6


def sampled(seed: int, count: int) -> list[Block]:
    """Random bottlenecks, and each of the other kinds at several sizes."""
    random = np.random.default_rng(seed)
    found = [Block("stem", s, 3, c, hard=True) for s, c in ((64, 16), (96, 24))]
    found += [Block("pointwise", s, 96, 320, hard=True) for s in (4, 7)]
    found += [Block("pointwise", 1, c, 640, hard=True) for c in (320, 480)]
    found += [Block("pool", s, 320, 320) for s in (4, 8)] + [Block("classifier", 1, 640, 10)]
    for _ in range(count):
        read, made, stride = (int(random.choice(v)) for v in ((16, 24, 40), (16, 24, 40), (1, 2)))
        skip = stride == 1 and read == made
        found.append(
            Block(
                "bottleneck", int(random.choice((8, 14, 28))), read, made, read * int(random.choice((3, 6))),
                int(random.choice((3, 5, 7))), stride, skip, bool(random.integers(2)),
                bool(random.integers(2)),
            )
        )  # fmt: skip
    return found


def true_ms(block: Block) -> float:
    """A phone whose kernels cost exactly what the fit can express."""
    return float(np.sum([features(kernel) for kernel in block.kernels()], axis=0) @ TRUE)


def test_names_say_the_sizes() -> None:
    ratio, channels = block_named(NAME.format(6)), block_named(NAME.format(480) + "-se:1-hs:0")
    assert (ratio.expanded, ratio.stride, ratio.side_out, ratio.squeeze) == (480, 2, 7, False)
    assert replace(ratio, squeeze=True) == channels
    with pytest.raises(ValueError, match="names no block"):
        block_named("expanded_conv-input:14")


def test_a_block_is_built_from_its_operators() -> None:
    block = replace(block_named(NAME.format(6)), squeeze=True, hard=True)
    ops = " ".join(kernel.op for kernel in block.kernels())
    assert ops == "conv2d hardswish conv2d hardswish mean conv2d conv2d hardsigmoid mul conv2d"
    assert block.kernels()[-1].output == (1, 96, 7, 7)
    assert sum(k.macs for k in replace(block, squeeze=False).kernels()) == 14 * 14 * 80 * 480 + 7 * 7 * (
        480 * 25 + 480 * 96
    )


def test_tables_are_read_and_summed(tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(f"{NAME.format(480)}-se:0-hs:1:\n  count: 100\n  mean: 2.5\n  var: 0.04\n"
                    "Conv-input:64x64x3-output:32x32x16:\n  count: 4\n  mean: 1.5\n  std: 0.2\n")  # fmt: skip
    table = read_table(path)
    bottleneck, stem = table
    assert bottleneck.hard
    assert stem == Block("stem", 64, 3, 16, hard=True)
    assert table[bottleneck] == Row(2.5, 0.2, 100)
    model = PhoneCostModel(table, (0.0,) * len(FEATURES), 0.0, "phone")
    whole = model.network([stem, bottleneck])
    assert (whole.cost, whole.source) == (4000.0, "measured")


@pytest.mark.parametrize("text", ["nonsense:\n  mean: 1\n", "  mean: 1\n", f"{NAME.format(6)}:\n  mean: x\n",
                                  f"{NAME.format(6)}:\n  mean: 1\n"])  # fmt: skip
def test_other_files_are_refused_by_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match="row"):
        read_table(path)


def test_the_fit_finds_what_lies_between_the_rows() -> None:
    rows = {block: Row(true_ms(block), 0.0, 100) for block in sampled(0, 30)}
    model = PhoneCostModel.from_tables("phone", [rows])
    assert model.error < 1e-6
    for block in sampled(1, 10)[-10:]:
        estimate = model.block(block)
        assert estimate.cost == pytest.approx(1e3 * true_ms(block), rel=1e-6)
        assert estimate.source == ("measured" if block in rows else "fitted")
    as_model: CostModel = model
    kernels = sampled(2, 1)[-1].kernels()
    assert sum(as_model.kernel(k).cost for k in kernels) == pytest.approx(1e3 * true_ms(sampled(2, 1)[-1]))
    with pytest.raises(UnsupportedError, match="float32"):
        model.kernel(replace(kernels[0], precision="int8"))
    with pytest.raises(DataError, match="too few"):
        PhoneCostModel.from_tables("phone", [dict(list(rows.items())[:5])])


def described() -> dict[str, Any]:
    """A network of one bottleneck, as such files describe it."""
    inner = {"in_channels": 16, "out_channels": 24, "kernel_size": 3, "stride": 2, "expand_ratio": 3,
             "mid_channels": None, "act_func": "relu", "use_se": False}  # fmt: skip
    return {
        "first_conv": {"out_channels": 16, "act_func": "h_swish"},
        "blocks": [{"mobile_inverted_conv": inner, "shortcut": None}],
        "final_expand_layer": {"in_channels": 24, "out_channels": 144},
        "feature_mix_layer": {"in_channels": 144, "out_channels": 192},
        "classifier": {"in_features": 192, "out_features": 10},
    }


def test_networks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "note10_lat-8ms_top1-70.0.json"
    path.write_text(json.dumps(described()))
    network = read_network(path)
    assert (network.phone, network.stated_ms) == ("note10", 8.0)
    sides = [(block.kind, block.side, block.side_out) for block in network.blocks(32)]
    assert sides == [("stem", 32, 16), ("bottleneck", 16, 8), ("pointwise", 8, 8), ("pool", 8, 1),
                     ("pointwise", 1, 1), ("classifier", 1, 1)]  # fmt: skip
    with pytest.raises(DataError, match="states no phone"):
        read_network(path.rename(tmp_path / "net.json"))
    path.write_text("{}")
    with pytest.raises(DataError, match="describes no network"):
        read_network(path)
