"""The output folder of a job: which of its files belong to mcc, and how a job takes it without data loss.

`state/job.json` is mcc's mark. It names the job and every file that jobs have written, or were about to
write, beside `state/`; those, and everything in `state/`, may be replaced and removed. All other files belong
to the user.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import BaseFileLock, Timeout

from mcc.app.writer import app_files
from mcc.errors import DataError, UsageError
from mcc.files import write_text
from mcc.ir.outputs import refuse_inputs
from mcc.lower.formats import formats, get_format
from mcc.runtime.holder import checked_lock, holder_words

LOCK = "in-use.lock"  # in the state folder, held by the process that works in it; freed by the system
MARK = "job.json"
ALWAYS = (
    "report.json", "report.html", "plan.json",
    "before.mcc", "before.safetensors", "after.mcc", "after.safetensors",
)  # fmt: skip
APP = "app"  # the subfolder with code for apps
FORCE = "choose another -o, or --force to overwrite"


def names_left(file_format: str) -> tuple[str, ...]:
    """Names of the files that a job for a target of that format writes into its folder."""
    suffix = get_format(file_format).suffix
    app = tuple(f"{APP}/{name}" for name in app_files(suffix))
    return (*ALWAYS, f"baseline{suffix}", f"model{suffix}", *app)


@dataclass(frozen=True)
class Mark:
    """Content of `state/job.json`.

    Attributes:
        digest: Digest of the job.
        files: Names of files beside `state/` that mcc has created or was about to create.
    """

    digest: str
    files: frozenset[str]

    def save(self, state: Path) -> None:
        """Write the mark atomically."""
        text = json.dumps({"digest": self.digest, "files": sorted(self.files)})
        write_text(state / MARK, text)


class Folder:
    """The folder of one job.

    Args:
        place: Path of the folder.
        lock: Lock of the folder.
    """

    def __init__(self, place: Path, lock: BaseFileLock) -> None:
        self.place = place
        self.lock = lock

    @property
    def state(self) -> Path:
        """Subfolder of the state that a resumed job needs."""
        return self.place / "state"

    def take(
        self, digest: str, names: Sequence[str], *, reads: Iterable[Path], resume: bool, force: bool
    ) -> None:
        """Take the folder for this job: resume from its state, refuse another job's, else start from scratch.

        Args:
            digest: Digest of the job.
            names: Names of the files that the job will write.
            reads: The files that it reads, none of which may be overwritten.
            resume: Whether to resume from the state.
            force: Whether files that mcc did not create may be overwritten.

        Raises:
            UsageError: The folder is in use, holds another job's state, or files of the user.
            DataError: It cannot be a folder, or its mark is unreadable.
        """
        refuse_inputs([self.place / name for name in names], reads)
        if self.state.is_symlink():
            raise UsageError("is a symbolic link", where=str(self.state), hint="choose another -o")
        found = self._mark(damaged_is_none=force)
        self._refuse_others(found, names, force)
        self._lock()
        found = self._mark(damaged_is_none=force)  # of the process that held the lock before
        if resume and found is not None and found.digest != digest:
            raise UsageError(
                "holds the state of another job (model, data, target, budgets, plan, epochs or seed differ)",
                where=str(self.place),
                hint="give the same options, another -o, or leave out --resume to begin from nothing",
            )
        if found is None:
            self._set_aside()
        else:
            self._sweep(found)
        if not resume and found is not None:
            self._clear()
            for name in found.files:
                (self.place / name).unlink(missing_ok=True)
        before = found.files if resume and found is not None else frozenset[str]()
        Mark(digest, before | frozenset(names)).save(self.state)

    def _mark(self, *, damaged_is_none: bool) -> Mark | None:
        path = self.state / MARK
        try:
            if not os.path.lexists(path):
                return None
            raw = json.loads(path.read_text(encoding="utf-8"))
            # Marks written by mcc before 2026-12 name no files: assume all that a job of that version wrote.
            legacy = [name for form in formats() for name in names_left(form) if "/" not in name]
            return Mark(str(raw["digest"]), frozenset(str(name) for name in raw.get("files", legacy)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if damaged_is_none:
                return None
            raise DataError(
                "does not say which job the folder belongs to",
                where=str(path),
                hint="choose another -o, or --force: what is in its folder is then set aside",
            ) from error

    def _refuse_others(self, found: Mark | None, names: Sequence[str], force: bool) -> None:
        """Refuse to overwrite files that mcc did not create, unless forced."""
        own = frozenset[str]() if found is None else found.files
        others = [name for name in names if os.path.lexists(self.place / name) and name not in own]
        if found is None and self._state_entries():
            others.append("state/")
        if others and not force:
            raise UsageError(
                f"holds files that no job of mcc left there: {', '.join(others)}",
                where=str(self.place),
                hint=FORCE,
            )
        app = self.place / APP
        if os.path.lexists(app) and (app.is_symlink() or not app.is_dir()):
            raise UsageError("is no folder, where one has to go", where=str(app), hint="choose another -o")
        for name in others:
            if (self.place / name).is_dir() and not name.endswith("/"):
                raise UsageError("is a folder where a file has to go", where=str(self.place / name))

    def _state_entries(self) -> list[Path]:
        """Entries of the state folder, without those of a job killed before it wrote its mark."""
        if not self.state.is_dir():
            return []
        return [p for p in self.state.iterdir() if p.name != LOCK and not p.name.endswith(".part")]

    def _lock(self) -> None:
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            checked_lock(self.state / LOCK, hint="remove it, or choose another -o")
            self.lock.acquire(timeout=0)
        except Timeout as error:  # before OSError, of which it is one
            raise UsageError(
                f"is in use by another mcc that still runs: {holder_words(self.state / LOCK)}",
                where=str(self.place),
                hint="wait for it, end it, or choose another -o",
            ) from error
        except OSError as error:
            raise DataError(
                f"cannot be the output folder: {error.strerror or error}",
                where=str(self.place),
                hint="choose another -o",
            ) from error

    def _set_aside(self) -> None:
        """Rename a state folder without mcc's mark, since it may belong to the user."""
        entries = self._state_entries()
        if not entries:
            return
        number = 1
        while os.path.lexists(aside := self.place / f"state.{number}"):
            number += 1
        aside.mkdir()
        for path in entries:
            path.rename(aside / path.name)

    def _clear(self) -> None:
        """Remove an earlier run's files from mcc's own state folder; targets of links stay."""
        for path in sorted(self.state.rglob("*"), reverse=True):
            if path.name == LOCK and path.parent == self.state:  # held by this very process
                continue
            path.rmdir() if path.is_dir() and not path.is_symlink() else os.unlink(path)

    def _sweep(self, found: Mark) -> None:
        """Remove half-written files of killed processes: `.NAME.PID.part`, see `write_beside`."""
        places = [path for name in found.files for path in self.place.glob(f".{name}.*.part")]
        for path in (*places, *self.state.rglob(".*.part")):
            process = path.name.split(".")[-2]
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                path.unlink(missing_ok=True)
