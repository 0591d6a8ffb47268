"""Client of the runner on a phone: answers the requests of `worker.py` by one program run each.

    ./ld-linux-aarch64.so.1 --library-path . ./runner OPTIONS MODEL     in mcc's folder on the phone

Every turn is a new process there that prints lines of JSON. Before a turn the phone may cool down.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mcc.errors import TargetError, UsageError
from mcc.runtime.android.energy import BUSY_S, REST_S, Energy, energy_of
from mcc.runtime.android.facts import PhoneState, core_mask
from mcc.runtime.android.phone import Phone
from mcc.runtime.process import RUN_LIMIT_S
from mcc.runtime.session import OpTime
from mcc.runtime.wire import Array, Header

WARMER_MILLIDEGREES = 8_000  # above its temperature at the start, the phone cools down between turns
COOL_LIMIT_S = 60  # then it is measured as it is, with a remark in the report
LOAD_S = 60  # maximum to load a model, by default
PHONE_SIDE_LIMIT_S = 30  # by this much earlier the phone itself ends a program


class Programs(Protocol):
    """Interface of a target for a runner."""

    def programs(self) -> tuple[str, Sequence[Path]]:
        """A key and the files for the phone: the dynamic loader first, the runner last."""
        ...

    def op_times(self, report: Mapping[str, Any], runs: int) -> list[OpTime]:
        """Operator times from a report with a profile."""
        ...


@dataclass
class Conditions:
    """Conditions of a phone while a file was timed.

    Attributes:
        cores: Cores that the runner was bound to; empty if the phone does not allow it.
        before, after: State of the phone before the first turn and after the last one.
        cooled_s: Seconds of cooling between turns.
    """

    cores: tuple[int, ...]
    before: PhoneState
    after: PhoneState | None = None
    cooled_s: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        after = self.after.to_dict() if self.after is not None else None
        return {
            "cores": list(self.cores),
            "before": self.before.to_dict(),
            "after": after,
            "cooled_s": self.cooled_s,
        }


@dataclass
class _Loaded:
    """A file on the phone: its path there and here, its threads, and the runner's report of its tensors."""

    path: str
    file: str
    threads: int
    report: Mapping[str, Any]
    conditions: Conditions | None = None


class PhoneRunner:
    """Runs files on a phone; see `mcc.runtime.session.Runner`. Its files are removed by `close()`.

    Args:
        journal: Mapping that receives the conditions of each timed file, by its path.
        words: Options of every run.
    """

    def __init__(
        self, phone: Phone, programs: Programs, journal: dict[str, Conditions], words: Sequence[str] = ()
    ) -> None:
        self._words = words
        self._phone, self._target, self._journal = phone, programs, journal
        key, files = programs.programs()
        self._loader, self._runner = files[0].name, files[-1].name
        with phone.queue():
            self._programs = phone.install(key, files)
            self._folder = phone.scratch()
        self._models: dict[int, _Loaded] = {}

    @property
    def pid(self) -> int:
        """Process id of this process: the runner's own is on the phone."""
        return os.getpid()

    def request(
        self,
        header: Mapping[str, Any],
        arrays: Sequence[Array] = (),
        *,
        limit_s: float = RUN_LIMIT_S,
        where: str | None = None,
    ) -> tuple[Header, list[Array]]:
        """See `mcc.runtime.process.Runner.request`."""
        with self._phone.queue():
            match header["op"]:
                case "load":
                    return self._load(header, limit_s), []
                case "run":
                    return {}, self._run(self._models[header["model"]], arrays, limit_s)
                case "run_many":
                    return {}, self._run(self._models[header["model"]], arrays, limit_s)
                case "turn":
                    return self._turn(self._models[header["model"]], header, limit_s), []
                case "memory":
                    return self._memory(header, limit_s), []
                case "profile":
                    return self._profile(header, limit_s), []
                case other:
                    raise UsageError(f"a phone's runner knows no request {other!r}", where=where)

    def energy(self, file: str, threads: int) -> Energy | None:
        """Energy of an inference, if the phone's battery can be read. Raises TargetError."""
        with self._phone.queue():
            path = self._send(file, 0)
            command = [*self._command(threads), "--for-ms", str(BUSY_S * 1000), path]
            cores = core_mask(self._phone.pinned(self._programs, threads))
            line = f"drain {REST_S} {cores} {BUSY_S + LOAD_S} {shlex.join(command)}"
            limit_s = REST_S + BUSY_S + 2 * LOAD_S
            printed = self._phone.call(self._programs, line, limit_s=limit_s, where=file).splitlines()
        readings = {
            kind: [text.removeprefix(kind) for text in printed if text.startswith(kind)]
            for kind in ("rest ", "busy ")
        }
        report = _report_of([text for text in printed if text.startswith("{")], file)
        return energy_of(readings["rest "], readings["busy "], report["ns"])

    def close(self) -> None:
        """Remove this runner's files from the phone; record the phone's state if something was timed."""
        with self._phone.queue():
            for model in self._models.values():
                if model.conditions is not None:
                    try:
                        model.conditions.after = self._phone.state(self._programs)
                    except TargetError:  # the phone is gone: the preceding failure is reported
                        break
            self._models.clear()
            self._phone.remove(self._folder)

    def _send(self, file: str, number: int) -> str:
        """Push a model; returns its path on the phone."""
        source = Path(file)
        with tempfile.TemporaryDirectory(prefix="mcc-push-") as folder:
            named = Path(folder) / f"model{number}{source.suffix}"
            named.symlink_to(source.resolve())
            self._phone.adb.push([named], self._folder)
        return f"{self._folder}/{named.name}"

    def _report(
        self, path: str, threads: int, words: Sequence[str], limit_s: float, where: str, start: str = "on 0"
    ) -> Header:
        """Run the runner once; returns its lines of JSON, merged. `start`: command of phone.sh."""
        command = [*self._command(threads), *words, path]
        inner = max(1, int(limit_s) - PHONE_SIDE_LIMIT_S)
        line = f"{start} {inner} {shlex.join(command)}"
        printed = self._phone.call(self._programs, line, limit_s=limit_s + COOL_LIMIT_S, where=where)
        return _report_of(printed.splitlines(), where)

    def _command(self, threads: int) -> list[str]:
        """Command of the runner, started by its own loader in its folder."""
        start = [f"./{self._loader}", "--library-path", ".", f"./{self._runner}"]
        return [*start, *self._words, "--threads", str(threads)]

    def _load(self, header: Mapping[str, Any], limit_s: float) -> Header:
        """Push a file and read its inputs and outputs, which are cached by content."""
        path = self._send(header["file"], header["model"])
        content = hashlib.sha256(Path(header["file"]).read_bytes()).hexdigest()
        seen = " ".join((self._programs, *self._words, str(header["threads"]), content))
        report = self._phone.loaded.get(seen)
        if report is None:
            report = self._report(path, header["threads"], [], limit_s, header["file"])
            self._phone.loaded[seen] = report
        self._models[header["model"]] = _Loaded(path, header["file"], header["threads"], report)
        return {"inputs": report["inputs"], "outputs": report["outputs"]}

    def _run(self, model: _Loaded, arrays: Sequence[Array], limit_s: float) -> list[Array]:
        """Inferences of successive batches; returns the outputs, each concatenated along its first axis."""
        infos = model.report["inputs"]
        batches = _batches(arrays, infos, model.file)
        given, made = f"{self._folder}/inputs", f"{self._folder}/outputs"
        with tempfile.TemporaryDirectory(prefix="mcc-push-") as folder:
            local = Path(folder)
            with (local / "inputs").open("wb") as stream:
                for batch in batches:
                    for array in batch:
                        stream.write(np.ascontiguousarray(array).tobytes())
            self._phone.adb.push([local / "inputs"], self._folder)
            words = ["--inputs", given, "--outputs", made]
            self._report(model.path, model.threads, words, limit_s, model.file)
            self._phone.adb.pull(made, local / "outputs")
            raw = (local / "outputs").read_bytes()
        return _split(raw, model.report["outputs"], len(batches), model.file)

    def _turn(self, model: _Loaded, header: Mapping[str, Any], limit_s: float) -> Header:
        """As in `worker.py`: unrecorded inferences, then samples that are means of several."""
        if model.conditions is None:
            cores = self._phone.pinned(self._programs, model.threads)
            model.conditions = Conditions(cores, self._phone.state(self._programs))
            self._journal[model.file] = model.conditions
        conditions = model.conditions
        each, samples = header["per_sample"], header["samples"]
        words = ["--warmup", str(header["settle"]), "--runs", str(each * samples)]
        hottest = conditions.before.hottest_millidegrees
        limit = 0 if hottest is None else hottest + WARMER_MILLIDEGREES
        start = f"turn {COOL_LIMIT_S} {limit} {core_mask(conditions.cores)}"
        report = self._report(model.path, model.threads, words, limit_s, model.file, start)
        conditions.cooled_s += report["cooled_s"]
        took = np.asarray(report["ns"], dtype=np.float64).reshape(samples, each)
        return {"us": (took.mean(axis=1) / 1e3).tolist()}

    def _memory(self, header: Mapping[str, Any], limit_s: float) -> Header:
        path = self._send(header["file"], 0)
        words = ["--memory", "--runs", str(header["runs"])]
        report = self._report(path, header["threads"], words, limit_s, header["file"])
        return {"growth_bytes": report["peak_after_bytes"] - report["peak_before_bytes"]}

    def _profile(self, header: Mapping[str, Any], limit_s: float) -> Header:
        path = self._send(header["file"], 0)
        words = ["--profile", "--warmup", "1", "--runs", str(header["runs"])]
        start = f"on {core_mask(self._phone.pinned(self._programs, header['threads']))}"
        report = self._report(path, header["threads"], words, limit_s, header["file"], start)
        ops = self._target.op_times(report, header["runs"])
        return {"ops": [{"name": op.name, "kind": op.kind, "us": op.us} for op in ops]}


def _report_of(lines: Sequence[str], where: str) -> Header:
    """The runner's lines of JSON, merged."""
    report: Header = {}
    try:
        for text in lines:
            report |= json.loads(text)
    except (ValueError, TypeError) as error:
        raise TargetError("the phone's runner gave no report", where=where) from error
    return report


def _batches(arrays: Sequence[Array], infos: Sequence[Mapping[str, Any]], file: str) -> list[list[Array]]:
    """Arrays [N, ...] split into the batches of the file's inputs [B, ...], one list for each inference."""
    counts: set[int] = set()
    for array, info in zip(arrays, infos, strict=True):
        shape = tuple(info["shape"])
        if array.shape[1:] != shape[1:] or not shape or len(array) % shape[0]:
            raise UsageError(
                f"input {info['name']!r} has shape {list(shape)}, got {list(array.shape)}", where=file
            )
        counts.add(len(array) // shape[0])
    if len(counts) != 1:
        raise UsageError("its inputs hold different numbers of images", where=file)
    return [
        [a[i * info["shape"][0] : (i + 1) * info["shape"][0]] for a, info in zip(arrays, infos, strict=True)]
        for i in range(counts.pop())
    ]


def _split(raw: bytes, infos: Sequence[Mapping[str, Any]], count: int, file: str) -> list[Array]:
    """The outputs of `count` inferences, which are stored consecutively."""
    shapes = [tuple(info["shape"]) for info in infos]
    dtypes = [np.dtype(info["dtype"]) for info in infos]
    sizes = [int(np.prod(s, dtype=np.int64)) * d.itemsize for s, d in zip(shapes, dtypes, strict=True)]
    if len(raw) != count * sum(sizes):
        raise TargetError("its outputs did not arrive whole from the phone", where=file)
    rows = np.frombuffer(raw, np.uint8).reshape(count, -1)
    results: list[Array] = []
    begin = 0
    for shape, dtype, size in zip(shapes, dtypes, sizes, strict=True):
        part = np.ascontiguousarray(rows[:, begin : begin + size]).view(dtype)
        results.append(part.reshape(count * shape[0] if shape else count, *shape[1:]))
        begin += size
    return results
