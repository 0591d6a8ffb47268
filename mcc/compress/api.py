"""The Python entry points: `mcc.compress(...)` and `mcc.plan(...)`, with the options of the command line."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mcc.budget import Budget, refuse_unplanned
from mcc.compress.driver import compress_one
from mcc.compress.job import Place, Progress, save_json, silent
from mcc.compress.multi_target import compress_multi_target, plan_multi_target, shared_plan_content
from mcc.compress.pareto_front import PlanResult, decide
from mcc.compress.plan_loop import SharedTrial
from mcc.compress.python_objects import Loaders, named
from mcc.compress.request import Request
from mcc.compress.session import opened
from mcc.compress.strategies import known_strategies
from mcc.data import DataModule, Preprocessing
from mcc.data.stated import Asked, asked_for
from mcc.errors import UsageError
from mcc.ir.outputs import files_in, refuse_inputs
from mcc.quantities import LatencyLimit, parse_latency, parse_ratio, parse_size
from mcc.report.schema import Report


def compress(
    model: str | Path | nn.Module,
    data: str | DataModule | Loaders,
    target: str,
    *,
    example: Tensor | Sequence[Tensor] | None = None,
    latency: str | None = None,
    latency_us: float | None = None,
    model_cycles: float | None = None,
    speedup: float | str | None = None,
    size: str | None = None,
    size_bytes: int | None = None,
    memory: str | None = None,
    memory_bytes: int | None = None,
    max_drop: float | None = None,
    epochs: float | None = None,
    threads: int = 1,
    weights: Path | str | None = None,
    input_shape: tuple[int, ...] | None = None,
    cut: Sequence[str] = (),
    out: Path | str = "out",
    resume: bool = False,
    plan: Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
    command: str = "",
    workers: int | None = None,
    ray: str | None = None,
    steps: int = 1,
    strategies: Sequence[str] = (),
    preprocessing: Preprocessing | Asked | None = None,
    task: str | None = None,
    judge: str | int | None = None,
    ignore_labels: bool = False,
    allow_noise: bool = False,
    force: bool = False,
) -> Report:
    """Compress a model for a target under budgets; write the model and its report into a folder.

    Example:
        report = mcc.compress("net.py:make", "imagefolder:photos", "litert-host", weights="net.safetensors",
                              speedup="2x", size="1.5MB", max_drop=1.0, out="out")

    Args:
        model: `package.module:factory`, a `.pt2`, `.onnx` or `.mcc` file, see `mcc.frontend.load.load_model`;
            or a module, with an `example` of its input.
        data: `digits`, `cifar10:DIR`, `imagefolder:DIR`, `segmentation:DIR`, `detection:DIR` or
            `package.module:factory`; or a `DataModule`, or torch loaders
            `{"train": loader, "test": loader}`, see `mcc.data.from_loaders`.
        target: Name of the target, see `mcc targets`; for several, see `compress_for`.
        example: Input tensor [N, ...] of the module; only its shape matters.
        latency: Limit of one inference, as `"8ms"`, or on a simulated core `"20Mcycles"`; it is compared with
            the upper 95 % bound of the median. `latency_us` and `model_cycles` give it as a number.
        speedup: Required speed-up over the original float model, lowered the same way and measured in turns
            with it: `2` or `"2x"`.
        size: Limit of the file size, as `"1.5MB"`; `size_bytes` gives it as a number.
        memory: Limit of the peak memory of a fresh runner, as `"6MB"`; `memory_bytes` gives it as a number.
        max_drop: Largest accepted loss of the validation metric, in points for a fraction (an accuracy), else
            in the metric's unit.
        epochs: Passes over the training data for the fine-tuning of each strategy; 0: no fine-tuning.
        threads: Threads of one inference.
        weights: File to load into a factory's module: safetensors, or a checkpoint of `torch.save`;
            `FILE#KEY` names one of several sets of weights in it.
        input_shape: Input shape with batch size, for models that do not state it.
        cut: Nodes or outputs where the model ends, see `mcc.frontend.load.load_model`.
        out: Output folder.
        resume: Whether to continue from the state in the output folder.
        plan: Path of a plan.json to follow.
        seed: Seed of all random number generators.
        progress: Callback that receives stage, done, total and a note.
        command: Command line that repeats the run, for the report.
        workers: Number of single-threaded processes for sensitivities and fine-tuning; None: this process.
        ray: Address of a Ray cluster to use instead of processes; `local` starts one here.
        steps: Number of steps in which the joint plan approaches its latency budget, with a short fine-tuning
            after each.
        strategies: Strategies to compare with the original, names of files in `mcc/compress/strategies/`;
            empty: all.
        preprocessing: Preprocessing of the images; None: as the model states, else the usual one of the data.
        task: Task of the network, see `mcc.data.load_task`; None: the task of the data.
        judge: Name or index of the output that the metric is computed from; None: chosen by shape and name.
        ignore_labels: Whether class names in the model's file may differ from those of the data.
        allow_noise: Whether a quantised result that loses the signal of its float weights is only a warning.
        force: Whether files in the folder that mcc did not create may be overwritten.

    Raises:
        ConstraintError: No strategy keeps every budget. The report and the strategy that comes nearest are
            written to the folder nevertheless; the error holds the report as `report`, and its hint names the
            nearest feasible budgets.
        MccError: An argument cannot be used, or a check failed.
    """
    with named(locals()) as given:
        request, place = _asked(given)
        return compress_one(request, place, plan_file=None if plan is None else Path(plan))


def compress_for(
    model: str | Path | nn.Module, data: str | DataModule | Loaders, targets: Sequence[str], **options: Any
) -> dict[str, Report]:
    """Make one plan for several targets and compress for each of them, into a subfolder of the target's name.

    Args:
        targets: Names of targets, see `mcc targets`.
        options: Keyword arguments of `compress`, except `plan`.

    Returns:
        The report of each target, by target.

    Raises:
        ConstraintError: No result keeps the budgets of a target; the error holds all reports as `report`.
        MccError: As `compress`.
    """
    names = _targets(targets)
    given = signature(compress).bind(model, data, names[0], **options)
    given.apply_defaults()
    if given.arguments["plan"] is not None:
        raise UsageError("follows one plan on one target", where="--plan", hint="name one --target")
    with named(given.arguments) as keywords:
        return compress_multi_target(*_asked(keywords), targets=names)


def plan(
    model: str | Path | nn.Module,
    data: str | DataModule | Loaders,
    target: str,
    *,
    example: Tensor | Sequence[Tensor] | None = None,
    latency: str | None = None,
    latency_us: float | None = None,
    model_cycles: float | None = None,
    speedup: float | str | None = None,
    size: str | None = None,
    size_bytes: int | None = None,
    memory: str | None = None,
    memory_bytes: int | None = None,
    max_drop: float | None = None,
    threads: int = 1,
    weights: Path | str | None = None,
    input_shape: tuple[int, ...] | None = None,
    cut: Sequence[str] = (),
    out: Path | str | None = None,
    seed: int = 0,
    progress: Progress = silent,
    preprocessing: Preprocessing | Asked | None = None,
    task: str | None = None,
    judge: str | int | None = None,
    ignore_labels: bool = False,
    measure: bool = True,
) -> PlanResult:
    """Compute a plan without training; arguments as in `mcc.compress`.

    Args:
        out: Path of the plan file to write.
        measure: Whether to time the original and kernels that are missing in the lookup table; if False, the
            plan uses the table as it is.

    Returns:
        The predicted Pareto front, and the plan for the given budgets.

    Raises:
        UsageError: The table has no measurements of the target, and `measure` is False.
        MccError: As `mcc.compress`, and for a budget that cannot be predicted without training or measuring:
            memory, or the loss of the metric.
    """
    keywords = {**locals(), "epochs": 0.0}
    with named(keywords) as given, tempfile.TemporaryDirectory(prefix="mcc-plan-") as folder:
        request, place = _asked({**given, "out": folder})
        refuse_unplanned(request.budget, ("memory_bytes", "max_drop"))
        _check_output(out, request)
        with opened(request, place, measures=measure) as session:
            found = decide(session)
    if out is not None:
        save_json(Path(out), found.to_dict())
    return found


def plan_for(
    model: str | Path | nn.Module,
    data: str | DataModule | Loaders,
    targets: Sequence[str],
    *,
    out: Path | str | None = None,
    **options: Any,
) -> SharedTrial:
    """Compute one plan for several targets, build it without training, and measure it on each of them.

    Args:
        targets: Names of targets, see `mcc targets`.
        out: Path of the plan file to write.
        options: Keyword arguments of `plan`, except `measure`.

    Raises:
        MccError: As `plan`; a budget on memory is measured here.
    """
    names = _targets(targets)
    given = signature(plan).bind(model, data, names[0], **options)
    given.apply_defaults()
    if not given.arguments.pop("measure"):
        raise UsageError("plans for several targets are tried on each", where="--no-measure",
                         hint="name one --target")  # fmt: skip
    asked = {**given.arguments, "epochs": 0.0}
    with named(asked) as keywords, tempfile.TemporaryDirectory(prefix="mcc-plan-") as folder:
        request, place = _asked({**keywords, "out": folder})
        refuse_unplanned(request.budget, ("max_drop",))
        _check_output(out, request)
        found = plan_multi_target(request, place, targets=names)
    if out is not None:
        save_json(Path(out), shared_plan_content(found))
    return found


def _check_output(out: Path | str | None, request: Request) -> None:
    if out is not None:
        refuse_inputs([Path(out)], files_in(request.model, request.data, request.weights))


_PLACE = ("resume", "force", "progress", "command")
_REQUEST = {field.name for field in fields(Request)}


def _asked(given: Mapping[str, Any]) -> tuple[Request, Place]:
    """The request and the place of work, from the keyword arguments of `compress` or `plan`."""
    asked = {name: value for name, value in given.items() if name in _REQUEST}
    weights, judge = given["weights"], given["judge"]
    asked |= {
        "model": str(given["model"]), "budget": _budget(given), "cut": tuple(given["cut"]),
        "weights": Path(weights) if weights else None, "judge": None if judge is None else str(judge),
        "pictures": asked_for(given["preprocessing"]),
        "plan": "given" if given.get("plan") is not None else "",
        "strategies": known_strategies(given.get("strategies", ())),
    }  # fmt: skip
    place = {name: given[name] for name in _PLACE if name in given}
    return Request(**asked), Place(Path(given["out"]), **place, data=given["data_module"])


def _targets(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise UsageError("is one text, not a list of names", where="targets", hint=f"write [{names!r}]")
    if not names:
        raise UsageError("names no target", where="--target", hint="see mcc targets")
    return tuple(dict.fromkeys(names))


def _budget(given: Mapping[str, Any]) -> Budget:
    """The budgets from the texts and the numbers. Raises UsageError."""
    speedup = given["speedup"]
    asked: dict[str, Any] = {
        "speedup": parse_ratio(speedup) if isinstance(speedup, str) else speedup,
        "max_drop": given["max_drop"],
        "size_bytes": _one_of("size", "size_bytes", given),
        "memory_bytes": _one_of("memory", "memory_bytes", given),
    }
    latency = given["latency"]
    if latency is not None and not isinstance(latency, str):
        raise UsageError(
            f"{latency!r} has no unit", where="latency", hint='write for example "8ms", or latency_us=8000'
        )
    limit = LatencyLimit() if latency is None else parse_latency(latency)
    for name in ("latency_us", "model_cycles"):
        asked[name] = _one_of("latency", name, {**given, "latency": getattr(limit, name)})
    return Budget.asked_for(**asked)


def _one_of(words: str, number: str, given: Mapping[str, Any]) -> Any:
    """The value of a pair of arguments, a text and a number. Raises UsageError where both are given."""
    said = given[words]
    if said is None:
        return given[number]
    if given[number] is not None:
        raise UsageError("is given twice", where=f"{words} and {number}", hint="leave one out")
    return parse_size(said) if isinstance(said, str) else said
