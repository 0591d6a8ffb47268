"""Give mcc hostile inputs: each must end with the right status, in one sentence, soon, and overwrite nothing.

    python -m tools.hostile                          all of them, into docs/results/hostile.md
    python -m tools.hostile --only plans/ --only "tables/date zzzz"      some kinds or names, no page
    python -m tools.hostile --resume                 those that were not run yet, or failed

Each runs in its own process, limited to 10 s and 2 GB. On a shared machine, `--limit 120` gives more wall
time; processor time stays limited to 10 s. Status 1 if anything failed.
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
    """Run the cases; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.hostile", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="name of a case, or its beginning"
    )
    parser.add_argument("--resume", action="store_true", help="skip cases that passed before")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="wall time for each")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the folders of the cases there")
    parser.add_argument("--list", action="store_true", help="only list the names")
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
    """Results of earlier runs."""
    if not KNOWN.exists():
        return {}
    rows = [{**row, "problems": tuple(row["problems"])} for row in json.loads(KNOWN.read_text())]
    return {row["name"]: Found(**row) for row in rows}


if __name__ == "__main__":
    sys.exit(main())
