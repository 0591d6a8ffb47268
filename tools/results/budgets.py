"""Check that budgets are kept: latency, size and memory on CIFAR-10 networks, measured by a new process.

    python -m tools.results.budgets --data DIR --weights DIR -o out/budgets

Each run compresses without fine-tuning (`--epochs 0`) under one budget; `mcc bench` then measures the
delivered file in turns with the original, in its own processes. Only a part of the images is used, since
accuracy is not the subject and would take most of the time; of the strategies only the joint plan, and
uniform width, which a plan must not fall behind. Resumable; writes docs/results/budgets.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mcc.data.cifar10 import FOLDER, RECORD_BYTES
from mcc.report.schema import load_report
from tools.results.data import named

PAGE = Path(__file__).parents[2] / "docs" / "results" / "budgets.md"
NETWORKS = ("mobilenet_v2", "resnet20", "resnet56")
TARGETS = ("ort-host", "litert-host", "litert-web")
RECORDS = 2000  # of each of CIFAR-10's files
SHARES = {"latency": (0.8, 0.65, 0.5, 0.3), "memory": (0.95, 0.9, 0.85), "size": (0.6, 0.4, 0.25)}


@dataclass(frozen=True)
class Case:
    """One budget: a share of the original's figure."""

    network: str
    target: str
    kind: str
    share: float

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.network}-{self.target}-{self.kind}-{self.share:g}"


def cases() -> list[Case]:
    """All budgets."""
    found: list[Case] = []
    for network in NETWORKS:
        for target in TARGETS:
            for kind, shares in SHARES.items():
                found += [Case(network, target, kind, share) for share in shares]
    return found


def fewer_images(data: str, folder: Path) -> str:
    """A copy of CIFAR-10 with the first `RECORDS` images of each file."""
    small = folder / "data" / FOLDER
    small.mkdir(parents=True, exist_ok=True)
    for file in sorted((Path(data) / FOLDER).glob("*_batch*.bin")):
        (small / file.name).write_bytes(file.read_bytes()[: RECORDS * RECORD_BYTES])
    return str(small.parent)


def program() -> str:
    """The `mcc` of this environment."""
    return str(Path(sys.executable).with_name("mcc"))


def bench(files: list[Path], target: str) -> list[dict[str, Any]]:
    """The measurements of a new process."""
    done = subprocess.run(
        [program(), "bench", *map(str, files), "--target", target, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def original(case: Case, weights: str, folder: Path) -> dict[str, Any]:
    """Latency, size and memory of the original, measured once for each network and target."""
    known = folder / f"{case.network}-{case.target}.json"
    if not known.exists():
        form = "onnx" if case.target.startswith("ort") else "tflite"
        file = folder / f"{case.network}.{form}"
        model = [
            f"tools/baselines/networks.py:{case.network}",
            "--weights",
            f"{weights}/{case.network}.safetensors",
        ]
        subprocess.run([program(), "lower", *model, "--to", form, "-o", str(file)], check=True)
        known.write_text(json.dumps({**bench([file], case.target)[0], "size_bytes": file.stat().st_size}))
    return json.loads(known.read_text())


def option(case: Case, figures: dict[str, Any]) -> list[str]:
    """The budget as an option of `mcc compress`."""
    if case.kind == "latency":
        return ["--latency", f"{case.share * figures['latency_us']['median']:.0f}us"]
    value = figures["size_bytes" if case.kind == "size" else "peak_memory_bytes"]
    return [f"--{case.kind}", f"{case.share * value / 1000:.0f}kB"]


def run(case: Case, data: str, weights: str, folder: Path) -> dict[str, Any]:
    """Compress under the budget and check it by a new process; cached."""
    known = folder / case.name / "case.json"
    if known.exists():
        return json.loads(known.read_text())
    asked = option(case, original(case, weights, folder))
    command = [
        program(), "compress", f"tools/baselines/networks.py:{case.network}",
        "--weights", f"{weights}/{case.network}.safetensors", "--data", named(data),
        "--target", case.target, "--epochs", "0", *asked,
        "--strategies", "uniform-width,joint", "-o", str(folder / case.name), "--resume",
    ]  # fmt: skip
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    found: dict[str, Any] = {"asked": " ".join(asked), "status": done.returncode}
    if (folder / case.name / "report.json").exists():
        report = load_report(folder / case.name / "report.json")
        model = next((folder / case.name).glob("model.*"))
        checked = bench([next((folder / case.name).glob("baseline.*")), model], case.target)
        found |= {
            "chosen": report.chosen.name if report.chosen else "",
            "met": report.met,
            "validation_accuracy": report.compressed.validation_accuracy,
            "size_bytes": model.stat().st_size,
            "original_us": checked[0]["latency_us"]["median"],
            "latency_us": checked[1]["latency_us"]["median"],
            "peak_memory_bytes": checked[1]["peak_memory_bytes"],
        }
        even = [s.keeps_all for s in report.strategies if s.name == "uniform-width"]
        found |= {"uniform_width_keeps": even[0]} if even else {}
    else:
        found |= missed(folder / case.name / "state" / "strategies.json")
        found["message"] = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(found))
    return found


def missed(tried: Path) -> dict[str, Any]:
    """Whether a uniform width kept the budget that no strategy kept according to the run."""
    entries = json.loads(tried.read_text()) if tried.exists() else []
    even = [all(e["keeps_budgets"].values()) for e in entries if e["name"] == "uniform-width"]
    return {"uniform_width_keeps": even[0]} if even else {}


@click.command()
@click.option("--data", required=True, help="Folder with cifar-10-batches-bin.")
@click.option("--weights", required=True, help="Folder with the trained baselines.")
@click.option("-o", "--output", default="out/budgets", show_default=True)
@click.option("--only", default="", metavar="REGEX", help="Only cases whose name has this in it.")
def main(data: str, weights: str, output: str, only: str) -> None:
    """Run what is missing, then write the page."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    small = fewer_images(data, folder)
    found: list[tuple[Case, dict[str, Any]]] = []
    for case in cases():
        if (folder / case.name / "case.json").exists() or re.search(only, case.name):
            found.append((case, run(case, small, weights, folder)))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(page(found, folder)) + "\n", encoding="utf-8")
    click.echo(f"wrote {PAGE}")


def page(found: list[tuple[Case, dict[str, Any]]], folder: Path) -> list[str]:
    """The lines of the page."""
    again = {case.name: kept_again(case, one, folder) for case, one in found if "met" in one}
    beaten = [c.name for c, one in found if "met" not in one and one.get("uniform_width_keeps")]
    return [
        "# Budgets",
        "",
        "`python -m tools.results.budgets`: compressed without fine-tuning under one budget, a share of the",
        "original's figure, by the joint plan or a uniform width. A new process then measured the delivered",
        "file, in turns with the original. A time is kept in microseconds, as it was asked for; the original",
        "itself varies by a few percent from hour to hour, hence its share, too. Validation accuracy: of",
        f"{RECORDS // 2} images, without any fine-tuning.",
        "",
        f"{len(again)} of {len(found)} budgets were kept; by a new process: {sum(again.values())}.",
        "Not kept although a uniform width keeps them: " + (", ".join(beaten) or "none") + ".",
        "",
        "Uniform: whether a uniform width keeps the budget.",
        "",
        "| case | asked | kept | in a new process | uniform | chosen | validation accuracy | time there, us "
        "| / original | size, B | peak memory, B |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *[row(case, one, again.get(case.name)) for case, one in found],
    ]


def kept_again(case: Case, found: dict[str, Any], folder: Path) -> bool:
    """Whether the measurements of the new process keep the given budget."""
    if case.kind == "latency":
        return found["latency_us"] <= float(found["asked"].removeprefix("--latency ").removesuffix("us"))
    key = "size_bytes" if case.kind == "size" else "peak_memory_bytes"
    known = json.loads((folder / f"{case.network}-{case.target}.json").read_text())
    return found[key] <= case.share * known[key] + 500  # the budget was asked for in whole kB


def row(case: Case, found: dict[str, Any], again: bool | None) -> str:
    """One case as text."""
    even = {True: "yes", False: "no", None: "–"}[found.get("uniform_width_keeps")]
    if again is None:
        return f"| {case.name} | {found['asked']} | no: {found.get('message', '')} | – | {even} | | | | | | |"
    return (
        f"| {case.name} | {found['asked']} | yes | {'yes' if again else 'no'} | {even} | {found['chosen']} "
        f"| {found['validation_accuracy']:.1%} | {found['latency_us']:.0f} "
        f"| {found['latency_us'] / found['original_us']:.3f} | {found['size_bytes']} "
        f"| {found['peak_memory_bytes']} |"
    )


if __name__ == "__main__":
    main()
