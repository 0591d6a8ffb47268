"""Work for crews: leaves a trace in the folder, and dies or fails where it is told to; see test_crew.py."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from mcc.errors import MccError
from mcc.search.crew import Piece, Result


def double(folder: Path, piece: Piece) -> Result:
    """Twice the number of a piece, which may name another folder for the trace."""
    folder = Path(piece.get("trace", folder))
    with (folder / "trace").open("a") as stream:
        stream.write(f"{piece['number']}\n")
    died = folder / "died"
    if piece.get("dies") == "once" and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if piece.get("dies") == "always":
        os._exit(3)
    if piece.get("fails"):
        raise MccError("cannot be done", where=str(piece["number"]))
    return {"twice": 2 * piece["number"]}
