"""Networks, ONNX files and weights."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import helper
from safetensors.torch import save_file

from tools.hostile.case import FAILED, WORKS, Case
from tools.hostile.inputs import graph, network, onnx_file

NODES = 200_000
LARGE = 40_000  # squared, as float32: 6 GB


def _body(line: str) -> Callable[[Path], None]:
    return lambda folder: network(folder, line)


def _batch(name: str, line: str) -> Case:
    return Case(
        f"batch/{name}", _body(line), "lower net.py:net --to tflite -o ../out/m.tflite", "batch", FAILED
    )


def _onnx_batch(folder: Path) -> None:
    """The values, times the length of the batch that Shape gives."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Cast", ["n"], ["nf"], to=1),
        helper.make_node("Mul", ["f", "nf"], ["y"]),
    ]
    zero = {"zero": np.array(0, np.int64)}
    onnx_file(folder / "m.onnx", nodes, zero, shape=("N", 3, 16, 16), output=("N", 10))


def _grown(*nodes: Any, **constants: Any) -> Callable[[Path], None]:
    """`k`, a constant that grows, added to the input as its greatest value."""

    def make(folder: Path) -> None:
        last = [
            helper.make_node("ReduceMax", ["k"], ["top"], keepdims=0),
            helper.make_node("Add", ["x", "top"], ["y"]),
        ]
        onnx_file(folder / "m.onnx", [*nodes, *last], constants, output=(1, 3, 16, 16))

    return make


def _chain(folder: Path) -> None:
    names = ["x", *(f"v{index}" for index in range(NODES - 1)), "y"]
    nodes = [helper.make_node("Relu" if i % 2 else "Neg", [names[i]], [names[i + 1]]) for i in range(NODES)]
    onnx_file(folder / "m.onnx", nodes, output=(1, 3, 16, 16))


def _long_graph(folder: Path) -> None:
    lines = ["mcc 1", "%v0 = input() {} : f32[1,3,4,4]"]
    lines += [f"%v{i + 1} = neg(%v{i}) {{}} : f32[1,3,4,4]" for i in range(NODES)]
    (folder / "m.mcc").write_text("\n".join([*lines, f"return %v{NODES}", ""]))


def _named(op: str, domain: str = "") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        node = helper.make_node(op, ["x"], ["y"], domain=domain, name="\x1b]0;owned\x07")
        domains = [domain] if domain else []
        onnx_file(folder / "m.onnx", [node], output=(1, 3, 16, 16), domains=domains)

    return make


def _onnx_nan(folder: Path) -> None:
    weight = np.zeros((10, 3, 3, 3), np.float32)
    weight[3, 1] = np.nan
    onnx_file(folder / "m.onnx", constants={"w": weight})


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """`net.py`, and `w.pth` with its weights changed."""

    def make(folder: Path) -> None:
        network(folder)
        state = {
            "c.weight": torch.ones(8, 3, 3, 3), "c.bias": torch.zeros(8), "p.weight": torch.ones(16, 8, 1, 1),
            "p.bias": torch.zeros(16), "fc.weight": torch.ones(10, 16), "fc.bias": torch.zeros(10),
        }  # fmt: skip
        change(state)
        torch.save(state, folder / "w.pth")

    return make


def _set(name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return _weights(lambda state: state.update({name: to(state[name])}))


def _filled(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: torch.full_like(tensor, value)


def _safetensors_nan(folder: Path) -> None:
    _weights(dict)(folder)
    state = torch.load(folder / "w.pth", weights_only=True)
    state["p.weight"][3] = float("nan")
    save_file(state, folder / "w.safetensors")


class _Runs:
    """Unpickles by running a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


def _pickled(folder: Path) -> None:
    network(folder)
    (folder / "w.pth").write_bytes(pickle.dumps({"c.weight": _Runs()}))


def _weights_pipe(folder: Path) -> None:
    network(folder)
    os.mkfifo(folder / "w.pth")


def _noted(note: str) -> Callable[[Path], None]:
    return lambda folder: graph(folder / "m.mcc", note)


def _neighbour(folder: Path) -> None:
    (folder / "neighbour.py").write_text("CHANNELS = 3\n")
    network(folder)
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text("from neighbour import CHANNELS\n" + text)


_LOADED = "inspect net.py:net --weights w.pth"
CASES = (
    _batch("a branch on its length", "y = y * 2 if x.shape[0] > 1 else y"),
    _batch("its length as a factor", "y = y * x.shape[0]"),
    _batch("number of elements", "y = y * (x.numel() / 768)"),
    _batch("len", "y = y + len(x)"),
    _batch("pairs of pictures", "y = y - y.mean(0, keepdim=True)"),
    Case("batch/Shape in ONNX", _onnx_batch, "lower m.onnx --to tflite -o ../out/m.tflite", "batch", FAILED),
    Case("growth/ConstantOfShape", _grown(helper.make_node("ConstantOfShape", ["k0"], ["k"]),
         k0=np.array([LARGE, LARGE], np.int64)), "inspect m.onnx", r"m\.onnx"),
    Case("growth/Expand", _grown(helper.make_node("Expand", ["k0", "k1"], ["k"]),
         k0=np.ones((1, 1), np.float32), k1=np.array([LARGE, LARGE], np.int64)), "inspect m.onnx",
         r"m\.onnx"),
    Case("growth/Tile", _grown(helper.make_node("Tile", ["k0", "k1"], ["k"]),
         k0=np.ones((4, 4), np.float32), k1=np.array([LARGE // 4] * 2, np.int64)), "inspect m.onnx",
         r"m\.onnx"),
    Case("growth/Range", _grown(helper.make_node("Range", ["k0", "k1", "k2"], ["k"]),
         k0=np.array(0, np.float32), k1=np.array(1.6e9, np.float32), k2=np.array(1, np.float32)),
         "inspect m.onnx", r"m\.onnx"),
    Case("growth/200,000 nodes of ONNX", _chain, "inspect m.onnx", "nodes"),
    Case("growth/200,000 nodes of text", _long_graph, "inspect m.mcc", r"m\.mcc"),
    Case("growth/an input of a terabyte", network, "inspect net.py:net --input-shape 1,3,500000,500000",
         "input-shape|too large|memory|beyond"),
    Case("names/escape sequence as operator", _named("\x1b[31mEvil"), "inspect m.onnx", "Evil"),
    Case("names/escape sequence as domain", _named("Evil", "\x1b[2Jhome"), "inspect m.onnx", "Evil"),
    Case("weights/NaN in safetensors", _safetensors_nan, "inspect net.py:net --weights w.safetensors",
         r"p\.weight"),
    Case("weights/NaN in a state dict", _set("c.weight", _filled(float("nan"))), _LOADED, r"c\.weight"),
    Case("weights/infinity in a state dict", _set("fc.bias", _filled(float("inf"))), _LOADED, r"fc\.bias"),
    Case("weights/NaN in ONNX", _onnx_nan, "inspect m.onnx", r"\bw\b.*(NaN|finite)|(NaN|finite).*\bw\b"),
    Case("weights/integers", _set("c.weight", lambda t: t.to(torch.int64)), _LOADED, r"c\.weight"),
    Case("weights/complex", _set("c.weight", lambda t: t.to(torch.complex64)), _LOADED, r"c\.weight"),
    Case("weights/sparse", _set("fc.weight", lambda t: t.to_sparse()), _LOADED, r"fc\.weight"),
    Case("weights/meta", _set("fc.weight", lambda t: t.to("meta")), _LOADED, r"fc\.weight"),
    Case("weights/another shape", _set("fc.weight", lambda t: t[:7]), _LOADED, r"fc\.weight"),
    Case("weights/a pickle that runs a command", _pickled, _LOADED, r"w\.pth"),
    Case("weights/a pipe", _weights_pipe, _LOADED, r"w\.pth"),
    Case("graphs/sparsity of 1.5", _noted("sparse=(1, 1.5)"), "inspect m.mcc", r"m\.mcc:6.*sparsity"),
    Case("graphs/rank beyond the layer's", _noted("rank=9"), "diff m.mcc m.mcc", r"m\.mcc:6.*rank"),
    Case("graphs/channel that is not there", _noted("keep=(0, 8)"), "opt m.mcc -p prune-channels "
         "-o ../out/m.mcc", r"m\.mcc:6.*keep"),
    Case("graphs/unknown precision", _noted("precision='int3'"), "inspect m.mcc", r"m\.mcc:6.*precision"),
    Case("models/a factory with a neighbour", _neighbour, "inspect net.py:net", "conv2d", WORKS),
)  # fmt: skip
