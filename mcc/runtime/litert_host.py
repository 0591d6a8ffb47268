"""LiteRT on this machine: ai-edge-litert's interpreter, with XNNPACK as its default delegate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mcc.errors import TargetError
from mcc.runtime.facts import TargetFacts
from mcc.runtime.host import HostTarget, LoadedModel
from mcc.runtime.session import OpTime, TensorInfo
from mcc.runtime.target import Availability
from mcc.runtime.wire import Array


class LiteRtModel(LoadedModel):
    """A .tflite file in an interpreter."""

    def __init__(self, interpreter: Any, file: Path, threads: int, option: str | None) -> None:
        interpreter.allocate_tensors()
        self._file, self._threads, self._option = file, threads, option
        self._last_inputs: Sequence[Array] = ()
        self._interpreter = interpreter
        self._input_details: list[Any] = interpreter.get_input_details()
        self._output_details: list[Any] = interpreter.get_output_details()
        self.inputs = tuple(map(_tensor_info, self._input_details))
        self.outputs = tuple(map(_tensor_info, self._output_details))
        self.invoke = interpreter.invoke  # bound once, to avoid a Python frame in the timed loop

    def set_inputs(self, arrays: Sequence[Array]) -> None:
        """Copy the arrays into the interpreter."""
        self._last_inputs = arrays
        for array, detail in zip(arrays, self._input_details, strict=True):
            self._interpreter.set_tensor(detail["index"], array)

    def invoke(self) -> None:  # replaced for each instance in __init__
        """One inference."""
        self._interpreter.invoke()

    def get_outputs(self) -> list[Array]:
        """Copies of the outputs."""
        return [self._interpreter.get_tensor(detail["index"]) for detail in self._output_details]

    def op_times(self, runs: int) -> list[OpTime]:
        """Times from the profiler of LiteRT's C library, only with XNNPACK's kernels."""
        from mcc.runtime import litert_profile

        if self._option is not None:
            raise TargetError(
                "LiteRT gives per-operator times of XNNPACK's kernels only", hint="use `litert-host`"
            )
        return litert_profile.op_times(self._file, self._threads, self._last_inputs, runs)


def _tensor_info(detail: Mapping[str, Any]) -> TensorInfo:
    scale, zero_point = detail["quantization"]
    quantised = bool(scale) and np.dtype(detail["dtype"]).kind in "iu"
    return TensorInfo(
        str(detail["name"]),
        tuple(int(size) for size in detail["shape"]),
        np.dtype(detail["dtype"]).name,
        float(scale) if quantised else None,
        int(zero_point) if quantised else None,
    )


class LiteRtHost(HostTarget):
    """ai-edge-litert on this machine."""

    name = "litert-host"
    format = "tflite"
    suffixes = (".tflite",)
    runtime = "ai-edge-litert"
    options: ClassVar[Mapping[str, str]] = {
        "builtin": "LiteRT's own optimised kernels, without XNNPACK",
        "reference": "LiteRT's reference kernels: slow, for checking numbers",
    }

    def available(self) -> Availability:
        """Whether ai-edge-litert is installed."""
        if util.find_spec("ai_edge_litert") is None:
            return Availability(False, "ai-edge-litert is not installed", "pip install ai-edge-litert")
        return Availability(True)

    def runtime_version(self) -> str:
        """Version of ai-edge-litert."""
        return metadata.version("ai-edge-litert")

    def facts(self) -> TargetFacts:
        """Facts: XNNPACK has no sparse kernels for x86 processors with AVX; float tiles are 8 or 16 wide."""
        return TargetFacts(
            sparse_1x1=False,
            sparse_why="XNNPACK takes its sparse path on ARM64 and WebAssembly only, never on x86 with AVX",
            sparse_block=1,
            channel_multiple=8,
            activation_dtype="int8",
            int8_io=True,
        )

    def start(self) -> None:
        """Import the interpreter."""
        import ai_edge_litert.interpreter  # noqa: F401  # pyright: ignore[reportUnusedImport]

    def load(self, file: Path, threads: int) -> LiteRtModel:
        """Create an interpreter with the kernels of the option."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = {
            None: OpResolverType.AUTO,
            "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": OpResolverType.BUILTIN_REF,
        }[self.option]
        interpreter = Interpreter(str(file), num_threads=threads, experimental_op_resolver_type=resolver)
        return LiteRtModel(interpreter, file, threads, self.option)


TARGET = LiteRtHost()
