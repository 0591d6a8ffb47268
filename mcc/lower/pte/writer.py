"""Lowering of a canonical graph in deployment form to an ExecuTorch program (`.pte`)."""

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

    Inputs and outputs have the shapes of the graph (NCHW), as in a program exported from PyTorch. Labels and
    normalisation become constant methods: `labels` returns a JSON list, `normalisation_mean` and
    `normalisation_deviation` return numbers for 0..255 pixels.

    Args:
        graph: Canonical graph in deployment form, float or with fake quantisation.
        labels: Class names in the order of the output `judged`.
        normalisation: Preprocessing of 0..255 pixels by the app before the first input.
        judged: Index of the output with the scores of the labels, returned by the constant method
            `labelled_output` unless it is the first.
        via: `direct`: XNNPACK's graph written from the operators of the TFLite lowering, in one delegate,
            with LiteRT's arithmetic; `export`: `torch.export` and ExecuTorch's own XNNPACK partitioner;
            `auto`: the first, or the second where XNNPACK lacks an operator.
        io: `int8`: inputs and outputs have XNNPACK's layout (NHWC), and are int8 where a fake quantisation
            reads or writes them; for micro-models, to exclude conversions from timing. Only with `direct`.

    Raises:
        UnsupportedError: An operator has no form in ExecuTorch; the message names it.
        UsageError: An option is unknown.
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
    """Lower a graph to a file, written atomically; options as in `to_pte`.

    Raises:
        DataError: The file cannot be written.
        UnsupportedError, UsageError, TargetError: As in `to_pte`.
    """
    path = Path(path)
    write_bytes(path, to_pte(graph, **options))
    return path


def translate(model: TfliteModel, answers: Answers, *, images: bool) -> bytes:
    """A TFLite model as an ExecuTorch program of one delegate.

    Args:
        images: Whether inputs and outputs of rank 4 are NCHW, as in PyTorch.

    Raises:
        UnsupportedError: XNNPACK's delegate lacks an operator.
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
    """The outputs of the delegate: distinct values, none of them an input or a constant."""
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
