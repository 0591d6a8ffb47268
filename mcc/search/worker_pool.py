"""Worker pools for independent work items: processes on this machine, or a Ray cluster.

An item is a function by name, a folder that all items share, and a few JSON values; its result is JSON
values. Items are independent: results do not depend on scheduling. Each item has one thread of one process.
An item whose worker dies is given to another worker.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from mcc.distribution import how_to_install
from mcc.errors import MccError, UsageError

WorkItem = dict[str, Any]
Result = dict[str, Any]
Function = Callable[[Path, WorkItem], Result]

ATTEMPTS = 3  # at an item, before it is considered the reason why workers die


class WorkerPool(Protocol):
    """Runs work items."""

    def run(self, function: str, folder: Path, items: Sequence[WorkItem]) -> Iterator[tuple[int, Result]]:
        """Run all items; yields the index and result of each as they are finished.

        Args:
            function: `package.module:name` of a `Function`.
            folder: Folder that all items share; not changed meanwhile.

        Raises:
            MccError: Raised by an item, or an item was lost too often.
        """
        ...


def perform(function: str, folder: Path, item: WorkItem) -> Result:
    """Run one item in this process; mcc's errors are returned as a result."""
    module, _, name = function.partition(":")
    try:
        return {"result": getattr(importlib.import_module(module), name)(folder, item)}
    except MccError as error:
        return {"error": str(error)}


def opened(answer: Result) -> Result:
    """The result of an item. Raises MccError if the item raised it."""
    if "error" in answer:
        raise MccError(str(answer["error"]))
    return answer["result"]


class ProcessPool:
    """A pool of processes on this machine.

    Args:
        workers: Number of processes.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise UsageError("needs at least one worker", where="--workers")
        self.workers = workers
        self.started: list[int] = []  # process ids, for tests that kill one

    def run(self, function: str, folder: Path, items: Sequence[WorkItem]) -> Iterator[tuple[int, Result]]:
        """See `WorkerPool.run`."""
        waiting = deque(range(len(items)))
        tries: Counter[int] = Counter()
        at: dict[subprocess.Popen[str], int] = {}
        with selectors.DefaultSelector() as ready:
            try:
                while waiting or at:
                    while waiting and len(at) < self.workers:
                        self._give(self._start(function, folder, ready), waiting.popleft(), items, at)
                    for key, _ in ready.select():
                        worker: subprocess.Popen[str] = key.data
                        line = worker.stdout.readline() if worker.stdout else ""
                        index = at.pop(worker)
                        if not line.endswith("\n"):  # it died
                            _end(worker, ready)
                            tries[index] += 1
                            if tries[index] >= ATTEMPTS:
                                raise MccError(
                                    f"a worker ended {ATTEMPTS} times at the same work item",
                                    where=json.dumps(items[index]),
                                    hint="is there enough memory for so many --workers?",
                                )
                            waiting.appendleft(index)
                            continue
                        if waiting:
                            self._give(worker, waiting.popleft(), items, at)
                        else:
                            _end(worker, ready)
                        yield index, opened(json.loads(line))
            finally:
                for worker in list(at):
                    worker.kill()
                    _end(worker, ready)

    def _start(self, function: str, folder: Path, ready: selectors.BaseSelector) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "mcc.search.worker_pool", function, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # sums in the order of one thread
            start_new_session=True,  # Ctrl-C reaches the caller alone, which then ends its workers
        )
        self.started.append(worker.pid)
        ready.register(worker.stdout or 0, selectors.EVENT_READ, worker)
        return worker

    def _give(
        self,
        worker: subprocess.Popen[str],
        index: int,
        items: Sequence[WorkItem],
        at: dict[subprocess.Popen[str], int],
    ) -> None:
        at[worker] = index
        with suppress(BrokenPipeError):  # it died; its end is seen when its answer is read
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(items[index]) + "\n")
            worker.stdin.flush()


def _end(worker: subprocess.Popen[str], ready: selectors.BaseSelector) -> None:
    ready.unregister(worker.stdout or 0)
    with suppress(BrokenPipeError):
        if worker.stdin is not None:
            worker.stdin.close()  # a worker ends at the end of its input
    if worker.stdout is not None:
        worker.stdout.close()
    worker.wait()


class RayPool:
    """A Ray cluster, on whose machines mcc is installed in the same version.

    Args:
        address: Address of the cluster as in `ray.init`; `local` starts one on this machine.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UsageError("ray is not installed", where="--ray", hint=how_to_install("ray")) from error
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns on machines without
        self.ray: Any = ray
        try:
            self.ray.init(
                address=address, log_to_driver=False, logging_level="error", include_dashboard=False,
                ignore_reinit_error=True,
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise UsageError(f"no Ray cluster answers: {error}", where=f"--ray {address}") from error

    def run(self, function: str, folder: Path, items: Sequence[WorkItem]) -> Iterator[tuple[int, Result]]:
        """See `WorkerPool.run`."""
        shared = self.ray.put(_packed(folder))
        task = self.ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_perform_packed)
        indices = {task.remote(function, shared, item): index for index, item in enumerate(items)}
        left = list(indices)
        while left:
            (done, *_), left = self.ray.wait(left, num_returns=1)
            try:
                answer = self.ray.get(done)
            except (self.ray.exceptions.WorkerCrashedError, self.ray.exceptions.OutOfMemoryError) as error:
                raise MccError(
                    f"a worker ended {ATTEMPTS} times at the same work item",
                    where=json.dumps(items[indices[done]]),
                ) from error
            yield indices[done], opened(answer)

    def close(self) -> None:
        """Disconnect from the cluster; a cluster started here ends."""
        self.ray.shutdown()


def _packed(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


_places: dict[str, Path] = {}  # by digest: functions cache a folder's content by its path


def _perform_packed(function: str, files: dict[str, bytes], item: WorkItem) -> Result:
    """Run one item on another machine, where the folder exists meanwhile.

    Ray kills its workers, so that they cannot clean up at their end.
    """
    known = hashlib.sha256(b"".join(name.encode() + raw for name, raw in sorted(files.items()))).hexdigest()
    if known in _places:
        _places[known].mkdir(mode=0o700)
    else:
        _places[known] = Path(tempfile.mkdtemp(prefix="mcc-workers-"))
    place = _places[known]
    try:
        for name, raw in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(raw)
        return perform(function, place, item)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def encoded(path: Path) -> str:
    """The content of a file as text, for a result."""
    return base64.b64encode(path.read_bytes()).decode()


def decoded(text: str) -> bytes:
    """The bytes of a file from a result."""
    return base64.b64decode(text)


def make_pool(workers: int | None, ray: str | None) -> WorkerPool | None:
    """The requested worker pool; None: items run sequentially in this process."""
    if ray is not None:
        return RayPool(ray)
    return None if workers is None else ProcessPool(workers)


def _work() -> None:
    """Main function of a worker: reads one item and writes one result per line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with results
    function, folder = sys.argv[1:]
    for line in sys.stdin:
        answers.write(json.dumps(perform(function, Path(folder), json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    _work()
