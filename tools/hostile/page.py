"""The page about hostile inputs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tools.hostile.case import Case
from tools.hostile.check import Found

HEAD = """# Hostile inputs

Each input is created by `tools/hostile`, given to the command in its own process, and must end with the right
exit status and one sentence that names the fault (or a result with a warning, if that is right), within 10 s
of processor time and 2 GB (two are complete jobs that succeed, and may take a minute), with no file of the
input's folder created, changed or removed. To repeat all of them:

    .venv/bin/python -m tools.hostile
"""
_PLACE = re.compile(r"/\S*/mcc-hostile-[^/]+/case/")  # where the inputs of this run lay
SHOWN = 160  # characters of a sentence


def page(cases: Sequence[Case], found: Sequence[Found]) -> str:
    """The text of docs/results/hostile.md."""
    by_name = {one.name: one for one in found}
    rows = [(case, by_name[case.name]) for case in cases if case.name in by_name]
    kinds = list(dict.fromkeys(case.kind for case, _ in rows))
    lines = [HEAD, _counts(rows, kinds)]
    for kind in kinds:
        lines += [f"\n## {kind.capitalize()}\n", "| input | command | status | s | GB | says | |",
                  "| --- | --- | ---: | ---: | ---: | --- | --- |"]  # fmt: skip
        lines += [_row(case, one) for case, one in rows if case.kind == kind]
    return "\n".join([*lines, ""])


def _counts(rows: Sequence[tuple[Case, Found]], kinds: Sequence[str]) -> str:
    good = sum(not one.problems for _, one in rows)
    slowest = max((one.cpu_s for _, one in rows if one.status != 0), default=0.0)
    largest = max(one.peak_bytes for _, one in rows)
    lines = [
        f"{good} of {len(rows)} end as they should; the slowest refusal took {slowest:.1f} s of a processor, "
        f"the largest {largest / 1e9:.1f} GB.\n",
        "| kind | inputs | as they should be |",
        "| --- | ---: | ---: |",
    ]
    for kind in kinds:
        own = [one for case, one in rows if case.kind == kind]
        lines.append(f"| {kind} | {len(own)} | {sum(not one.problems for one in own)} |")
    return "\n".join(lines)


def _row(case: Case, found: Found) -> str:
    said = _PLACE.sub("", found.sentence.removeprefix("mcc: error: "))
    said = said if len(said) <= SHOWN else f"{said[:SHOWN]}..."
    verdict = "; ".join(found.problems) or "right"
    cells = (
        case.name.partition("/")[2], f"`{case.command}`", str(found.status), f"{found.cpu_s:.1f}",
        f"{found.peak_bytes / 1e9:.1f}", said, verdict,
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
