"""ExecuTorch on this machine: the wheel's own runtime with its XNNPACK delegate."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np

from mcc.errors import TargetError
from mcc.flatc import HOW_TO_GET, read_json
from mcc.runtime.facts import TargetFacts
from mcc.runtime.host import HostTarget, LoadedModel
from mcc.runtime.samples import undisturbed_mean
from mcc.runtime.session import OpTime, TensorInfo
from mcc.runtime.target import Availability
from mcc.runtime.wire import Array

METHOD = "forward"
DTYPES = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 6: "float32", 7: "float64", 11: "bool"}
"""Dtype names by the enum values in `schema/scalar_type.fbs`."""

EVENTS_SCHEMA = "devtools/etdump/etdump_schema_flatcc.fbs"
EXECUTION = "Execute"  # the block of events of each inference
WHOLES = frozenset({"Method::execute", "DELEGATE_CALL", "OPERATOR_CALL"})  # they contain other events


class ExecuTorchModel(LoadedModel):
    """A program's `forward` method.

    Args:
        runtime: Extension module of the wheel.
    """

    def __init__(self, runtime: Any, file: Path, threads: int) -> None:
        # The thread pool belongs to the process: the last file loaded sets its size for all.
        runtime._unsafe_reset_threadpool(threads)
        self._runtime, self._file = runtime, file
        self._program = runtime._load_for_executorch(str(file))
        if METHOD not in self._program.method_names():
            raise TargetError(f"the program has no method {METHOD!r}", where=str(file))
        told = self._program.method_meta(METHOD)
        self.inputs = tuple(
            _tensor_info(f"input{i}", told.input_tensor_meta(i)) for i in range(told.num_inputs())
        )
        self.outputs = tuple(
            _tensor_info(f"output{i}", told.output_tensor_meta(i)) for i in range(told.num_outputs())
        )
        self._given: list[Any] = []
        self._results: list[Any] = []

    def set_inputs(self, arrays: Sequence[Array]) -> None:
        """Store the arrays as tensors."""
        import torch

        self._given = [torch.from_numpy(np.array(array, order="C")) for array in arrays]

    def invoke(self) -> None:
        """One inference."""
        self._results = self._program.run_method(METHOD, self._given, clone_outputs=False)

    def get_outputs(self) -> list[Array]:
        """Copies of the outputs, which are in the program's own memory."""
        return [result.numpy().copy() for result in self._results]

    def op_times(self, runs: int) -> list[OpTime]:
        """Times from ExecuTorch's event tracer: portable kernels; XNNPACK's operators in microseconds."""
        traced = self._runtime._load_for_executorch(str(self._file), enable_etdump=True)
        if not traced.has_etdump():
            raise TargetError("this build of ExecuTorch has no event tracer", hint=HOW_TO_GET)
        for _ in range(runs + 1):
            traced.run_method(METHOD, self._given, clone_outputs=False)
        with tempfile.TemporaryDirectory() as folder:
            dump = Path(folder) / "events.etdp"
            traced.write_etdump_result_to_file(str(dump))
            events = read_json(EVENTS_SCHEMA, dump.read_bytes(), size_prefixed=True)
        return op_times(events)


def op_times(dump: Mapping[str, Any]) -> list[OpTime]:
    """Undisturbed mean of each operator, in order of execution, without the first inference.

    Args:
        dump: ETDump in the form of its schema, with one block of events for each inference.

    Raises:
        TargetError: No operator was timed.
    """
    runs = [block["events"] for block in dump["run_data"] if block["name"] == EXECUTION][1:]
    durations: list[tuple[str, list[float]]] = []
    for events in runs:
        timed = [event["profile_event"] for event in events if event.get("profile_event")]
        own = [event for event in timed if _name(event) not in WHOLES]
        if not durations:
            durations = [(_name(event), []) for event in own]
        for (_, us), event in zip(durations, own, strict=True):
            us.append((int(event["end_time"]) - int(event["start_time"])) / 1e3)
    if not durations:
        raise TargetError("ExecuTorch timed no operator of the program")
    return [OpTime(name, name.rsplit(" #", 1)[0], undisturbed_mean(us)) for name, us in durations]


def _name(event: Mapping[str, Any]) -> str:
    """XNNPACK's name of an operator of the delegate, ExecuTorch's name of any other event."""
    return str(event.get("delegate_debug_id_str") or event.get("name") or "")


def _tensor_info(name: str, told: Any) -> TensorInfo:
    number = int(told.dtype())
    if number not in DTYPES:
        raise TargetError(f"{name!r} has the element type {number}, which cannot be handed over")
    return TensorInfo(name, tuple(int(size) for size in told.sizes()), DTYPES[number])


class ExecuTorchHost(HostTarget):
    """The runtime of ExecuTorch's wheel on this machine.

    Its extension module is loaded directly: `executorch.runtime` imports the exporter, which takes seconds.
    """

    name = "executorch-host"
    format = "pte"
    suffixes = (".pte",)
    runtime = "executorch"
    memory_runners = (
        1  # each imports PyTorch for two seconds; peaks of three differed by 1.5 % (1.5.1, 2026-11)
    )

    def available(self) -> Availability:
        """Whether ExecuTorch is installed."""
        if util.find_spec("executorch") is None:
            return Availability(False, "ExecuTorch is not installed", HOW_TO_GET)
        return Availability(True)

    def runtime_version(self) -> str:
        """Version of ExecuTorch."""
        return metadata.version("executorch")

    def facts(self) -> TargetFacts:
        """Facts: XNNPACK as in LiteRT; the delegate never takes its sparse path."""
        return TargetFacts(
            sparse_1x1=False,
            sparse_why="ExecuTorch's XNNPACK delegate has no sparse weights",
            sparse_block=1,
            channel_multiple=8,
            activation_dtype="int8",
            int8_io=True,
        )

    def start(self) -> None:
        """Load the runtime; it links against torch."""
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport]

        _extension()

    def load(self, file: Path, threads: int) -> ExecuTorchModel:
        """Load a program and initialise its method."""
        return ExecuTorchModel(_extension(), file, threads)


def _extension() -> Any:
    from executorch.extension.pybindings import _C  # pyright: ignore

    return _C


TARGET = ExecuTorchHost()
