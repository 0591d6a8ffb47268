"""Valid inputs from which the hostile ones are derived: a network, its file, data, a plan and a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NET = """import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.c = nn.Conv2d(3, 8, 3)
        self.p = nn.Conv2d(8, 16, 1)
        self.fc = nn.Linear(16, 10)
    def forward(self, x):
        y = self.p(self.c(x).relu()).relu()
        BODY
        return OUTPUT

def net():
    return Net().eval(), torch.zeros(1, 3, 16, 16)
"""
DATA = """import numpy as np
import mcc.data
from mcc.data.preprocessing import Preprocessing

P = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
R = np.random.RandomState(0)
NAMES = tuple(map(str, range(10)))
def images(n, c=3):
    return R.randint(0, 256, (n, c, 16, 16)).astype(np.uint8)
def labels(n):
    return np.arange(n) % 10
def data(seed):
    return mcc.data.from_arrays(TRAIN, TEST, class_names=NAMES, preprocessing=P)
"""
TRAIN, TEST = "(images(100), labels(100))", "(images(40), labels(40))"


def network(folder: Path, body: str = "pass", output: str = "self.fc(y.mean((2, 3)))") -> None:
    """`net.py:net`, with an optional line before the last layer, or another result."""
    (folder / "net.py").write_text(NET.replace("BODY", body).replace("OUTPUT", output))


def data(folder: Path, train: str = TRAIN, test: str = TEST, more: str = "") -> None:
    """`data.py:data`, with other arrays."""
    text = DATA.replace("(TRAIN, TEST,", f"({train}, {test},")
    (folder / "data.py").write_text(text + more)


def onnx_file(
    path: Path,
    nodes: Sequence[onnx.NodeProto] | None = None,
    constants: dict[str, Any] | None = None,
    *,
    output: Sequence[int | str] = (1, 10),
    shape: Sequence[int | str] = (1, 3, 16, 16),
    metadata: dict[str, str] | None = None,
    domains: Sequence[str] = (),
) -> None:
    """An ONNX file from `x` to `y`; a classifier of ten classes if no nodes are given."""
    weights = np.random.default_rng(0)
    held = {
        "w": weights.normal(size=(10, 3, 3, 3)).astype(np.float32) / 5,
        "b": np.zeros(10, np.float32),
        **(constants or {}),
    }
    if nodes is None:
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["g"]),
            helper.make_node("Flatten", ["g"], ["y"]),
        ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        list(nodes), "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(output))],
        [numpy_helper.from_array(value, name) for name, value in held.items() if name in used],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(model, str(path))


GRAPH = """mcc 1
const @w : f32[8,3,3,3] = seed(1)
const @v : f32[10,8] = seed(2)
const @b : f32[10] = full(0.0)
%x = input() {} : f32[1,3,16,16]
%c = conv2d(%x, @w, none) {stride=(2, 2), padding=(1, 1, 1, 1), dilation=(1, 1), groups=1, \
activation='relu'} : f32[1,8,8,8]NOTE
%m = mean(%c) {axes=(2, 3), keepdim=False} : f32[1,8]
%y = linear(%m, @v, @b) {activation='none'} : f32[1,10]
return %y
"""


def graph(path: Path, note: str = "") -> None:
    """A graph of mcc, with the given note at its convolution."""
    path.write_text(GRAPH.replace("NOTE", f" !{{{note}}}" if note else ""))


PLAN: dict[str, Any] = {
    "precision": "float", "sparse": None, "passes": "", "widths": {}, "ranks": {}, "sparsities": {},
    "floats": [],
}  # fmt: skip
FINGERPRINT = "litert-host|cpu|ai-edge-litert|2.3.0|1|linux"


def plan(folder: Path, **changes: Any) -> None:
    """`net.py`, `data.py` and a `plan.json` for them."""
    network(folder)
    data(folder)
    (folder / "plan.json").write_text(json.dumps({"structure": {**PLAN, **changes}}))


def table(path: Path, **changes: Any) -> None:
    """An exported table of one kernel, with some of its fields changed."""
    from mcc.calibrate.store import Store
    from mcc.cost_api import Kernel, Measurement, OperandShape

    kernel = Kernel("relu", (OperandShape((1, 8, 8, 8)),), (1, 8, 8, 8), ())
    row = Measurement(kernel, 5.0, 4.0, 6.0, 300, "2026-11-23T10:00:00+00:00", 0.0)
    scratch = path.with_name("scratch.sqlite")
    with Store(scratch) as store:
        store.add(FINGERPRINT, [row])
        store.export(path)
    scratch.unlink()
    content = json.loads(path.read_text())
    content["kernels"][0].update(changes)
    path.write_text(json.dumps(content))
