"""Feed mcc hostile inputs: each ends with the right status, in one sentence, soon, and overwrites nothing.

    python -m tools.hostile                          all of them, into docs/results/hostile.md
    python -m tools.hostile --only plans/ --only "tables/date zzzz"      some kinds or names, no page
    python -m tools.hostile --resume                 those that were not run yet, or went wrong

Each runs in a process of its own, held to 10 s and 2 GB. On a machine that others use, `--limit 120` gives
more wall time; processor time stays held to 10 s. Status 1 where anything went wrong.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tools.hostile.case import LIMIT_S
from tools.hostile.cases import CASES
from tools.hostile.check import ROOT, Found, run_case
from tools.hostile.page import page

PAGE = ROOT / "docs/results/hostile.md"
KNOWN = ROOT / "out/hostile.json"


def main(arguments: list[str] | None = None) -> int:
    """Run the cases; exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.hostile", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a name, or how it begins"
    )
    parser.add_argument("--resume", action="store_true", help="leave out what went well before")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="wall time for each")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the folders of the cases there")
    parser.add_argument("--list", action="store_true", help="only say the names")
    given = parser.parse_args(arguments)
    chosen = [c for c in CASES if not given.only or c.name.startswith(tuple(given.only))]
    if given.list or not chosen:
        print("\n".join(case.name for case in (CASES if given.list else ())) or "no case of that name")
        return 0 if given.list else 2
    known = _known() if given.resume or given.only else {}
    for case in chosen:
        if given.resume and case.name in known and not known[case.name].problems:
            continue
        with tempfile.TemporaryDirectory(prefix="mcc-hostile-") as scratch:
            folder = Path(scratch) / "case"
            folder.mkdir()
            found = run_case(case, folder, limit_s=given.limit)
            if given.keep is not None:
                place = given.keep / case.name.replace("/", "-").replace(" ", "-")
                shutil.copytree(folder / "out", place, dirs_exist_ok=True)
                for name in ("stdout", "stderr"):
                    shutil.copy(folder / name, place)
        known[case.name] = found
        KNOWN.parent.mkdir(exist_ok=True)
        KNOWN.write_text(json.dumps([asdict(one) for one in known.values()], indent=1))
        print(f"{case.name}: {'; '.join(found.problems) or 'as it should be'} "
              f"({found.seconds:.1f} s, {found.cpu_s:.1f} s of processor, {found.peak_bytes / 1e9:.1f} GB)",
              flush=True)  # fmt: skip
        if found.problems:
            print(f"    said: {found.sentence[:200]}", flush=True)
    ran = [known[case.name] for case in CASES if case.name in known]
    wrong = [found for found in ran if found.problems]
    if not given.only:
        PAGE.write_text(page(CASES, ran))
    print(f"{len(ran) - len(wrong)} of {len(ran)} as they should be")
    return 1 if wrong else 0


def _known() -> dict[str, Found]:
    """What earlier runs found."""
    if not KNOWN.exists():
        return {}
    rows = [{**row, "problems": tuple(row["problems"])} for row in json.loads(KNOWN.read_text())]
    return {row["name"]: Found(**row) for row in rows}


if __name__ == "__main__":
    sys.exit(main())
