"""Per-operator times of LiteRT, from the profiler of its C library, which has no Python interface.

XNNPACK names the kernel that ran ("Convolution (NHWC, F32) GEMM", "... SPMM"), so a profile also shows which
kernels a file actually uses. The C interface is not stable: the tested versions of the library are listed
below, others are refused. It runs in a worker process, so an error cannot crash the caller. XNNPACK calls a
1x1 convolution "Fully Connected".

Source of the calls and of the event's layout: litert/c/*.h of github.com/google-ai-edge/LiteRT.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from mcc.errors import TargetError
from mcc.runtime.samples import undisturbed_mean, undisturbed_runs
from mcc.runtime.session import OpTime
from mcc.runtime.wire import Array

TRIED = ("2.3.",)  # prefixes of versions of ai-edge-litert
ON_CPU = 1
LOCK_TO_WRITE = 1
BEGIN_OF_RUN = b"LiteRT::Run[buffer registration]"
OPERATOR, DELEGATE_OPERATOR, DELEGATE_PROFILED = 2, 4, 8  # event types of single operators
EVENTS_ROOM = 1 << 20  # more than the events of any model's run; guards against a wrong layout

Handle = ctypes.c_void_p


class ProfilerEvent(ctypes.Structure):
    """`ProfiledEventData` of LiteRT 2.3."""

    _fields_: ClassVar[Sequence[Any]] = [
        ("tag", ctypes.c_char_p),
        ("event_type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_int64 * 6),
        ("node", ctypes.c_uint64),
        ("metadata", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


class Library:
    """libLiteRt.so; a call that fails raises TargetError with its name and status."""

    def __init__(self) -> None:
        import ai_edge_litert

        version = metadata.version("ai-edge-litert")
        if not version.startswith(TRIED):
            raise TargetError(f"the profiler of ai-edge-litert {version} was never tried", hint="use 2.3")
        self._library = ctypes.CDLL(str(Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"))

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function that returns a status."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise TargetError(f"{name} of LiteRT failed with status {status}")

    def make(self, name: str, *arguments: Any) -> Handle:
        """Call a function whose last argument is a pointer to its result."""
        result = Handle()
        self.call(name, *arguments, ctypes.byref(result))
        return result


def op_times(file: Path, threads: int, inputs: Sequence[Array], runs: int) -> list[OpTime]:
    """Mean microseconds of every operator of XNNPACK or LiteRT, in order; single runs have whole ones.

    Args:
        file: Path of a .tflite file.
        threads: Threads of XNNPACK.
        inputs: Arrays of the file's shapes and dtypes.
        runs: Number of timed inferences, after two for warm-up.

    Raises:
        TargetError: The library has another version, or a call failed.
    """
    library = Library()
    keep: list[Any] = []  # objects referenced by the library until the last run
    model, compiled, environment = _compile(library, file, threads, keep)
    feeds = [
        _buffer(library, environment, model, compiled, "Input", index, array)
        for index, array in enumerate(inputs)
    ]
    count = ctypes.c_size_t()
    subgraph = library.make("LiteRtGetModelSubgraph", model, ctypes.c_size_t(0))
    library.call("LiteRtGetNumSubgraphOutputs", subgraph, ctypes.byref(count))
    results = [
        _buffer(library, environment, model, compiled, "Output", index, None) for index in range(count.value)
    ]
    packed = [(Handle * len(group))(*[buffer.value for buffer in group]) for group in (feeds, results)]

    def run() -> None:
        sizes = [ctypes.c_size_t(len(group)) for group in packed]
        signature = ctypes.c_size_t(0)
        library.call("LiteRtRunCompiledModel", compiled, signature, sizes[0], packed[0], sizes[1], packed[1])

    profiler = library.make("LiteRtCompiledModelGetProfiler", compiled)
    run()
    run()
    library.call("LiteRtStartProfiler", profiler)
    for _ in range(runs):
        run()
    library.call("LiteRtStopProfiler", profiler)
    return typical(_events(library, profiler), runs)


def _compile(library: Library, file: Path, threads: int, keep: list[Any]) -> tuple[Handle, Handle, Handle]:
    """Model, compiled model and environment, with profiling on."""
    environment = library.make("LiteRtCreateEnvironment", 0, None)
    model = library.make("LiteRtCreateModelFromFile", environment, str(file).encode())
    options = library.make("LiteRtCreateOptions")
    library.call("LiteRtSetOptionsHardwareAccelerators", options, ON_CPU)
    for name, text in (
        (b"runtime_options_string", b"enable_profiling = true\n"),
        (b"xnnpack", f"num_threads = {threads}\n".encode()),
    ):
        payload = ctypes.create_string_buffer(text)
        nothing_to_free = ctypes.CFUNCTYPE(None, Handle)(_leave)
        keep += [payload, nothing_to_free]
        opaque = library.make("LiteRtCreateOpaqueOptions", name, payload, nothing_to_free)
        library.call("LiteRtAddOpaqueOptions", options, opaque)
    return model, library.make("LiteRtCreateCompiledModel", environment, model, options), environment


def _leave(_: Any) -> None:
    """Deallocator that does nothing: Python owns the memory."""


def _buffer(
    library: Library,
    environment: Handle,
    model: Handle,
    compiled: Handle,
    side: str,
    index: int,
    array: Array | None,
) -> Handle:
    """A tensor buffer for one input or output, filled with `array` if given."""
    zero, place = ctypes.c_size_t(0), ctypes.c_size_t(index)
    subgraph = library.make("LiteRtGetModelSubgraph", model, zero)
    tensor = library.make(f"LiteRtGetSubgraph{side}", subgraph, place)
    tensor_type = ctypes.create_string_buffer(512)  # opaque; 80 bytes in 2.3
    library.call("LiteRtGetRankedTensorType", tensor, tensor_type)
    needs = library.make(f"LiteRtGetCompiledModel{side}BufferRequirements", compiled, zero, place)
    made = library.make("LiteRtCreateManagedTensorBufferFromRequirements", environment, tensor_type, needs)
    if array is not None:
        address = Handle()
        library.call("LiteRtLockTensorBuffer", made, ctypes.byref(address), LOCK_TO_WRITE)
        data = array.tobytes()
        assert address.value is not None
        ctypes.memmove(address.value, data, len(data))
        library.call("LiteRtUnlockTensorBuffer", made)
    return made


def _events(library: Library, profiler: Handle) -> list[tuple[bytes, int, int]]:
    """Tag, type and microseconds of all events, in order of time."""
    count = ctypes.c_int()
    library.call("LiteRtGetNumProfilerEvents", profiler, ctypes.byref(count))
    if not 0 <= count.value <= EVENTS_ROOM:
        raise TargetError(f"LiteRT reports {count.value} profiler events")
    events = (ProfilerEvent * max(1, count.value))()
    library.call("LiteRtGetProfilerEvents", profiler, count, events)
    return [(event.tag or b"", event.event_type, event.elapsed_us) for event in events[: count.value]]


def typical(events: Sequence[tuple[bytes, int, int]], runs: int) -> list[OpTime]:
    """Operators in order of execution, with their mean over the undisturbed runs.

    Args:
        events: Tag, type and microseconds, in order of time.

    Raises:
        TargetError: The number of runs differs, or runs have different operators.
    """
    series: list[list[tuple[str, int]]] = []
    for tag, kind, us in events:
        if tag == BEGIN_OF_RUN:
            series.append([])
        operator = kind in (DELEGATE_OPERATOR, DELEGATE_PROFILED) or (
            kind == OPERATOR and b"Delegate" not in tag  # the delegate's own operators follow individually
        )
        if operator and series:
            series[-1].append((tag.decode(errors="replace"), us))
    kinds = {tuple(kind for kind, _ in run) for run in series}
    if len(series) != runs or len(kinds) != 1:
        raise TargetError(
            f"LiteRT profiled {len(series)} of {runs} runs, with {len(kinds)} lists of operators"
        )
    undisturbed = [series[index] for index in undisturbed_runs([sum(us for _, us in run) for run in series])]
    return [
        OpTime(str(index), column[0][0], undisturbed_mean([us for _, us in column]))
        for index, column in enumerate(zip(*undisturbed, strict=True))
    ]
