"""Reads broken files one after the other, as the command line does, and reports the outcome of each.

    python -m tools.fuzz.worker KIND FIRST COUNT FOLDER

Writes a line of JSON before each case (its number) and after it. The process is limited in memory; the driver
watches its CPU time, ends it if it hangs, and starts another one after the case that ended it.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
from pathlib import Path

from tools.fuzz.mutate import CANARY, broken
from tools.fuzz.seeds import seeds

ADDRESS_SPACE_BYTES = 12 << 30  # torch alone maps several GiB without touching them
GROWTH_BYTES = 768 << 20  # of resident memory, by a file of a few kilobytes
FORBIDDEN = (
    "pickle.find_class",
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
)


def main() -> None:
    """The command line, for the driver."""
    kind, first, count, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    whole = seeds(kind)
    for data in whole[:3]:  # so that imports are not attributed to a case
        said, detail = _read_one(kind, data, folder)
        if said != "read":
            raise SystemExit(f"a whole .{kind} is not read: {said}: {detail}")
    events: list[str] = []
    sys.addaudithook(lambda event, args: events.append(event) if event in FORBIDDEN else None)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    for number in range(first, first + count):
        print(json.dumps({"case": number}), flush=True)
        data = broken(kind, whole, number)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        events.clear()
        said, detail = _read_one(kind, data, folder)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
        if events or (folder / CANARY).exists() or Path(CANARY).exists():
            said, detail = "RAN CODE", ", ".join(events) or "a pickle"
        elif grown > GROWTH_BYTES:
            said, detail = "MEMORY", f"{grown >> 20} MiB more"
        print(json.dumps({"case": number, "said": said, "detail": detail}), flush=True)


def _read_one(kind: str, data: bytes, folder: Path) -> tuple[str, str]:
    """Result of `mcc inspect` for a file: `read`, `refused` with its sentence, or a failure.

    A .tflite that is shown as it is stored is read as a model, too, by `mcc opt`.
    """
    path = folder / f"broken.{kind}"
    path.write_bytes(data)
    words = ["inspect", str(path), "--json"]
    if kind == "safetensors":
        words = ["inspect", "tools.fuzz.seeds:model", "--weights", str(path), "--json"]
    found = _command(words)
    return _command(["opt", str(path), "-O0", "--json"]) if kind == "tflite" and found[0] == "read" else found


def _command(words: list[str]) -> tuple[str, str]:
    """Result of one command."""
    from mcc.cli.main import run

    said, out = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
            status = run(words)
    except BaseException as error:  # nothing may get past the command line
        return "TRACEBACK", f"{type(error).__name__}: {str(error)[:200]}"
    # A warning, that onnxruntime does not run a model to compare with, say, is no answer.
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("WARNING ")]
    sentence = "\n".join(lines).strip()
    if "internal error" in sentence or "Traceback" in sentence:
        return "TRACEBACK", sentence[:400]
    if status == 0:
        return "read", ""
    if sentence.count("\n") or not sentence.startswith("mcc: "):
        return "NO SENTENCE", sentence[:400]
    return "refused", sentence[:200]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the driver has closed the pipe
        main()
