"""The command `mcc bench`."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mcc.cli.models import deployment_form, get_target, load_model, model_options
from mcc.cli.output import print_json, print_table
from mcc.cli.prepared import lowered_file
from mcc.cli.progress import progress_for
from mcc.cli.quantities import DURATION
from mcc.cli.settings import Settings, common_options
from mcc.errors import TargetError, UsageError
from mcc.ir.outputs import check_folder, files_in

if TYPE_CHECKING:
    from mcc.runtime.samples import LatencySamples
    from mcc.runtime.target import Target

BUDGET_S = 20.0


@click.command(short_help="Measure lowered models on a target, interleaved.")
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--target", required=True, metavar="T", help="Target to measure on; see mcc targets.")
@click.option("--kit", type=click.Path(path_type=Path), metavar="DIR",
              help="Do not measure: pack a kit that the owner of a remote phone can run.")  # fmt: skip
@click.option("--model", metavar="MODEL", help="With --kit, the network whose kernels are packed.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, metavar="N")
@click.option("--budget", type=DURATION, default=BUDGET_S, metavar="TIME",
              help="Time for all rounds together, as 30s or 2min.  [default: 20s]")  # fmt: skip
@click.option("--ops", is_flag=True, help="Also the time of each operator, if the runtime reports it.")
@click.option("--samples", is_flag=True, help="With --json, every sample and the machine's load.")
@click.option("--show", is_flag=True, help="Also write an HTML page, which can repeat the measurement.")
@click.option("-o", "out", type=click.Path(path_type=Path), default=Path("mcc-bench"), metavar="DIR",
              help="Folder of that page.  [default: mcc-bench]")  # fmt: skip
@click.option("--force", is_flag=True, help="Overwrite files in that folder that mcc did not create.")
@model_options
@common_options
def bench(
    files: tuple[str, ...], target: str, kit: Path | None, model: str | None, threads: int, budget: float,
    ops: bool, samples: bool, show: bool, out: Path, force: bool, input_shape: tuple[int, ...] | None,
    weights: Path | None, settings: Settings,
) -> None:  # fmt: skip
    """Measure lowered models on a target, in turns, so that drifts of the machine affect all alike.

    On a simulator, instructions and model cycles are counted. A MODEL is lowered for the target first.
    """
    from mcc.runtime.simulated import SimulatedTarget

    found = get_target(target)
    if kit is not None:
        return _pack(found, kit, model, threads, input_shape, weights, settings)
    if not files or model is not None:
        raise UsageError("needs files to measure", hint="mcc bench FILE..., or --kit DIR [--model MODEL]")
    if show and isinstance(found, SimulatedTarget):
        raise UsageError(f"--show draws times, and {found.spec} counts model cycles", hint="leave it out")
    if show:
        from mcc.report.bench_page import NAMES

        check_folder(out, NAMES, files_in(*files, weights), force=force)
    page: Path | None = None
    with tempfile.TemporaryDirectory(prefix="mcc-bench-") as folder, progress_for(settings) as progress:
        paths = [
            lowered_file(spec, found, Path(folder), input_shape=input_shape, weights=weights)
            for spec in files
        ]
        for path in paths:
            found.checked(path, threads)
        if isinstance(found, SimulatedTarget):
            progress("instructions", 0, 0, f"{len(paths)} files")
            costs = [asdict(counts) for counts in found.counts(paths)]
        else:
            progress("latency", 0, 0, f"{len(paths)} in turns, about {budget:.0f} s")
            measured = found.time(paths, threads=threads, budget_s=budget)
            costs = [{"latency_us": _figures(latency, samples)} for latency in measured]
            if show:
                page = _write_page(out, found, threads, list(zip(files, paths, measured, strict=True)))
        entries: list[dict[str, Any]] = []
        for index, (name, path, cost) in enumerate(zip(files, paths, costs, strict=True)):
            progress("memory and operators", index, len(paths), name)
            entry: dict[str, Any] = {
                "file": name,
                "target": found.spec,
                **cost,
                "peak_memory_bytes": found.peak_memory(path, threads),
                "size_bytes": path.stat().st_size,
            }
            if conditions := found.conditions(path, threads):
                entry["conditions"] = dict(conditions)
            entries.append({**entry, **_operators(found, path, threads)})
        progress("memory and operators", len(paths), len(paths))
    if settings.json:
        return print_json(entries)
    if any(entry.get("conditions", {}).get("emulated") for entry in entries):
        click.echo("This phone is emulated: its times are not those of a phone.")
    if isinstance(found, SimulatedTarget):
        return _show_counts(entries, ops)
    _show(entries, ops)
    if page is not None:
        click.echo(f"\n{page}; to repeat it in a browser: python3 -m http.server -d {page.parent}")
    return None


def _write_page(
    out: Path, target: Target, threads: int, timed: list[tuple[str, Path, LatencySamples]]
) -> Path:
    from mcc.report.bench_page import Timed, write_bench_page

    named = [Timed(Path(name).name, path, latency) for name, path, latency in timed]
    return write_bench_page(out, named, target.fingerprint(threads))


def _pack(
    target: Target, folder: Path, model: str | None, threads: int, input_shape: tuple[int, ...] | None,
    weights: Path | None, settings: Settings,
) -> None:  # fmt: skip
    """Pack a kit and print how to use it."""
    from mcc.calibrate.remote_bundle import pack
    from mcc.report.formatting import bytes_words

    graph = None
    if model is not None:
        graph = deployment_form(load_model(model, input_shape, weights).graph)
    with progress_for(settings) as progress:
        kit = pack(target, graph, folder, threads=threads, seed=settings.seed, progress=progress)
    if settings.json:
        return print_json({"folder": str(kit.folder), "models": kit.models, "size_bytes": kit.bytes})
    click.echo(f"{kit.folder}: {kit.models} models, {bytes_words(kit.bytes)}")
    for kernel, reason in kit.failed:
        click.echo(f"left out: {kernel}: {reason}")
    click.echo(
        "Send it to the owner of the phone, who runs run.sh (README.txt says how) and sends results.json:"
    )
    return click.echo("mcc calibrate --from results.json")


def _figures(latency: LatencySamples, samples: bool) -> dict[str, Any]:
    figures: dict[str, Any] = dict(latency.as_full_json() if samples else latency.as_json())
    figures["ci95"] = [round(latency.ci_low_us, 2), round(latency.ci_high_us, 2)]
    return figures


def _operators(target: Target, path: Path, threads: int) -> dict[str, Any]:
    """Cost of each operator; the reason if the runtime does not report it."""
    from mcc.runtime.simulated import SimulatedTarget

    try:
        if isinstance(target, SimulatedTarget):
            return {"ops": [asdict(op) for op in target.operators(path)]}
        times = target.profile(path, threads=threads)
    except TargetError as error:
        return {"ops": [], "ops_missing": error.message}
    return {"ops": [{"name": op.name, "kind": op.kind, "latency_us": round(op.us, 3)} for op in times]}


def _show_counts(entries: list[dict[str, Any]], ops: bool) -> None:
    from mcc.report.formatting import bytes_words, cycles_words, name_words

    fastest = min(entry["model_cycles"] for entry in entries)
    rows: list[list[object]] = [
        [
            entry["file"],
            f"{entry['instructions'] / 1e6:.2f} M",
            cycles_words(entry["model_cycles"]),
            f"{entry['model_cycles'] / fastest:.2f}",
            bytes_words(entry["size_bytes"]),
            bytes_words(entry["peak_memory_bytes"]),
        ]
        for entry in entries
    ]
    headers = ["file", "instructions", "model cycles", "x fewest", "size", "peak memory"]
    print_table(headers, rows, right=headers[1:])
    for entry in entries if ops else []:
        click.echo("")
        lines = [
            [name_words(op["name"]), op["kind"], f"{op['instructions']:,}", f"{op['model_cycles']:,.0f}"]
            for op in entry["ops"]
        ]
        headers = ["operator", "kind", "instructions", "model cycles"]
        print_table(headers, lines, right=headers[2:], title=str(entry["file"]))


def _show(entries: list[dict[str, Any]], ops: bool) -> None:
    from mcc.report.formatting import bytes_words, name_words, time_words

    fastest = min(entry["latency_us"]["median"] for entry in entries)
    times: list[list[object]] = []
    rest: list[list[object]] = []
    for entry in entries:
        latency = entry["latency_us"]
        interval, spread = (
            f"{time_words(low)} to {time_words(high)}"
            for low, high in (latency["ci95"], (latency["p10"], latency["p90"]))
        )
        slower = f"{latency['median'] / fastest:.2f}"
        times.append([entry["file"], time_words(latency["median"]), interval, slower])
        sizes = [bytes_words(entry["size_bytes"]), bytes_words(entry["peak_memory_bytes"])]
        rest.append([entry["file"], spread, latency["runs"], *sizes])
    # Two tables, so that each fits a terminal of 80 columns.
    print_table(["file", "median", "95 % interval", "x fastest"], times, right=["median", "x fastest"])
    click.echo("")
    headers = ["file", "p10 to p90", "runs", "size", "peak memory"]
    print_table(headers, rest, right=headers[2:])
    for entry in entries if ops else []:
        click.echo("")
        if "ops_missing" in entry:
            click.echo(f"{entry['file']}: {entry['ops_missing']}")
            continue
        lines = [[name_words(op["name"]), op["kind"], f"{op['latency_us']:.1f}"] for op in entry["ops"]]
        print_table(["operator", "kind", "us"], lines, right=["us"], title=str(entry["file"]))
