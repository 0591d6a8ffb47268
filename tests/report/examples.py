"""A realistic report for tests: figures made up, shapes and sizes as of a MobileNetV2 at 64x64."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mcc.budget import Budget
from mcc.data import load_task
from mcc.report.choose import choose, mark
from mcc.report.pairs import Pairs
from mcc.report.schema import Cost, Decision, Latency, Report, StrategyResult, TargetInfo

IMAGES = 5000


def latency(median: float, spread: float = 0.02) -> Latency:
    """A latency in microseconds whose 95 % interval is `spread` wide on either side."""
    return Latency(
        median=median,
        p10=median * 0.97,
        p90=median * 1.06,
        runs=400,
        ci95=(median * (1 - spread), median * (1 + spread)),
    )


def strategy(name: str, *, accuracy: float | None, us: float | None, **more: Any) -> StrategyResult:
    """A strategy with the figures that the rule looks at, and likely ones for the rest."""
    fields: dict[str, Any] = {
        "size_bytes": 2_800_000,
        "peak_memory_bytes": 9_000_000,
        "macs": 26_000_000,
        "params": 700_000,
        "latency_us": None if us is None else latency(us),
        "validation_accuracy": accuracy,
        "accuracy": accuracy,
    }
    return StrategyResult(name=name, **{**fields, **more})


def strategies() -> tuple[StrategyResult, ...]:
    """What a run compares, before anything is marked."""
    slow_int8 = "int8 is slower than float here: 0.75x."
    no_sparse = "Sparse 1x1 kernels do not exist in this runtime on x86: the zeros gain nothing."
    return (
        strategy("original", accuracy=0.9312, us=730.0),
        strategy("original-trained", accuracy=0.9330, us=731.0),
        strategy("int8-ptq", accuracy=0.9244, us=980.0, size_bytes=820_000, peak_memory_bytes=4_100_000,
                 notes=(slow_int8,)),
        strategy("channels", accuracy=0.9183, us=340.0, size_bytes=1_100_000, params=270_000, macs=10_400_000,
                 peak_memory_bytes=5_200_000),
        strategy("sparse-1x1", accuracy=0.9260, us=732.0, size_bytes=1_020_000, params=210_000,
                 peak_memory_bytes=9_700_000, notes=(no_sparse,)),
        strategy("low-rank", accuracy=0.9190, us=700.0, size_bytes=2_100_000, params=520_000,
                 macs=20_000_000),
        strategy("prune-then-quantise", accuracy=0.9205, us=420.0, size_bytes=390_000, params=270_000,
                 macs=10_400_000, peak_memory_bytes=2_900_000),
        strategy("joint", accuracy=0.9288, us=352.0, size_bytes=940_000, params=262_000, macs=10_100_000,
                 peak_memory_bytes=4_700_000, predicted_latency_us=346.0),
    )  # fmt: skip


def pairs(tried: Sequence[StrategyResult], images: int = IMAGES, *, alike: bool = False) -> Pairs:
    """What each image scored, made up from the validation accuracies.

    Args:
        alike: whether strategies fail on the same images, as far as they can; else on others.
    """
    scores: dict[str, npt.NDArray[np.float64]] = {}
    for place, strategy in enumerate(tried):
        right = round((strategy.validation_accuracy or 0.0) * images)
        found = (np.arange(images) < right).astype(np.float64)
        scores[strategy.name] = found if alike else np.roll(found, place * images // len(tried))
    return Pairs(scores, load_task())


def decisions() -> tuple[Decision, ...]:
    """Per-layer decisions of the kinds there are."""
    measured, fitted = "measured", "fitted"

    def cost(us: float, source: Any) -> Cost:
        return Cost(latency_us=us, source=source)

    return (
        Decision(node="features_0_0", kind="conv2d 3x3", channels_before=16, channels_after=16,
                 cost_before=cost(31.0, measured), cost_after=cost(31.0, measured), note="kept: stem"),
        Decision(node="features_1_conv_0", kind="conv2d 1x1", channels_before=96, channels_after=56,
                 cost_before=cost(58.2, measured), cost_after=cost(33.1, measured)),
        Decision(node="features_1_conv_1", kind="depthwise 3x3", channels_before=96, channels_after=56,
                 cost_before=cost(44.0, measured), cost_after=cost(26.4, fitted)),
        Decision(node="features_9_conv_0", kind="conv2d 1x1", channels_before=288, channels_after=288,
                 implementation="sparse", sparsity=0.8, block=1,
                 cost_before=cost(40.1, measured), cost_after=cost(21.0, measured)),
        Decision(node="features_17_conv_2", kind="conv2d 1x1", channels_before=160, channels_after=160,
                 implementation="low-rank", rank=48, cost_before=cost(38.0, measured),
                 cost_after=cost(24.7, fitted)),
        Decision(node="classifier", kind="linear", channels_before=10, channels_after=10, precision="int8",
                 cost_before=cost(4.0, measured), cost_after=cost(2.1, measured)),
    )  # fmt: skip


def report(**changes: Any) -> Report:
    """A whole report as `mcc compress` leaves it; `changes` replace fields."""
    budget = Budget(speedup=2.0, size_bytes=1_200_000, max_drop=1.0)
    tried = strategies()
    baseline, reference = tried[0].result, 0.9330
    tried = mark(tried, budget, baseline=baseline, reference=reference)
    paired = pairs(tried)
    picked = choose(tried, budget, baseline=baseline, reference=reference, difference=paired.difference)
    tried = paired.filled_in(tried, ("original", "original-trained"), picked.name)
    tried = tuple(s.model_copy(update={"chosen": s.name == picked.name}) for s in tried)
    fields: dict[str, Any] = {
        "model": "tools/baselines/networks.py:mobilenet_v2",
        "data": "cifar10",
        "target": TargetInfo(
            name="litert-host", runtime="ai-edge-litert", version="2.3.0", device="AMD EPYC, AVX2", threads=1
        ),
        "baseline": baseline,
        "compressed": picked.result,
        "speedup": 2.07,
        "speedup_ci95": (2.03, 2.11),
        "predicted_latency_us": 346.0,
        "budget": budget,
        "met": picked.keeps_budgets,
        "accuracy_reference": reference,
        "validation_images": IMAGES,
        "test_images": 10_000,
        "strategies": tried,
        "decisions": decisions(),
        "stages": {
            "capture": 0.8,
            "measure operators": 41.0,
            "plan": 6.5,
            "fine-tune": 212.0,
            "measure": 30.2,
        },
        "seed": 0,
        "versions": {"mcc": "0.1.0", "torch": "2.13.0", "ai-edge-litert": "2.3.0"},
        "command": "mcc compress tools/baselines/networks.py:mobilenet_v2 --weights mobilenet_v2.safetensors "
        "--data cifar10:DIR --target litert-host --speedup 2x --size 1.2MB --max-drop 1.0 --seed 0 -o out",
        "checks": {"numbers": "largest difference to the torch graph 3.1e-6 of the output range"},
    }
    return Report(**{**fields, **changes})
