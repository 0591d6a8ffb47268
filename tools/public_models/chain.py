"""Run one architecture through the complete toolchain: capture, verified passes, lowering, running the files.

    python -m tools.public_models.chain tv/resnet18

prints a JSON object for every stage as it ends, so that a crash only loses the stages after it.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mcc.analysis.channel_groups import ChannelAnalysis, analyse_channels
from mcc.errors import MccError, Refusal, VerificationError
from mcc.frontend import capture
from mcc.ir.graph import Graph, calls, constant, constants, outputs, run
from mcc.ir.notes import note, shape_of
from mcc.pass_api import PassContext
from mcc.pipeline import Pipeline
from mcc.quant.simulator import simulate
from mcc.report.compare import compare_outputs
from mcc.report.measure import as_graph, as_stored, channels_last
from mcc.runtime.registry import get_target
from tools.public_models.catalogue import ALL, Architecture

DEPLOYMENT = "-O2"
PRUNING = "prune-channels{keep=0.5}"
SPARSITY = "sparsify-1x1{sparsity=0.7}"
LOW_RANK = "factorize-1x1{rank=0.5}"
INT8 = "insert-qdq"
LEAST_PRUNED = 0.4  # of the prunable parameters, by the zoo's definition of "pruned"
SAMPLES = 4
TWO_ROUNDINGS_DB = 10 * math.log10(2)

Array = np.ndarray[Any, Any]
Report = Callable[[str, Mapping[str, Any]], None]


@dataclass
class Chain:
    """State of one run.

    Attributes:
        report: Receives each stage's result.
        worst: Largest difference from an exact twin so far, as a share of the output range.
        values: One random batch for each input.
        variants: Graphs to lower, by name.
        int8_signal_db: Signal-to-noise ratio of the quantised graph against the float one.
    """

    architecture: Architecture
    folder: Path
    report: Report
    worst: float = 0.0
    values: list[torch.Tensor] = field(default_factory=list)
    variants: dict[str, Graph] = field(default_factory=dict)
    int8_signal_db: float = 0.0

    def run(self, only_pruning: bool) -> None:
        """Run all stages; each reports success or one sentence."""
        graph = self._stage("captured", self._capture)
        if graph is None:
            return
        self._stage("groups", lambda: self._groups(graph))
        deployed = self._stage("deployed", lambda: self._through(DEPLOYMENT, graph))
        if deployed is None:
            return
        pruned = self._stage("pruned", lambda: self._prune(deployed))
        self.report("twin", {"worst": self.worst})
        if only_pruning:
            return
        base = pruned if pruned is not None else deployed
        self.variants["float"] = base
        self._stage("sparse", lambda: self._thin(base, SPARSITY, "sparse"))
        self._stage("low-rank", lambda: self._thin(base, LOW_RANK, "low-rank"))
        self._stage("int8", lambda: self._quantise(base))
        self.report("twin", {"worst": self.worst})
        for form in ("tflite", "onnx"):
            self._stage(form, lambda form=form: self._lowered(form))

    def _stage(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        self.report(name, {"state": "begun"})
        try:
            result = work()
        except MccError as error:
            self.report(name, {"state": "refused", "why": str(error), "kind": error.code})
            return None
        except Exception as error:  # this tool searches for crashes
            where = _innermost(error)
            self.report(
                name, {"state": "failed", "why": f"{type(error).__name__} at {where}: {str(error)[:300]}"}
            )
            return None
        detail = result if isinstance(result, dict) else {}
        self.report(name, {"state": "ok", "seconds": time.process_time() - start, **detail})
        return result

    def _capture(self) -> Graph:
        module = self.architecture.build()
        graph = capture(module, (torch.zeros(self.architecture.shape),), self.architecture.cut)
        generator = torch.Generator().manual_seed(2)
        self.values = [torch.randn((SAMPLES, *self.architecture.shape[1:]), generator=generator)]
        return graph

    def _groups(self, graph: Graph) -> dict[str, Any]:
        analysis = analyse_channels(graph)
        return {
            "groups": len(analysis.groups), "prunable": len(analysis.prunable()),
            "parameters": sum(value.numel() for value in constants(graph).values()),
        }  # fmt: skip

    def _through(self, text: str, graph: Graph) -> Graph:
        """Run a pipeline, verified; its largest difference from the twins is recorded."""
        result = Pipeline.parse(text).run(graph, PassContext(tuple(self.values)))
        self.worst = max(self.worst, *(report.worst or 0.0 for report in result.reports), 0.0)
        return result.graph

    def _prune(self, graph: Graph) -> Graph:
        before = analyse_channels(graph)
        total = prunable_parameters(graph, before)
        size = sum(value.numel() for value in constants(graph).values())
        pruned = self._through(PRUNING, graph)
        gone = size - sum(value.numel() for value in constants(pruned).values())
        share = gone / total if total else 0.0
        self.report("pruned", {"share": share, "of_all": gone / size})
        if share < LEAST_PRUNED:
            frozen = [group for group in before.groups if group.frozen]
            widest = max(frozen, key=lambda group: (group.width, group.name), default=None)
            why = widest.frozen if widest else "no group of channels was found"
            raise Refusal(f"{share:.0%} of {total} prunable parameters went: {why}")
        return pruned

    def _thin(self, graph: Graph, text: str, name: str) -> dict[str, Any]:
        thinned = self._through(text, graph)
        noted = [n for n in calls(thinned) if note(n).sparse is not None or note(n).rank is not None]
        if noted:
            self.variants[name] = thinned
        return {"layers": len(noted)}

    def _quantise(self, graph: Graph) -> dict[str, Any]:
        quantised = self._through(INT8, graph)
        self.variants["int8"] = quantised
        wanted = numbers(run(graph, *self.values))
        result = compare_outputs(self._integer("tflite"), wanted, integer=False)
        self.int8_signal_db = math.inf if result.sqnr_db is None else result.sqnr_db
        if result.worst is None or self.int8_signal_db <= 0:
            raise VerificationError(f"nothing is left but noise ({self.int8_signal_db:.0f} dB)")
        return {
            "quantisers": len(calls(quantised, "fake_quantize")),
            "signal_db": round(self.int8_signal_db, 1),
        }

    def _lowered(self, form: str) -> dict[str, Any]:
        """Write every variant, run it in its runtime, and compare it with the graph."""
        found: dict[str, Any] = {}
        for name, graph in self.variants.items():
            got = run_in_runtime(graph, form, self.folder / f"{name}.{form}", self.values)
            wanted = self._integer(form) if name == "int8" else numbers(run(graph, *self.values))
            result = compare_outputs(got, wanted, integer=False)
            found[name] = {"worst": result.worst, "equal": result.equal, "sqnr_db": result.sqnr_db}
            agrees = self._close_enough(result.sqnr_db) if name == "int8" else result.passed
            if result.worst is None or not agrees:
                noise = "" if result.sqnr_db is None else f", {result.sqnr_db:.0f} dB over the difference"
                raise VerificationError(f"{name}: differs by {result.worst} of the output range{noise}")
        return {"variants": found}

    def _integer(self, form: str) -> list[Array]:
        """Results of the integer simulator for the quantised graph, rounded as in the format's runtime."""
        flavour = "xnnpack" if form == "tflite" else "onnxruntime"
        return numbers(simulate(self.variants["int8"], self.values, flavour=flavour))

    def _close_enough(self, signal_db: float | None) -> bool:
        """Whether an int8 file is as close to the simulator as rounding allows.

        Some operators between integer ones are computed in float, in another order of sums than here: a value
            next to the
        border of two steps may be rounded either way, and all subsequent values are rounded again. Two
        independent roundings
        each differ from the float graph by the energy of the quantisation noise, and from each other by twice
            that: 3 dB. If
        all operators are integer, both are bit-exact.
        """
        return signal_db is None or signal_db >= self.int8_signal_db - TWO_ROUNDINGS_DB


def run_in_runtime(graph: Graph, form: str, file: Path, values: Sequence[torch.Tensor]) -> list[Array]:
    """Outputs of a graph lowered to `tflite` or `onnx`, run in this process."""
    if form == "tflite":
        from mcc.lower.tflite.writer import write_tflite

        write_tflite(graph, file)
    else:
        from mcc.lower.onnx.writer import write_onnx

        write_onnx(graph, file)
    target: Any = get_target("litert-host" if form == "tflite" else "ort-host")
    target.start()
    model = target.load(file, 1)
    last = channels_last(file)
    parts: list[list[Array]] = []
    for index in range(len(values[0])):
        sample = [value[index : index + 1].numpy() for value in values]
        inputs = zip(sample, model.inputs, strict=True)
        model.set_inputs([as_stored(value, info, last=last) for value, info in inputs])
        model.invoke()
        parts.append([np.array(value) for value in model.get_outputs()])
    file.unlink()
    shapes = [shape_of(node) for node in outputs(graph)]
    joined = [np.concatenate([part[i] for part in parts]) for i in range(len(shapes))]
    return [as_graph(value, shape, last=last) for value, shape in zip(joined, shapes, strict=True)]


def prunable_parameters(graph: Graph, analysis: ChannelAnalysis) -> int:
    """Number of elements of constants that a removable channel produces, reads or carries."""
    free = analysis.mask([label for group in analysis.prunable() for label in group.classes])
    total = 0
    for name in constants(graph):
        value = constant(graph, name)
        bound = analysis.bound(name)
        held = [int((~free[bound[axis]]).sum()) if axis in bound else n for axis, n in enumerate(value.shape)]
        total += value.numel() - int(np.prod(held)) if bound else 0
    return total


def numbers(values: Sequence[torch.Tensor]) -> list[Array]:
    """Tensors as arrays."""
    return [value.detach().numpy() for value in values]


def _innermost(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def run_chain(name: str, only_pruning: bool, report: Report) -> None:
    """Run all stages for the architecture of that name; reports time and memory."""
    torch.set_num_threads(1)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        Chain(ALL[name], Path(folder), report).run(only_pruning)
    report("end", {"seconds": time.process_time() - start, "peak_bytes": peak_bytes()})


def serve(name: str, only_pruning: bool, sink: Connection, complaints: str) -> None:
    """Run in a separate process; results go into the connection, output of libraries into a file."""
    descriptor = os.open(complaints, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    run_chain(name, only_pruning, lambda stage, result: sink.send((stage, dict(result))))


def main() -> None:
    """Run the architecture named on the command line."""
    run_chain(
        sys.argv[1],
        "--pruning" in sys.argv[2:],
        lambda stage, result: print(json.dumps({"stage": stage, **result}), flush=True),
    )


if __name__ == "__main__":
    main()
