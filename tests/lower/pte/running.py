"""Running `.pte` programs in the test's own process: a worker for each operator would take too long."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcc.flatc import read_json
from mcc.ir.graph import Graph, outputs
from mcc.lower.pte.delegate import SCHEMA as DELEGATE_SCHEMA
from mcc.lower.pte.program import SCHEMA as PROGRAM_SCHEMA
from mcc.quant.params import quant_params

Floats = NDArray[np.float32]


def program(raw: bytes):
    """A loaded program, from a file as everywhere: one in memory keeps what the loader of a file frees."""
    from executorch.extension.pybindings import _C

    with tempfile.TemporaryDirectory() as folder:
        return _C._load_for_executorch(str(written(raw, Path(folder))))


def infer(raw: bytes, *values: Tensor) -> list[Floats]:
    """All outputs for inputs [N, ...], one by one."""
    loaded = program(raw)
    parts = [
        [result.numpy().copy() for result in loaded.forward([v[i : i + 1].contiguous() for v in values])]
        for i in range(len(values[0]))
    ]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def steps_between(graph: Graph, a: Floats, b: Floats) -> Floats:
    """Distance of two results in steps of the first output."""
    return np.rint(np.abs(a - b) / quant_params(graph, outputs(graph)[0]).scale)


def delegates(raw: bytes) -> int:
    """How many delegates the program calls; fails where it calls anything else."""
    plan = read_json(PROGRAM_SCHEMA, raw)["execution_plan"][0]
    kinds = [i["instr_args_type"] for chain in plan["chains"] for i in chain["instructions"]]
    assert set(kinds) == {"DelegateCall"}
    return len(kinds)


def nodes(raw: bytes) -> list[str]:
    """Kinds of the nodes of the delegate's graph, in order."""
    start = raw.index(b"XH00") - 4
    offset, size = (int.from_bytes(raw[start + at : start + at + 4], "little") for at in (10, 14))
    graph = read_json(DELEGATE_SCHEMA, raw[start + offset : start + offset + size])
    return [node["xnode_union_type"] for node in graph["xnodes"]]


def sample(shape: tuple[int, ...], count: int = 3) -> Tensor:
    return torch.randn(count, *shape[1:]) * 2


def written(raw: bytes, folder: Path) -> Path:
    path = folder / "model.pte"
    path.write_bytes(raw)
    return path
