"""Work items that leave a trace in the folder, and die or fail where told to; see test_worker_pool.py."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from mcc.errors import MccError
from mcc.search.worker_pool import Result, WorkItem


def double(folder: Path, item: WorkItem) -> Result:
    """Twice the number of an item, which may name another folder for the trace."""
    folder = Path(item.get("trace", folder))
    with (folder / "trace").open("a") as stream:
        stream.write(f"{item['number']}\n")
    died = folder / "died"
    if item.get("dies") == "once" and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if item.get("dies") == "always":
        os._exit(3)
    if item.get("fails"):
        raise MccError("cannot be done", where=str(item["number"]))
    return {"twice": 2 * item["number"]}
