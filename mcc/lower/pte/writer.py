"""Lowering a canonical graph in deployment form into an ExecuTorch program (`.pte`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import fx

from mcc import flatc
from mcc.errors import UnsupportedError, UsageError
from mcc.files import write_bytes
from mcc.lower.pte import translate_elementwise, translate_shape, translate_windows
from mcc.lower.pte.delegate import XnnValue
from mcc.lower.pte.program import Port, write_program
from mcc.lower.pte.translation import TRANSLATIONS, Translation
from mcc.lower.tflite.metadata import Normalisation
from mcc.lower.tflite.reader import TfliteModel, read_tflite
from mcc.lower.tflite.writer import to_tflite

log = logging.getLogger(__name__)

# Importing these registers their functions.
TRANSLATION_FILES = (translate_elementwise, translate_shape, translate_windows)

Via = Literal["auto", "direct", "export"]
Interface = Literal["float", "int8"]
Answers = dict[str, str | list[float]]
VIAS = ("auto", "direct", "export")
TO_IMAGE, FROM_IMAGE = (0, 2, 3, 1), (0, 3, 1, 2)


def to_pte(
    graph: fx.GraphModule,
    *,
    labels: Sequence[str] | None = None,
    normalisation: Normalisation | None = None,
    judged: int = 0,
    via: Via = "auto",
    io: Interface = "float",
) -> bytes:
    """Lower a graph and return the bytes of the program; its method is `forward`.

    Inputs and outputs have the shapes of the graph (NCHW), as a program exported from PyTorch has. Labels and
    normalisation become constant methods: `labels` answers a JSON list, `normalisation_mean` and
    `normalisation_deviation` numbers for 0..255 pixels.

    Args:
        graph: canonical graph in deployment form, float or with fake quantisations.
        labels: class names in the order of the output `judged`.
        normalisation: what the app does to 0..255 pixels before the first input.
        judged: place of the output that the labels are of, the answer of `labelled_output` unless it is
            the first.
        via: `direct`: XNNPACK's graph written from the operators of the TFLite lowering, in one delegate,
            with LiteRT's arithmetic; `export`: `torch.export` and ExecuTorch's own XNNPACK partitioner;
            `auto`: the first, or the second where XNNPACK lacks an operator.
        io: `int8`: inputs and outputs lie as XNNPACK has them (NHWC), those that a fake quantisation reads or
            writes as int8; for micro-models, whose conversions nobody wants to time. Only `direct` writes it.

    Raises:
        UnsupportedError: an operator without a form in ExecuTorch, named.
        UsageError: an unknown option.
        TargetError: ExecuTorch is not installed.
    """
    if via not in VIAS or io not in ("float", "int8") or (io == "int8" and via == "export"):
        raise UsageError(f"via={via!r}, io={io!r}: not an option of the ExecuTorch writer")
    flatc.wheel()
    answers = _answers(labels, normalisation, judged)
    if via == "export":
        from mcc.lower.pte.exported import export_pte

        return export_pte(graph, answers)
    try:
        return translate(read_tflite(to_tflite(graph, io=io)), answers, images=io == "float")
    except UnsupportedError as error:
        if via == "direct" or io == "int8":
            raise
        log.info("through torch.export, since %s", error)
        from mcc.lower.pte.exported import export_pte

        return export_pte(graph, answers)


def write_pte(graph: fx.GraphModule, path: Path | str, **options: Any) -> Path:
    """Lower a graph into a file, written whole or not at all; options as in `to_pte`.

    Raises:
        DataError: the file cannot be written.
        UnsupportedError, UsageError, TargetError: as `to_pte`.
    """
    path = Path(path)
    write_bytes(path, to_pte(graph, **options))
    return path


def translate(model: TfliteModel, answers: Answers, *, images: bool) -> bytes:
    """A TFLite model as an ExecuTorch program of one delegate.

    Args:
        images: whether values of rank 4 go in and out as NCHW, as PyTorch has them.

    Raises:
        UnsupportedError: an operator that XNNPACK's delegate lacks.
        TargetError: ExecuTorch is not installed.
    """
    t = Translation(model)
    given: list[XnnValue] = []
    for tensor in (model.tensors[index] for index in model.inputs):
        outside = images and len(tensor.shape) == 4
        shape = tuple(tensor.shape[axis] for axis in FROM_IMAGE) if outside else tensor.shape
        if tensor.dtype not in ("float32", "int8"):
            raise UnsupportedError(f"takes {tensor.dtype}, which the delegate does not", where=tensor.name)
        given.append(t.xnn.value(shape, tensor.dtype, tensor.quantisation))
        t.values[tensor.index] = t.transpose(given[-1], TO_IMAGE) if outside else given[-1]
    for op in model.operators:
        if model.constant(op.outputs[0]) is None:
            emit = TRANSLATIONS.get(op.code)
            if emit is None:
                raise t.refused(op, "has no form in XNNPACK's delegate")
            t.values[op.outputs[0]] = emit(t, op)
    returned = _returned(t, model, given, images)
    delegate = t.xnn.finish(given, returned)
    inputs, outputs = ([Port(v.shape, v.dtype) for v in values] for values in (given, returned))
    return write_program(delegate, t.xnn.constants, inputs, outputs, answers)


def _returned(t: Translation, model: TfliteModel, given: list[XnnValue], images: bool) -> list[XnnValue]:
    """The values that leave the delegate: each once, none that came in, none constant."""
    taken = {value.index for value in given}
    computed = {index for op in model.operators for index in op.outputs}
    found: list[XnnValue] = []
    for index in model.outputs:
        value = t.read(index)
        if images and len(value.shape) == 4:
            value = t.transpose(value, FROM_IMAGE)
        if value.index in taken or index not in computed:
            value = t.copy(value)
        taken.add(value.index)
        found.append(value)
    return found


def _answers(labels: Sequence[str] | None, normalisation: Normalisation | None, judged: int) -> Answers:
    answers: Answers = {}
    if labels is not None:
        answers["labels"] = json.dumps(list(labels), ensure_ascii=False)
    if normalisation is not None:
        answers["normalisation_mean"] = [float(value) for value in normalisation.mean]
        answers["normalisation_deviation"] = [float(value) for value in normalisation.deviation]
        if normalisation.more:
            answers["preprocessing"] = json.dumps(normalisation.more)
    if judged:
        answers["labelled_output"] = [float(judged)]
    return answers
