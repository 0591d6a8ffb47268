"""onnxruntime on this machine: the CPU provider, with its precise or its fast int8 kernels."""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mcc.errors import TargetError
from mcc.runtime.facts import ONNXRUNTIME_CPU, TargetFacts
from mcc.runtime.host import HostTarget, LoadedModel
from mcc.runtime.processor import processor_flags
from mcc.runtime.samples import undisturbed_mean, undisturbed_runs
from mcc.runtime.session import OpTime, TensorInfo
from mcc.runtime.target import Availability
from mcc.runtime.wire import Array

PRECISE_KEY = "session.x64quantprecision"  # "1": 16-bit intermediate sums of u8 x s8 products cannot saturate
VNNI_FLAGS = frozenset({"avx512_vnni", "avx_vnni"})
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OrtModel(LoadedModel):
    """An .onnx or .ort file in an inference session."""

    def __init__(self, file: Path, options: Any) -> None:
        self._file, self._options = file, options
        self._session = _session(file, options)
        self.inputs = tuple(map(_tensor_info, self._session.get_inputs()))
        self.outputs = tuple(map(_tensor_info, self._session.get_outputs()))
        self._names = [info.name for info in self.outputs]
        self._feed: dict[str, Array] = {}
        self._results: list[Array] = []

    def set_inputs(self, arrays: Sequence[Array]) -> None:
        """Store the arrays; onnxruntime reads them in place."""
        self._feed = {info.name: array for info, array in zip(self.inputs, arrays, strict=True)}

    def invoke(self) -> None:
        """One inference."""
        self._results = self._session.run(self._names, self._feed)

    def get_outputs(self) -> list[Array]:
        """The outputs; onnxruntime allocates new ones for every inference."""
        return self._results

    def op_times(self, runs: int) -> list[OpTime]:
        """Times from onnxruntime's own profile: kernels by node name, over undisturbed runs."""
        with tempfile.TemporaryDirectory() as folder:
            self._options.enable_profiling = True
            self._options.profile_file_prefix = str(Path(folder) / "ops")
            session = _session(self._file, self._options)
            for _ in range(runs + 1):
                session.run(self._names, self._feed)
            events = json.loads(Path(session.end_profiling()).read_text())
        return kernel_times(events)


def sums_saturate() -> bool:
    """Whether onnxruntime's fastest int8 kernels on this processor use 16-bit sums that saturate."""
    return platform.machine() == "x86_64" and not VNNI_FLAGS & processor_flags()


def _session(file: Path, options: Any) -> Any:
    import onnxruntime as ort

    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def kernel_times(events: Sequence[Mapping[str, Any]]) -> list[OpTime]:
    """Mean of each node's kernel over the undisturbed runs, in order of execution, without the first run."""
    durations: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["name"].removesuffix("_kernel_time"), event["args"]["op_name"])
            durations.setdefault(key, []).append(float(event["dur"]))
    totals = [sum(run) for run in zip(*durations.values(), strict=False)]  # nodes may share a name
    undisturbed = [1 + index for index in undisturbed_runs(totals[1:])]
    return [
        OpTime(name, kind, undisturbed_mean([us[run] for run in undisturbed]))
        for (name, kind), us in durations.items()
    ]


def _tensor_info(value: Any) -> TensorInfo:
    """Type of a value; dynamic axes (the batch, if any) become 1."""
    shape = tuple(size if isinstance(size, int) else 1 for size in value.shape)
    if value.type not in DTYPES:
        raise TargetError(f"{value.name!r} has the type {value.type}, which cannot be handed over")
    return TensorInfo(value.name, shape, np.dtype(DTYPES[value.type]).name)


class OrtHost(HostTarget):
    """onnxruntime's CPU provider on this machine.

    Without VNNI, the int8 kernels chosen by onnxruntime add u8 x s8 products in 16 bits, which saturate and
    give wrong results; the precise kernels are then the default. With VNNI nothing saturates (outputs are
    bit-equal), and the precise kernels only take more time: int8 convolutions took 1.1 to 1.5 times as long
    as float with them, half as long as float without (Xeon with AVX512-VNNI, onnxruntime 1.32, 2026-11).
    Accuracy and latency are always measured with the same kernels.
    """

    name = "ort-host"
    format = "onnx"
    suffixes = (".onnx", ".ort")
    runtime = "onnxruntime"
    options: ClassVar[Mapping[str, str]] = {
        "precise": "int8 kernels that cannot saturate; the default on processors without VNNI",
        "fast": "int8 kernels as onnxruntime chooses them; the default on processors with VNNI",
    }

    def is_precise(self) -> bool:
        """Whether int8 uses the kernels that cannot saturate on any processor."""
        return self.option == "precise" if self.option is not None else sums_saturate()

    def int8_saturates(self, suffix: str) -> bool:
        """True without VNNI for the fast kernels and for .ort files (kernels are fixed when written)."""
        return sums_saturate() and (suffix == ".ort" or not self.is_precise())

    def available(self) -> Availability:
        """Whether onnxruntime is installed."""
        if util.find_spec("onnxruntime") is None:
            return Availability(False, "onnxruntime is not installed", "pip install onnxruntime")
        return Availability(True)

    def runtime_version(self) -> str:
        """Version of onnxruntime."""
        return metadata.version("onnxruntime")

    def facts(self) -> TargetFacts:
        """Facts: no sparse kernels; float convolutions use blocks of 8 or 16 channels (NCHWc)."""
        return ONNXRUNTIME_CPU

    def start(self) -> None:
        """Import onnxruntime."""
        import onnxruntime  # noqa: F401  # pyright: ignore[reportUnusedImport]

    def load(self, file: Path, threads: int) -> OrtModel:
        """Open a session with that many intra-operator threads, one operator at a time."""
        import onnxruntime as ort

        options: Any = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self.is_precise():
            options.add_session_config_entry(PRECISE_KEY, "1")
        return OrtModel(file, options)


TARGET = OrtHost()
