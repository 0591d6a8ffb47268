"""The worker: a fresh process that runs models for a target with a Python interface.

    python -m mcc.runtime.worker litert-host

It speaks `wire.py` on its standard streams until they end. What the runtime itself prints goes to standard
error.
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
    """Answers requests for one target; models are known by numbers that the caller chooses."""

    def __init__(self, target: HostTarget) -> None:
        self._target = target
        self._models: dict[int, LoadedModel] = {}
        target.start()

    def answer(self, request: Header, arrays: Sequence[Array]) -> tuple[Header, Sequence[Array]]:
        """The answer to one request; raises what the runtime raises."""
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
    """Have glibc give blocks from 128 KiB on back when they are freed: its own first choice, mallopt(3).

    Left to itself it raises that limit, to 32 MiB at most, with the blocks that are freed, and puts later
    ones between small ones, where a random address decides on holes: onnxruntime 1.32 took 20.2 or 22.6 MB
    for one file, and takes 17.3 to 18.3 MB now.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def _peak_bytes() -> int:
    """VmHWM: unlike ru_maxrss, it does not begin with the memory of the process that started this one."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "no VmHWM in /proc/self/status"
    return int(found.group(1)) * 1024


def _fresh_peak_bytes() -> int:
    """The peak, set to what is resident now: the runtime's import must not hide the growth."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # some containers forbid it; the peak since the start is then the base
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
    """A runtime's own complaint, on one line and of readable length."""
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
    os.dup2(2, 1)  # a runtime that prints must not disturb the messages
    target = get_target(sys.argv[1])
    assert isinstance(target, HostTarget)
    serve(target, os.fdopen(os.dup(0), "rb"), sink)


if __name__ == "__main__":
    main()
