"""Model of the peak memory of a runtime: file, packed weights, arena and indirection tables.

    peak = base + a * file + b * packed weights + c * windows + d * arena + e * indirection + f * operators

The file is mapped or read; XNNPACK and onnxruntime keep a second copy of the weights, in the order of their
tiles (sparse ones decoded), and onnxruntime while loading another one of float weights beyond 1x1, in blocks
of channels; the arena holds the values live at the same time; convolutions with windows beyond 1x1 read their
input through a table of pointers, eight bytes for each tap of each output pixel (Dukhan 2019, "The Indirect
Convolution Algorithm"). The coefficients are those of a runtime's release, fitted once to measured networks,
and stored in `memory.json`. File and weights have nearly the same size: the fit is regularised weakly towards
counting each once, as described above.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls
from torch import fx

from mcc.cost_api import Kernel, graph_kernels
from mcc.errors import DataError
from mcc.ir.graph import Graph, calls, is_constant, op_name, operand
from mcc.ir.json_file import read_json
from mcc.ir.notes import shape_of
from mcc.ir.table import WEIGHTED

STORED = Path(__file__).with_name("memory.json")
LARGEST_WEIGHT = 1e9  # bytes per byte or operator: a gigabyte
POINTER_BYTES = 8
FLOAT_BYTES = 4
TOLERANCE, TOLERANCE_BYTES = 0.1, 500_000  # scale of an error: relative, and its minimum in bytes
ONCE = ("file", "floats", "integers", "arena", "indirection")  # facts with an expected coefficient of one


@dataclass(frozen=True)
class MemoryFacts:
    """Parts of a network that take memory, in bytes except for the last three.

    Attributes:
        file: Size of the lowered file.
        floats, integers: Packed constants of weighted operators, including zeros.
        windows: Float constants with windows beyond 1x1.
        arena: Maximum of the values live at the same time.
        indirection: Tables of pointers of dense convolutions.
        operators: Number of operators.
        integer: 1 for a network with integer kernels, else 0.
        one: 1.
    """

    file: float
    floats: float
    integers: float
    windows: float
    arena: float
    indirection: float
    operators: float
    integer: float
    one: float = 1.0


def memory_facts(graph: Graph, file_bytes: int, integer: Iterable[str] = ()) -> MemoryFacts:
    """Facts of a graph in deployment form.

    Args:
        file_bytes: Size of its lowered file.
        integer: Nodes that run as integer kernels.
    """
    whole = frozenset(integer)
    kernels = graph_kernels(graph, whole)
    weights = [(kernel, _weight_bytes(kernel)) for kernel in kernels.values()]
    floats = [(kernel, size) for kernel, size in weights if kernel.precision == "float"]
    return MemoryFacts(
        float(file_bytes),
        float(sum(size for _, size in floats)),
        float(sum(size for kernel, size in weights if kernel.precision != "float")),
        float(sum(size for kernel, size in floats if _window(kernel) != (1, 1))),
        float(arena_bytes(graph, whole)),
        float(sum(map(_indirection_bytes, kernels.values()))),
        float(len(kernels)),
        float(bool(whole)),
    )


def _width(kernel: Kernel) -> int:
    return FLOAT_BYTES if kernel.precision == "float" else 1


def _weight_bytes(kernel: Kernel) -> int:
    weight = kernel.operands[1] if kernel.op in WEIGHTED else None
    return 0 if weight is None or not weight.constant else math.prod(weight.shape) * _width(kernel)


def _window(kernel: Kernel) -> tuple[int, ...]:
    """Window of a convolution beyond 1x1 over all channels; (1, 1) for other kernels."""
    weight = kernel.operands[1] if kernel.op == "conv2d" else None
    return (1, 1) if weight is None or dict(kernel.attributes)["groups"] != 1 else weight.shape[2:]


def _indirection_bytes(kernel: Kernel) -> int:
    window = _window(kernel)
    return 0 if window == (1, 1) else POINTER_BYTES * math.prod(window) * math.prod(kernel.output[2:])


def arena_bytes(graph: Graph, integer: frozenset[str] = frozenset()) -> int:
    """Maximum bytes of the values live at the same time; quantisers have no value of their own."""
    made = [node for node in graph.graph.nodes if node.op == "placeholder"]
    made += [n for n in calls(graph) if not _is_alias(n) and not all(map(is_constant, n.all_input_nodes))]
    order = {node: place for place, node in enumerate(graph.graph.nodes)}
    last = dict.fromkeys(made, 0)
    for node in graph.graph.nodes:
        for source in map(_source, node.all_input_nodes):
            if source in last:
                last[source] = order[node]
    changes: dict[int, int] = {}
    for node in made:
        size = math.prod(shape_of(node)) * (1 if _is_integer(node, integer) else FLOAT_BYTES)
        changes[order[node]] = changes.get(order[node], 0) + size
        end = max(last[node], order[node]) + 1
        changes[end] = changes.get(end, 0) - size
    live = peak = 0
    for place in sorted(changes):
        live += changes[place]
        peak = max(peak, live)
    return peak


def _is_alias(node: fx.Node) -> bool:
    return node.op == "call_function" and op_name(node) == "fake_quantize"


def _source(node: fx.Node) -> fx.Node:
    while _is_alias(node):
        node = operand(node, 0)
    return node


def _is_integer(node: fx.Node, integer: frozenset[str]) -> bool:
    return node.name in integer or (bool(node.users) and all(map(_is_alias, node.users)))


@dataclass(frozen=True)
class MemoryModel:
    """Peak memory of networks in one release of a runtime.

    Attributes:
        weights: Bytes per unit of each fact.
        fitted_to: Runtime and version, machine, date, networks.
    """

    weights: MemoryFacts
    fitted_to: str

    @staticmethod
    def fit(rows: Sequence[tuple[MemoryFacts, int]], fitted_to: str) -> MemoryModel:
        """Fit by non-negative least squares over measured networks, regularised weakly towards `ONCE`.

        Raises DataError for fewer networks than coefficients.
        """
        if len(rows) < len(fields(MemoryFacts)):
            raise DataError(f"{len(rows)} networks are too few for a fit of memory")
        matrix = np.array([astuple(facts) for facts, _ in rows])
        peaks = np.array([float(peak) for _, peak in rows])
        trust = 1.0 / np.maximum(TOLERANCE * peaks, TOLERANCE_BYTES)
        pull = np.array([float(each.name in ONCE) for each in fields(MemoryFacts)])
        system = np.vstack([matrix * trust[:, None], np.diag(pull)])
        scale = np.maximum(np.abs(system).max(axis=0), 1e-12)
        solved, _ = nnls(system / scale, np.concatenate([peaks * trust, pull]))
        return MemoryModel(MemoryFacts(*(float(w) for w in solved / scale)), fitted_to)

    def peak_bytes(self, facts: MemoryFacts) -> int:
        """Predicted growth of the peak memory of a new runner, see `Target.peak_memory`."""
        pairs = zip(astuple(self.weights), astuple(facts), strict=True)
        return round(sum(weight * fact for weight, fact in pairs))

    def to_json(self) -> dict[str, Any]:
        """Plain values in the form of `memory.json`."""
        return {"fitted_to": self.fitted_to, **asdict(self.weights)}


def stored_models(path: Path = STORED) -> Mapping[str, MemoryModel]:
    """The stored models, by name of the target. Raises DataError for a file with another content."""
    held = read_json(path, what="table of memory models")
    if not isinstance(held, dict):
        raise DataError("is no table of memory models", where=str(path))
    return {str(target): _stored(values, str(target), path) for target, values in held.items()}


def _stored(values: Any, target: str, path: Path) -> MemoryModel:
    names = [field.name for field in fields(MemoryFacts)]
    if not isinstance(values, dict) or set(values) != {"fitted_to", *names}:
        allowed = ", ".join(["fitted_to", *names])
        raise DataError(f"{target}: must hold {allowed} and nothing else", where=str(path))
    for name in names:
        if type(values[name]) not in (int, float) or not 0.0 <= values[name] < LARGEST_WEIGHT:
            raise DataError(
                f"{target}.{name}: must lie in 0..{LARGEST_WEIGHT:g}, not {str(values[name])[:40]}",
                where=str(path),
            )
    if not isinstance(values["fitted_to"], str):
        raise DataError(f"{target}.fitted_to: must be words", where=str(path))
    return MemoryModel(MemoryFacts(*(float(values[name]) for name in names)), values["fitted_to"])
