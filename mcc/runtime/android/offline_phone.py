"""Calibration of a phone that is not attached: packing of a measurement kit, and reading of its results.

Both replace a phone: a calibration runs against them unchanged. `Packing` records every file to be timed or
profiled and returns placeholder figures; `Recorded` returns the figures sent by the phone's owner. Files are
identified by their content, and mcc writes the same ones both times.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from mcc.errors import DataError, TargetError
from mcc.ir.json_file import parse_json, read_json
from mcc.runtime.android.facts import PhoneFacts, PhoneState
from mcc.runtime.samples import LatencySamples, MachineLoad
from mcc.runtime.session import OpTime, Runner
from mcc.runtime.wire import Array, Header

FORMAT = 1  # of kit.json and results.json
PROFILED_RUNS = 20  # inferences in a profile of the kit: more would give megabytes of events
KINDS = ("timed", "profiled")  # of runs
LONGEST_NS = 1e15  # eleven days for one inference, beyond any phone
PACKED_US_PER_BYTE = 0.01  # a placeholder time: longer for the file with more copies of a kernel


class OfflinePhone(Protocol):
    """Replacement of a phone."""

    @property
    def facts(self) -> PhoneFacts:
        """Facts about the phone."""
        ...

    def start_runner(self) -> Runner:
        """A runner that answers requests in place of the phone."""
        ...

    def time(self, files: Sequence[Path], threads: int) -> list[LatencySamples]:
        """See `Target.time`."""
        ...


def digest(file: Path) -> str:
    """Name of a file in a kit: sixteen hex digits of a hash of its content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


class OfflineRunner:
    """A runner that answers requests with functions of the file.

    Args:
        turn: Function of the file, threads and number of the turn that returns the microseconds of its
            inferences.
        ops: Function that returns the operators of a file.
    """

    def __init__(
        self,
        turn: Callable[[Path, int, int, Mapping[str, Any]], Sequence[float]],
        ops: Callable[[Path, int], Sequence[OpTime]],
    ) -> None:
        self._turn, self._ops = turn, ops
        self._models: dict[int, tuple[Path, int]] = {}
        self._turns: defaultdict[int, int] = defaultdict(int)

    @property
    def pid(self) -> int:
        """Process id of this process."""
        return os.getpid()

    def request(
        self,
        header: Mapping[str, Any],
        arrays: Sequence[Array] = (),
        *,
        limit_s: float = math.inf,
        where: str | None = None,
    ) -> tuple[Header, list[Array]]:
        """See `mcc.runtime.session.Runner`. Raises TargetError for requests that need an attached phone."""
        match header["op"]:
            case "load":
                self._models[header["model"]] = (Path(header["file"]), header["threads"])
                return {"inputs": [], "outputs": []}, []
            case "turn":
                file, threads = self._models[header["model"]]
                number = self._turns[header["model"]]
                self._turns[header["model"]] += 1
                return {"us": list(self._turn(file, threads, number, header))}, []
            case "profile":
                ops = self._ops(Path(header["file"]), header["threads"])
                return {"ops": [{"name": op.name, "kind": op.kind, "us": op.us} for op in ops]}, []
            case _:
                raise TargetError("the phone is not attached: only its kit's results are here", where=where)

    def close(self) -> None:
        """Do nothing."""


class Packing:
    """Collects the jobs and models of a kit.

    Args:
        folder: Folder for the models, named by digest.
        host_ops: Function that returns the operators of a file in a runtime on this machine, to match them
            with kernels.
    """

    facts = PhoneFacts("phone of a kit", "", "", (), emulated=False, max_khz=(), features=())

    def __init__(self, folder: Path, host_ops: Callable[[Path], Sequence[OpTime]]) -> None:
        self._folder, self._host_ops = folder, host_ops
        self._ops: dict[str, Sequence[OpTime]] = {}
        self.jobs: dict[str, None] = {}  # lines of jobs.txt, in order

    def start_runner(self) -> Runner:
        """See `OfflinePhone`."""
        return OfflineRunner(self._turn, self._profile)

    def time(self, files: Sequence[Path], threads: int) -> list[LatencySamples]:
        """See `OfflinePhone`."""
        load = MachineLoad(0.0, 0.0, 0.0)
        turns = [[[self._timed(file, threads)] * 3] * 2 for file in files]
        return [LatencySamples.from_turns(turn, per_sample=1, warmup_runs=0, load=load) for turn in turns]

    def _turn(self, file: Path, threads: int, number: int, header: Mapping[str, Any]) -> Sequence[float]:
        return [self._timed(file, threads)] * int(header["samples"])

    def _timed(self, file: Path, threads: int) -> float:
        self.jobs[f"timed {self._take(file)} {threads}"] = None
        return file.stat().st_size * PACKED_US_PER_BYTE

    def _profile(self, file: Path, threads: int) -> Sequence[OpTime]:
        name = self._take(file)
        self.jobs[f"profiled {name} {threads} {PROFILED_RUNS}"] = None
        if name not in self._ops:
            self._ops[name] = self._host_ops(file)
        return self._ops[name]

    def _take(self, file: Path) -> str:
        name = f"{digest(file)}{file.suffix}"
        if not (self._folder / name).exists():
            shutil.copyfile(file, self._folder / name)
        return name


class Recorded:
    """The results of a kit.

    Args:
        path: Path of results.json.
        op_times: Function that reads the operators of a target's profile.

    Raises:
        DataError: The file does not exist or is not the result of a kit of mcc.
    """

    def __init__(self, path: Path, op_times: Callable[[Mapping[str, Any], int], list[OpTime]]) -> None:
        self._path, self._op_times = path, op_times
        content = read_results(path)
        self.kit: Mapping[str, Any] = content["kit"]
        self.facts = PhoneFacts.read("\n".join(content["facts"]))
        states = [PhoneState.read("\n".join(content[moment])) for moment in ("before", "after")]
        self._load = MachineLoad(states[0].load or 0.0, states[1].load or 0.0, 0.0)
        self._timed: defaultdict[str, list[list[float]]] = defaultdict(list)
        self._profiled: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._read_profiles: defaultdict[str, int] = defaultdict(int)
        self._errors: dict[str, str] = {}
        for run in content["runs"]:
            if run:
                self._read_run(run)

    def _read_run(self, run: Mapping[str, Any]) -> None:
        name = str(run["file"])
        report: dict[str, Any] = {}
        for line in run["reports"]:
            report |= line
        if "error" in run:
            words = [line for line in run["error"] if line]
            self._errors[name] = words[-1] if words else "it ended without a message"
        elif run["kind"] == "profiled":
            self._profiled[name].append(report)
        elif run["round"] > 0:  # the first one is warm-up
            self._timed[name].append([ns / 1e3 for ns in report["ns"]])

    def start_runner(self) -> Runner:
        """See `OfflinePhone`."""
        return OfflineRunner(self._turn, self._profile)

    def time(self, files: Sequence[Path], threads: int) -> list[LatencySamples]:
        """See `OfflinePhone`."""
        turns = [self._turns(file) for file in files]
        return [LatencySamples.from_turns(t, per_sample=1, warmup_runs=0, load=self._load) for t in turns]

    def _turns(self, file: Path) -> list[list[float]]:
        return self._known(self._timed, file)

    def _turn(self, file: Path, threads: int, number: int, header: Mapping[str, Any]) -> Sequence[float]:
        """A recorded turn with the requested number of samples, at most one per inference."""
        turns = self._turns(file)
        us = np.asarray(turns[number % len(turns)])
        return [float(part.mean()) for part in np.array_split(us, min(int(header["samples"]), len(us)))]

    def _profile(self, file: Path, threads: int) -> Sequence[OpTime]:
        reports = self._known(self._profiled, file)
        name = f"{digest(file)}{file.suffix}"
        self._read_profiles[name] += 1
        return self._op_times(reports[self._read_profiles[name] % len(reports)], PROFILED_RUNS)

    def _known(self, table: Mapping[str, list[Any]], file: Path) -> list[Any]:
        name = f"{digest(file)}{file.suffix}"
        if table.get(name):
            return table[name]
        why = self._errors.get(name)
        if why is not None:
            raise TargetError(f"the phone could not run it: {why}", where=str(self._path))
        raise TargetError(
            "the kit did not measure it",
            where=str(self._path),
            hint="read it with the mcc that packed the kit",
        )


def read_results(path: Path) -> dict[str, Any]:
    """The content of results.json, with the kit's description parsed and every figure checked.

    Raises:
        DataError: The content is invalid; the message names the file and the field or run.
    """
    content = read_json(path, what="results of a kit", hint="give the results.json of a kit")
    try:
        content["kit"] = parse_json("\n".join(content["kit"]))
        known = content["format"] == content["kit"]["format"] == FORMAT
        for part in ("facts", "before", "after", "runs"):
            known = known and isinstance(content[part], list)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("holds no results of a kit", where=str(path)) from error
    if not known:
        raise DataError(f"is of another format than {FORMAT}", where=str(path))
    for part in ("facts", "before", "after"):
        if not all(isinstance(line, str) for line in content[part]):
            raise DataError(f"{part}: must be lines of text", where=str(path))
    for number, run in enumerate(content["runs"], start=1):
        wrong = _wrong_in(run) if run else None
        if wrong is not None:
            raise DataError(f"run {number}: {wrong}", where=str(path), hint="ask for the kit to be run again")
    return content


def _wrong_in(run: Any) -> str | None:
    """The error in a run of results.json; None if it is valid."""
    if not isinstance(run, dict):
        return "must be an object"
    held = cast(dict[str, Any], run)
    if not isinstance(held.get("file"), str) or held.get("kind") not in KINDS:
        return f"must name a file and a kind ({', '.join(KINDS)})"
    reports = held.get("reports")
    if not isinstance(reports, list) or not all(isinstance(line, dict) for line in reports):  # pyright: ignore[reportUnknownVariableType]
        return "reports: must be a list of objects"
    if "error" in held:
        lines = held["error"]
        right = isinstance(lines, list) and all(isinstance(line, str) for line in lines)  # pyright: ignore[reportUnknownVariableType]
        return None if right else "error: must be lines of text"
    if held["kind"] == "profiled":
        return None
    if type(held.get("round")) is not int or held["round"] < 0:
        return f"round: must be a count, not {str(held.get('round'))[:40]}"
    for line in cast(list[dict[str, Any]], reports):
        times = line.get("ns", [])
        if not isinstance(times, list):
            return "ns: must be a list of nanoseconds"
        for ns in cast(list[object], times):
            if type(ns) not in (int, float) or not 0 < cast(float, ns) < LONGEST_NS:
                return f"ns: must be nanoseconds above 0 and below {LONGEST_NS:g}, not {str(ns)[:40]}"
    if not any(line.get("ns") for line in cast(list[dict[str, Any]], reports)):
        return "ns: holds no times"
    return None
