"""Client of a runner process: requests with a time limit, and errors for crashes."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mcc.errors import MccError, TargetError, UsageError
from mcc.runtime.session import OpTime, Runner, RunnerSource, Session, TensorInfo
from mcc.runtime.wire import Array, Header, encode, read_message

LOAD_LIMIT_S = 300.0  # a load compiles and packs weights; seconds even for large models
RUN_LIMIT_S = 300.0  # of one request: an inference, a turn, or a chunk of images
CHUNK_BYTES = 32 << 20  # of images in one message: bounds memory, amortises the cost of a message
PIPE_BYTES = 1 << 20  # of images in the pipe; Linux's default of 64 KiB costs a context switch each
MEMORY_RUNS = 10  # inferences before the peak is read


def python_worker(spec: str) -> list[str]:
    """Command of a worker for a target with a Python interface; its path excludes the working folder."""
    return [sys.executable, "-P", "-m", "mcc.runtime.worker", spec]


class ProcessRunner:
    """A new process that exchanges messages of `wire.py`; ended by `close()`.

    Args:
        command: Program and arguments.
        label: Name of the target in errors.
    """

    def __init__(self, command: Sequence[str], label: str) -> None:
        self._label = label
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close())
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_environment(),
                bufsize=0,
                start_new_session=True,  # Ctrl-C reaches only the caller, which then closes its runners
            )
        except OSError as error:
            self._errors.close()
            raise TargetError(f"the runner of {label} does not start: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._into, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._into, False)
        for pipe in (self._into, self._out):
            with suppress(OSError):  # a user's quota may be exhausted; only speed is affected
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def request(
        self,
        header: Mapping[str, Any],
        arrays: Sequence[Array] = (),
        *,
        limit_s: float = RUN_LIMIT_S,
        where: str | None = None,
    ) -> tuple[Header, list[Array]]:
        """Send a request and return its answer.

        Args:
            header: `op` and its arguments.
            arrays: Payload.
            limit_s: Seconds after which the runner counts as hung and is killed.
            where: File concerned, for errors.

        Raises:
            UsageError: The request does not fit the file (e.g. an input of another shape).
            TargetError: The runtime failed, or the runner crashed or hung.
        """
        deadline = time.monotonic() + limit_s
        try:
            self._write(encode(dict(header), arrays), deadline)
            answer, results = read_message(lambda count: self._read(count, deadline))
        except TimeoutError:
            self._kill()
            raise TargetError(
                f"{self._label} did not answer {header['op']!r} within {limit_s:.0f} s and was ended",
                where=where,
            ) from None
        except (EOFError, BrokenPipeError):
            raise TargetError(f"{self._label} {self._ending()}", where=where) from None
        if not answer.get("ok"):
            kind: type[MccError] = UsageError if answer.get("usage") else TargetError
            raise kind(str(answer.get("error")), where=where)
        return answer, results

    def close(self) -> None:
        """End the process; idempotent."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._kill()
        self._errors.close()

    def _write(self, message: bytes, deadline: float) -> None:
        view = memoryview(message)
        while view:
            if not select.select([], [self._into], [], _left(deadline))[1]:
                raise TimeoutError
            view = view[os.write(self._into, view[: 1 << 20]) :]

    def _read(self, count: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            if not select.select([self._out], [], [], _left(deadline))[0]:
                raise TimeoutError
            part = os.read(self._out, min(count - len(parts), 1 << 20))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _ending(self) -> str:
        """Exit status or signal of a runner that ended by itself, with its last line of output."""
        try:
            status = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._kill()
            status = -9
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"crashed: its runner {how}" + (f" ({lines[-1].strip()[:200]})" if lines else "")


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _environment() -> dict[str, str]:
    """The caller's environment, with mcc importable and numpy's own thread pool disabled."""
    home = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def load(runner: Runner, file: Path, threads: int, model: int = 0) -> tuple[tuple[TensorInfo, ...], ...]:
    """Load a file as model number `model` of a runner; returns its inputs and its outputs."""
    request = {"op": "load", "model": model, "file": str(file.resolve()), "threads": threads}
    answer, _ = runner.request(request, limit_s=LOAD_LIMIT_S, where=str(file))
    return _infos(answer["inputs"]), _infos(answer["outputs"])


def _infos(described: Sequence[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(
            item["name"], tuple(item["shape"]), item["dtype"], item.get("scale"), item.get("zero_point")
        )
        for item in described
    )


class RunnerSession(Session):
    """A session in a runner process of its own."""

    def __init__(self, target: RunnerSource, file: Path, threads: int, runner: Runner | None = None) -> None:
        self._file = file
        self._runner = runner or target.start_runner()
        try:
            self.inputs, self.outputs = load(self._runner, file, threads)
        except BaseException:
            self._runner.close()
            raise

    def run(self, inputs: Sequence[Array], *, raw: bool = False) -> list[Array]:
        """See `Session.run`."""
        if len(inputs) != len(self.inputs):
            raise UsageError(f"needs {len(self.inputs)} inputs, got {len(inputs)}", where=str(self._file))
        header = {"op": "run", "model": 0}
        _, results = self._runner.request(header, self._cast(inputs), where=str(self._file))
        return [_dequantised(a, info, raw) for a, info in zip(results, self.outputs, strict=True)]

    def run_all(self, x: Array, *, raw: bool = False) -> list[Array]:
        """See `Session.run_all`."""
        if len(self.inputs) != 1:
            raise UsageError(f"has {len(self.inputs)} inputs and not one", where=str(self._file))
        batch = self.inputs[0].shape[0]
        if len(x) == 0 or len(x) % batch:
            raise UsageError(
                f"{len(x)} images are no positive multiple of the batch {batch}", where=str(self._file)
            )
        step = max(1, CHUNK_BYTES // max(1, x[:batch].nbytes)) * batch
        parts: list[list[Array]] = []
        for begin in range(0, len(x), step):
            header = {"op": "run_many", "model": 0}
            chunk = self._cast([x[begin : begin + step]])
            _, results = self._runner.request(header, chunk, where=str(self._file))
            parts.append([_dequantised(a, info, raw) for a, info in zip(results, self.outputs, strict=True)])
        return [np.concatenate(output) for output in zip(*parts, strict=True)]

    def close(self) -> None:
        """See `Session.close`."""
        self._runner.close()

    def _cast(self, arrays: Sequence[Array]) -> list[Array]:
        return [
            _quantised(np.asarray(a), info, self._file) for a, info in zip(arrays, self.inputs, strict=True)
        ]


def _quantised(array: Array, info: TensorInfo, file: Path) -> Array:
    """The array in the dtype of a file's tensor: unchanged, quantised, or float of another width."""
    if array.dtype.name == info.dtype:
        return array
    wanted = np.dtype(info.dtype)
    both_float = array.dtype.kind == wanted.kind == "f"
    if both_float:
        return array.astype(wanted)
    if array.dtype.kind == "f" and info.scale is not None and info.zero_point is not None:
        limits = np.iinfo(wanted)
        steps = np.round(array.astype(np.float32) / np.float32(info.scale)) + info.zero_point
        return np.clip(steps, limits.min, limits.max).astype(wanted)
    if array.dtype.kind == "f" and wanted.kind in "iu" and info.scale is None:
        return _whole(array, info, wanted, file)
    raise UsageError(f"input {info.name!r} is {info.dtype}, got {array.dtype.name}", where=str(file))


def _whole(array: Array, info: TensorInfo, wanted: np.dtype[Any], file: Path) -> Array:
    """Floats for an integer input without a scale, cast if they are integers in its range."""
    limits, rounded = np.iinfo(wanted), np.round(array)
    if not np.array_equal(rounded, array) or rounded.min() < limits.min or rounded.max() > limits.max:
        raise UsageError(
            f"input {info.name!r} takes {info.dtype} and states no scale, and is given other numbers",
            where=str(file),
            hint="pixels as they are (--scale 1) may be meant",
        )
    return rounded.astype(wanted)


def _dequantised(array: Array, info: TensorInfo, raw: bool) -> Array:
    if raw or info.scale is None or info.zero_point is None:
        return array
    return (array.astype(np.float32) - np.float32(info.zero_point)) * np.float32(info.scale)


def measure_peak_memory(target: RunnerSource, file: Path, threads: int) -> int:
    """See `Target.peak_memory`."""
    request = {"op": "memory", "threads": threads, "runs": MEMORY_RUNS}
    grown = [_ask_fresh_runner(target, file, request) for _ in range(target.memory_runners)]
    return max(int(one["growth_bytes"]) for one in grown)


def measure_op_times(target: RunnerSource, file: Path, threads: int, runs: int) -> list[OpTime]:
    """See `Target.profile`."""
    answer = _ask_fresh_runner(target, file, {"op": "profile", "threads": threads, "runs": runs})
    return [OpTime(op["name"], op["kind"], op["us"]) for op in answer["ops"]]


def _ask_fresh_runner(target: RunnerSource, file: Path, request: Header) -> Header:
    runner = target.start_runner()
    try:
        request = {**request, "file": str(file.resolve())}
        return runner.request(request, limit_s=LOAD_LIMIT_S, where=str(file))[0]
    finally:
        runner.close()
