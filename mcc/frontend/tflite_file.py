"""From a .tflite file to a canonical graph, operator by operator.

The file states the shape of every value; each is compared with what the operator computes. What does not
depend on the input is decoded: sparse weights, half precision, stored integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from mcc.errors import DataError, MccError, UnsupportedError, UsageError

# The tables of rules register themselves when they are imported.
from mcc.frontend import tflite_arithmetic, tflite_shape, tflite_windows
from mcc.frontend.batch import Original
from mcc.frontend.emitter import Emitter
from mcc.frontend.tflite_comparison import verify_against_litert
from mcc.frontend.tflite_constants import Constants, short_name
from mcc.frontend.tflite_patterns import restore_hard_activations
from mcc.frontend.tflite_places import check_shape, cut_place, needed, place_of
from mcc.frontend.tflite_runner import runner
from mcc.frontend.tflite_table import RULES, SHAPE_INPUTS, Site
from mcc.frontend.tflite_values import Array, Values, View
from mcc.ir.graph import Graph, clean, inputs, output_node
from mcc.ir.interface import Interface, Port
from mcc.ir.limits import check_count
from mcc.ir.notes import annotate, shape_of
from mcc.lower.layout import image_or_plain
from mcc.lower.tflite.reader import TfliteModel, TfliteOperator, TfliteTensor, read_tflite

__all__ = ["TfliteRead", "read_tflite_graph", "tflite_arithmetic", "tflite_shape", "tflite_windows"]

_HINTS = {
    "ARG_MAX": "return the scores; positions are found outside the model",
    "ARG_MIN": "return the scores; positions are found outside the model",
    "TOPK_V2": "leave post-processing out of the model",
    "NON_MAX_SUPPRESSION_V4": "leave post-processing out of the model",
    "NON_MAX_SUPPRESSION_V5": "leave post-processing out of the model",
    "CUSTOM:TFLite_Detection_PostProcess": "leave post-processing out of the model",
}

_MISFITS = (ValueError, IndexError, KeyError, TypeError, ArithmeticError, RuntimeError)

FOLDED = ("DENSIFY", "DEQUANTIZE", "CAST", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS")
"""Operators that are evaluated on constants."""


@dataclass(frozen=True)
class TfliteRead:
    """What a file gives.

    Attributes:
        graph: canonical graph of declared batch 1; its output node notes the interface of the file.
        output_names: names of the outputs: their keys in the signature, else their tensors' names.
        original: the file, run by LiteRT.
        remarks: what was assumed.
    """

    graph: Graph
    output_names: tuple[str, ...]
    original: Original
    remarks: tuple[str, ...]


def read_tflite_graph(
    path: Path, input_shape: tuple[int, ...] | None = None, cut: Sequence[str] = ()
) -> TfliteRead:
    """Read a .tflite file into a canonical graph of declared batch 1, and compare it with LiteRT.

    Args:
        input_shape: shape of the only input in the axes of the graph, which must be the file's.
        cut: names of tensors, or of nodes of the graph, that become the outputs; none: the file's.

    Raises:
        DataError: the file is damaged, or states other shapes than its operators compute.
        UsageError: there is no such place to cut, or another input shape is asked for.
        UnsupportedError: an operator outside the canonical form, with its place and the cut that would work.
        VerificationError: the graph computes other numbers than LiteRT.
    """
    model = read_tflite(path)
    try:
        check_count(len(model.operators), "operators")
        return _Importer(model, path, cut).read(input_shape)
    except MccError as error:
        error.where = f"{path.name}: {error.where}" if error.where else path.name
        raise


class _Importer:
    """Walks the operators of a file; `views` maps tensors to computed values."""

    def __init__(self, model: TfliteModel, path: Path, cut: Sequence[str]) -> None:
        self.model = model
        self.path = path
        self.cut = cut
        self.returned = model.outputs if not cut else tuple(cut_place(model, name) for name in cut)
        if not model.inputs or not self.returned:
            raise UnsupportedError("the first subgraph has no input or no output", hint="mcc reads networks")
        self.batch = self._batch()
        self.emitter = Emitter(self.batch)
        self.values = Values(self.emitter, self.batch)
        self.constants = Constants(model, self.emitter)
        self.views: dict[int, View] = {}
        self.needed = needed(model, self.returned)
        self.readers: dict[int, list[TfliteOperator]] = {}
        for operator in self.needed:
            for index in operator.inputs:
                self.readers.setdefault(index, []).append(operator)

    def _batch(self) -> int:
        lengths: set[int] = set()
        for index in self.model.inputs:
            tensor = self.model.tensors[index]
            where = f"input {tensor.name}"
            check_shape(tensor, where)
            if tensor.dtype not in ("float32", "int8", "uint8") or (
                tensor.dtype != "float32" and tensor.quantisation is None
            ):
                raise UnsupportedError(
                    f"is {tensor.dtype}, but mcc reads float32 and quantised inputs of 8 bits", where=where,
                    hint="mcc inspect, bench and evaluate take the file",
                )  # fmt: skip
            if not tensor.shape:
                raise UnsupportedError("has no axes", where=where, hint="give it a batch axis 0")
            lengths.add(tensor.shape[0])
        if len(lengths) != 1:
            raise UnsupportedError(
                "the inputs do not share one batch length", hint="give each a batch axis 0"
            )
        return lengths.pop()

    # -- the walk ------------------------------------------------------------------------------------------

    def read(self, input_shape: tuple[int, ...] | None) -> TfliteRead:
        """Translate all operators that the outputs need, and check the numbers."""
        for index in self.model.inputs:
            self._input(index)
        for operator in self.needed:
            self._operator(operator)
        self.emitter.place = "outputs"
        found = [self._output(index) for index in self.returned]
        graph = self.emitter.finish([view.node for view in found])
        restore_hard_activations(graph)
        clean(graph)
        shapes = [shape_of(node) for node in inputs(graph)]
        if input_shape is not None and (len(shapes) != 1 or input_shape[1:] != shapes[0][1:]):
            raise UsageError(
                f"the file takes {' and '.join(str(list(shape)) for shape in shapes)}", where="--input-shape",
                hint="leave it out: a .tflite file states its shapes",
            )  # fmt: skip
        interface = self._interface()
        annotate(output_node(graph), interface=interface)
        original = runner(self.path, self.model, self.returned if self.cut else None, shapes)
        names = tuple(port.key or port.name for port in interface.outputs)
        verify_against_litert(graph, original, shapes, self.model, self.returned, self.needed)
        return TfliteRead(graph, names, original, self._remarks())

    def _input(self, index: int) -> None:
        tensor = self.model.tensors[index]
        layout = image_or_plain(len(tensor.shape))
        shape = [1] * len(tensor.shape)
        for place, axis in enumerate(layout.order):
            shape[axis] = tensor.shape[place] if place else 1
        self.emitter.hint = self.emitter.path = short_name(tensor.name)
        self.emitter.place = f"input {tensor.name}"
        node = self.emitter.builder.input(self.emitter.hint, tuple(shape))
        grid = self.constants.grid(tensor)
        self.views[index] = View(self.values.on_grid(node, grid), layout, True, grid)

    def _operator(self, operator: TfliteOperator) -> None:
        first = self.model.tensors[operator.outputs[0]]
        e = self.emitter
        e.hint, e.path = short_name(first.name or operator.code), first.name or operator.code
        e.place = place_of(self.model, operator)
        for index in operator.outputs:
            check_shape(self.model.tensors[index], e.place)
        computed = [index for index in operator.inputs if self._is_computed(index, operator)]
        if not computed:
            return self._fold(operator)
        rule = RULES.get(operator.code)
        if rule is None:
            self._refuse(operator)
        given = [self.views.get(index) for index in operator.inputs]
        try:
            found = rule(Site(self.values, self.constants, self.model, operator, given, self._only_reader))
        except UnsupportedError as error:
            error.hint = error.hint or self._cut_before(operator)
            raise
        except _MISFITS as error:  # operands and options that do not fit each other
            reason = (str(error).splitlines() or [""])[0][:200]
            raise DataError(
                f"has operands or options that do not fit ({type(error).__name__}: {reason})",
                where=e.place,
                hint="convert the model again",
            ) from error
        results = found if isinstance(found, list) else [found]
        self.views.update(zip(operator.outputs, results, strict=False))
        return None

    def _only_reader(self, operator: TfliteOperator) -> TfliteOperator | None:
        first = operator.outputs[0]
        readers = self.readers.get(first, [])
        return readers[0] if len(readers) == 1 and first not in self.returned else None

    def _is_computed(self, index: int, operator: TfliteOperator) -> bool:
        """Whether an input is a computed value. Raises DataError for one that nothing has computed yet."""
        if index < 0 or self.constants.raw(index) is not None:
            return False
        place = operator.inputs.index(index)
        if index in self.views or place in SHAPE_INPUTS.get(operator.code, ()):
            return index in self.views
        tensor = self.model.tensors[index]
        if tensor.stored_bytes:
            raise UnsupportedError(
                f"reads the constant {tensor.name} of type {tensor.dtype}", where=self.emitter.place,
                hint="store its weights as float32, float16 or int8",
            )  # fmt: skip
        if 0 in tensor.shape:
            return False
        raise DataError(
            f"reads {tensor.name or f'tensor {index}'}, which nothing computes before it",
            where=self.emitter.place,
            hint="convert the model again",
        )

    def _fold(self, operator: TfliteOperator) -> None:
        """Evaluate an operator on constants."""
        e, source = self.emitter, self.constants.raw(operator.inputs[0]) if operator.inputs else None
        if operator.code not in FOLDED or source is None:
            e.refuse(
                f"{operator.code} of constants is not supported",
                "convert the model again, with constants folded",
            )
        out = self.model.tensors[operator.outputs[0]]
        if math.prod(out.shape) != source.size:
            raise DataError(f"makes {list(out.shape)} of {list(source.shape)}", where=e.place)
        self.constants.folded_from.add(operator.inputs[0])
        self.constants.folded[out.index] = self._folded(operator, source, out)

    def _folded(self, operator: TfliteOperator, source: Array, out: TfliteTensor) -> Array:
        if operator.code == "DEQUANTIZE":
            tensor = self.model.tensors[operator.inputs[0]]
            return np.asarray(self.constants.values_of(tensor), np.float32).reshape(out.shape)
        if operator.code == "TRANSPOSE":
            perm = self.constants.raw(operator.inputs[1])
            if perm is None or sorted(perm.reshape(-1).tolist()) != list(range(source.ndim)):
                self.emitter.refuse("has no order of axes")
            return source.transpose(perm.reshape(-1).tolist())
        if operator.code == "CAST" and out.dtype not in ("float32", "int32", "int64"):
            self.emitter.refuse(f"makes {out.dtype} of a constant")
        return (
            source.astype(out.dtype).reshape(out.shape)
            if operator.code == "CAST"
            else source.reshape(out.shape)
        )

    def _output(self, index: int) -> View:
        view = self.views.get(index)
        if view is None:
            name = self.model.tensors[index].name
            self.emitter.refuse(
                f"{name} does not depend on the input", "return values computed from the input"
            )
        return self.values.settled(view)

    # -- refusals ------------------------------------------------------------------------------------------

    def _refuse(self, operator: TfliteOperator) -> NoReturn:
        why = _HINTS.get(operator.code)
        hint = "; ".join(text for text in (why, self._cut_before(operator)) if text)
        raise UnsupportedError(
            f"operator {operator.code.removeprefix('CUSTOM:')} is not supported",
            where=self.emitter.place,
            hint=hint,
        )

    def _cut_before(self, operator: TfliteOperator) -> str:
        """The --cut that ends the model before an operator: what is there for it, and the other outputs."""
        behind = set(operator.outputs)
        places = [
            index for index in operator.inputs if index in self.views and index not in self.model.inputs
        ]
        blocked = [operator]
        for later in self.needed[self.needed.index(operator) + 1 :]:
            if later.code not in RULES or any(index in behind for index in later.inputs):
                behind.update(later.outputs)
                blocked.append(later)
        made = {index for one in self.needed if one not in blocked for index in one.outputs}
        for one in blocked:
            places += [index for index in one.inputs if index in made]
        kept = [index for index in self.returned if index not in behind and index in made]
        names = [self.model.tensors[index].name for index in dict.fromkeys([*kept, *places])]
        if not names:
            return "there is nothing before it that could be kept"
        return "end before it: " + " ".join(f"--cut {name!r}" for name in names)

    # -- what comes with the graph -------------------------------------------------------------------------

    def _interface(self) -> Interface:
        key = next(iter(self.model.signatures), "")
        names: tuple[dict[str, int], dict[str, int]] = self.model.signatures.get(key, ({}, {}))
        keys = [{index: name for name, index in side.items()} for side in names]
        return Interface(
            tuple(self._port(index, keys[0]) for index in self.model.inputs),
            tuple(self._port(index, keys[1]) for index in self.returned),
            key,
            any(self.model.tensors[index].dtype == "float16" for index in self.constants.folded_from),
        )

    def _port(self, index: int, keys: dict[int, str]) -> Port:
        tensor = self.model.tensors[index]
        found = tensor.quantisation
        if tensor.dtype == "float32" or found is None:
            return Port(tensor.name, keys.get(index, ""))
        return Port(tensor.name, keys.get(index, ""), tensor.dtype, float(found.scale), found.zero_point)

    def _remarks(self) -> tuple[str, ...]:
        found: list[str] = []
        if self.batch != 1:
            found.append(f"{self.path.name} is for batches of {self.batch}; it is read for a batch of 1")
        if self.model.subgraphs > 1:
            key = next(iter(self.model.signatures), "")
            named = f", which has the signature {key}" if key else ""
            found.append(f"{self.path.name} has {self.model.subgraphs} subgraphs; the first is read{named}")
        for index in self.returned:
            if not self.views[index].batched:
                found.append(
                    f"output {self.model.tensors[index].name} has no batch axis in the file; in the graph, "
                    "and in files lowered from it, one of 1 comes first"
                )
        return tuple(found)
