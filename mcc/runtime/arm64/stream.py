"""A runner process for one file, with inputs and outputs through pipes."""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from mcc.errors import TargetError, UsageError
from mcc.runtime.arm64.counting import complaint
from mcc.runtime.wire import Array, Header

LIMIT_S = 900.0  # an emulated inference takes about fifty times as long; with reference kernels, more
PART = 1 << 20


class StreamRunner:
    """A runner for `Target.start_runner`: it answers `load`, once, then `run` and `run_many`.

    Args:
        command: Runner with its options, up to the file.
        environment: Environment of the process.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command, self._environment = command, environment
        self._file = ""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close())
        self._process: subprocess.Popen[bytes] | None = None
        self._feeder: threading.Thread | None = None
        self._inputs: list[_Tensor] = []
        self._outputs: list[_Tensor] = []

    @property
    def pid(self) -> int:
        """Process id of the emulator, after a file is loaded."""
        assert self._process is not None
        return self._process.pid

    def request(
        self,
        header: Mapping[str, Any],
        arrays: Sequence[Array] = (),
        *,
        limit_s: float = LIMIT_S,
        where: str | None = None,
    ) -> tuple[Header, list[Array]]:
        """Answer a request; see `process.ProcessRunner.request`.

        Raises:
            UsageError: An array does not have the shape of its input.
            TargetError: The runner rejected the file, crashed or hung.
        """
        limit_s = max(limit_s, LIMIT_S)
        match header["op"]:
            case "load":
                return self._load(str(header["file"]), int(header["threads"]), limit_s), []
            case "run":
                sets = [[_fitting(array, info) for array, info in zip(arrays, self._inputs, strict=True)]]
                return {}, self._stream(sets, limit_s)[0]
            case "run_many":
                batch = self._inputs[0].shape[0]
                begins = range(0, len(arrays[0]), batch)
                sets = [[_fitting(arrays[0][at : at + batch], self._inputs[0])] for at in begins]
                found = self._stream(sets, limit_s)
                return {}, [np.concatenate(parts) for parts in zip(*found, strict=True)]
            case other:
                raise TargetError(f"the ARM64 runner answers no request {other!r}")

    def close(self) -> None:
        """End the process; idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if self._feeder is not None:  # its next write fails; a closed descriptor could be another file's
            self._feeder.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        self._errors.close()

    def _load(self, file: str, threads: int, limit_s: float) -> Header:
        assert self._process is None, "one file in a runner"
        self._file = file
        options = ["--threads", str(threads), "--inputs", "-", "--outputs", "-", file]
        self._process = subprocess.Popen(
            [*self._command, *options],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches only the caller, which then closes its runners
        )
        described: Header = json.loads(self._line(time.monotonic() + limit_s))
        self._inputs, self._outputs = (list(map(_tensor, described[side])) for side in ("inputs", "outputs"))
        return described

    def _stream(self, sets: Sequence[Sequence[Array]], limit_s: float) -> list[list[Array]]:
        """Outputs of one inference for each set of inputs, written while outputs are read."""
        assert self._process is not None
        inputs = self._process.stdin
        assert inputs is not None

        def feed() -> None:
            with suppress(BrokenPipeError):  # the cause is in its output
                for arrays in sets:
                    for array in arrays:
                        data = memoryview(array.tobytes())
                        while data:
                            data = data[inputs.write(data) :]

        self._feeder = feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        found: list[list[Array]] = []
        for _ in sets:
            deadline = time.monotonic() + limit_s
            found.append([self._tensor_read(info, deadline) for info in self._outputs])
        feeder.join()
        return found

    def _tensor_read(self, info: _Tensor, deadline: float) -> Array:
        data = self._bytes(math.prod(info.shape) * info.dtype.itemsize, deadline)
        return np.frombuffer(data, info.dtype).reshape(info.shape)

    def _line(self, deadline: float) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += self._bytes(1, deadline)
        return bytes(line)

    def _bytes(self, count: int, deadline: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        parts = bytearray()
        while len(parts) < count:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.close()
                raise TargetError("the ARM64 runner does not answer and was ended", where=self._file)
            part = os.read(descriptor, min(count - len(parts), PART))
            if not part:
                status = self._process.wait()
                self._errors.seek(0)
                text = self._errors.read().decode(errors="replace")
                raise TargetError(complaint(status, text), where=self._file)
            parts += part
        return bytes(parts)


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _tensor(described: Mapping[str, Any]) -> _Tensor:
    return _Tensor(described["name"], tuple(described["shape"]), np.dtype(described["dtype"]))


def _fitting(array: Array, info: _Tensor) -> Array:
    if array.shape != info.shape:
        raise UsageError(f"input {info.name!r} has shape {list(info.shape)}, got {list(array.shape)}")
    return array
