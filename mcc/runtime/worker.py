"""The worker: a new process that runs models for a target with a Python interface.

    python -m mcc.runtime.worker litert-host

It exchanges messages of `wire.py` on its standard streams until they end. Output of the runtime itself goes
to standard error.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mcc.errors import MccError, UsageError
from mcc.runtime.host import HostTarget, LoadedModel
from mcc.runtime.registry import get_target
from mcc.runtime.wire import Array, Header, encode, read_message

M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES = -3, 128 << 10  # of glibc's malloc.h, and of mallopt(3)


class Worker:
    """Answers requests for one target; models are identified by numbers chosen by the caller."""

    def __init__(self, target: HostTarget) -> None:
        self._target = target
        self._models: dict[int, LoadedModel] = {}
        target.start()

    def answer(self, request: Header, arrays: Sequence[Array]) -> tuple[Header, Sequence[Array]]:
        """The answer to one request; passes on exceptions of the runtime."""
        match request["op"]:
            case "load":
                return self._load(request), ()
            case "run":
                return {}, self._run(self._models[request["model"]], arrays)
            case "run_many":
                return {}, self._run_many(self._models[request["model"]], arrays[0])
            case "turn":
                return self._turn(request), ()
            case "memory":
                return self._memory(request), ()
            case "profile":
                model = self._target.load(Path(request["file"]), request["threads"])
                model.set_inputs(random_inputs(model))
                return {"ops": [asdict(op) for op in model.op_times(request["runs"])]}, ()
            case other:
                raise UsageError(f"the worker knows no request {other!r}")

    def _load(self, request: Header) -> Header:
        model = self._target.load(Path(request["file"]), request["threads"])
        self._models[request["model"]] = model
        model.set_inputs(random_inputs(model))
        return {"inputs": [asdict(i) for i in model.inputs], "outputs": [asdict(o) for o in model.outputs]}

    def _run(self, model: LoadedModel, arrays: Sequence[Array]) -> list[Array]:
        for array, info in zip(arrays, model.inputs, strict=True):
            if array.shape != info.shape:
                raise UsageError(f"input {info.name!r} has shape {list(info.shape)}, got {list(array.shape)}")
        model.set_inputs(arrays)
        model.invoke()
        return model.get_outputs()

    def _run_many(self, model: LoadedModel, images: Array) -> list[Array]:
        batch = model.inputs[0].shape[0]
        found = [self._run(model, [images[begin : begin + batch]]) for begin in range(0, len(images), batch)]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _turn(self, request: Header) -> Header:
        """`settle` unrecorded inferences, then `samples` samples of `per_sample` inferences each."""
        invoke = self._models[request["model"]].invoke
        clock, repeats = time.perf_counter_ns, range(request["per_sample"])
        for _ in range(request["settle"]):
            invoke()
        taken: list[float] = []
        gc.disable()
        for _ in range(request["samples"]):
            begin = clock()
            for _ in repeats:
                invoke()
            taken.append((clock() - begin) / 1e3 / len(repeats))
        gc.enable()
        return {"us": taken}

    def _memory(self, request: Header) -> Header:
        fix_large_blocks()
        before = _fresh_peak_bytes()
        model = self._target.load(Path(request["file"]), request["threads"])
        model.set_inputs(random_inputs(model))
        for _ in range(request["runs"]):
            model.invoke()
        return {"growth_bytes": _peak_bytes() - before}


def random_inputs(model: LoadedModel) -> list[Array]:
    """Inputs with a fixed seed: standard normal floats, or integers over the whole range of an 8-bit type."""
    generator = np.random.default_rng(0)
    arrays: list[Array] = []
    for info in model.inputs:
        dtype = np.dtype(info.dtype)
        if dtype.kind == "f":
            arrays.append(generator.standard_normal(info.shape).astype(dtype))
        elif dtype.kind in "iu" and dtype.itemsize == 1:
            limits = np.iinfo(dtype)
            arrays.append(generator.integers(limits.min, limits.max, info.shape, dtype=dtype, endpoint=True))
        else:
            arrays.append(np.zeros(info.shape, dtype))
    return arrays


def fix_large_blocks() -> None:
    """Let glibc return freed blocks of 128 KiB or more to the system: its initial setting, see mallopt(3).

    By default glibc raises that limit with the freed blocks, to at most 32 MiB, and places later blocks
    between small ones, where fragmentation depends on random addresses: onnxruntime 1.32 took 20.2 or 22.6 MB
    for one file, and takes 17.3 to 18.3 MB with this setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def _peak_bytes() -> int:
    """VmHWM, which unlike ru_maxrss does not include the memory of the parent process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "no VmHWM in /proc/self/status"
    return int(found.group(1)) * 1024


def _fresh_peak_bytes() -> int:
    """The peak after a reset to the present resident memory, so that it excludes the runtime's import."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # some containers forbid it; the base is then the peak since the start
        return _peak_bytes()
    return _peak_bytes()


def serve(target: HostTarget, source: BinaryIO, sink: BinaryIO) -> None:
    """Answer requests until `source` ends."""
    worker = Worker(target)
    while True:
        try:
            request, arrays = read_message(lambda count: _exactly(source, count))
        except EOFError:
            return
        results: Sequence[Array] = ()
        try:
            header, results = worker.answer(request, arrays)
            header = {"ok": True, **header}
        except MccError as error:
            header = {"ok": False, "error": error.message, "usage": isinstance(error, UsageError)}
        except Exception as error:
            header = {"ok": False, "error": _sentence(error)}
        sink.write(encode(header, results))
        sink.flush()


def _sentence(error: Exception) -> str:
    """A runtime's error message on one line, shortened."""
    text: Any = " ".join(str(error).split()) or type(error).__name__
    return f"the runtime refuses it: {text[:300]}"


def _exactly(source: BinaryIO, count: int) -> bytes:
    data = source.read(count)
    if len(data) < count:
        raise EOFError
    return data


def main() -> None:
    """Serve the target named on the command line."""
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of a runtime must not corrupt the messages
    target = get_target(sys.argv[1])
    assert isinstance(target, HostTarget)
    serve(target, os.fdopen(os.dup(0), "rb"), sink)


if __name__ == "__main__":
    main()
