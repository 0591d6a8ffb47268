"""The verdict says what the figures say, good or bad."""

from typing import Any

from mcc.budget import Budget
from mcc.report.schema import Report
from mcc.report.verdict import headline, verdicts, with_verdicts
from tests.report import examples


def changed(part: str, **figures: Any) -> Report:
    """The example report with figures of `baseline` or `compressed` replaced."""
    report = examples.report()
    return report.model_copy(update={part: getattr(report, part).model_copy(update=figures)})


def test_gain_and_price() -> None:
    assert headline(examples.report()) == "2.07x faster and 66 % smaller, for 0.24 points of test accuracy."


def test_slower_is_said() -> None:
    report = examples.report(speedup=0.8)
    assert headline(report).startswith("1.25x slower and 66 % smaller")


def test_nothing_gained_is_said() -> None:
    report = changed("compressed", size_bytes=2_800_000).model_copy(update={"speedup": 1.01})
    assert headline(report).startswith("Neither faster nor smaller")


def test_accuracy_gained_or_unmeasured() -> None:
    assert "0.88 points of test accuracy gained" in headline(changed("compressed", accuracy=0.94))
    assert "at no loss of test accuracy" in headline(changed("compressed", accuracy=0.9312))
    none = changed("compressed", accuracy=None, validation_accuracy=None)
    assert "was not measured" in headline(none)


def test_nothing_lost_is_said_so() -> None:
    report = examples.report(accuracy_reference=0.9288)
    assert "on the validation images, nothing lost" in "\n".join(verdicts(report))


def test_the_original_may_be_the_answer() -> None:
    tried = tuple(s.model_copy(update={"chosen": s.name == "original"}) for s in examples.strategies())
    assert "delivered unchanged" in headline(examples.report(strategies=tried))


def test_every_part_is_there() -> None:
    text = "\n".join(verdicts(examples.report()))
    assert "One inference takes 352 us instead of 730 us" in text
    assert "940 kB instead of 2.80 MB (34 %)" in text
    assert "0.42 points lost" in text
    assert "is 92.88 % (95 % interval 92.36 % to 93.37 %) instead of 93.12 %" in text
    assert "Every budget is kept: --speedup 2x, --size 1.2MB, --max-drop 1." in text
    assert "was 346 us: 1.7 % below the final figure." in text
    assert "int8-ptq: slower than the original here, 0.74x." in text
    assert "sparse-1x1: no faster than the original here, 1.00x. Sparse 1x1 kernels do not exist" in text
    assert "misses the budget for speed-up and accuracy lost" in text


def test_a_missed_budget_is_said() -> None:
    report = examples.report(
        budget=Budget(latency_us=300.0, size_bytes=10**6), met={"latency_us": False, "size_bytes": True}
    )
    assert "Not kept: --latency 300us." in verdicts(report)


def test_simulated_figures_are_no_times() -> None:
    from mcc.report.schema import Result

    def simulated(cycles: float) -> Result:
        return Result(model_cycles=cycles, size_bytes=10, macs=1, params=1)

    report = examples.report(
        baseline=simulated(40e6),
        compressed=simulated(20e6),
        predicted_latency_us=None,
        predicted_model_cycles=19e6,
    )
    text = "\n".join(verdicts(report))
    assert "is modelled as 20.0 Mcycles instead of 40.0 Mcycles" in text
    assert "was 19.0 Mcycles: 5.0 % below" in text


def test_verdicts_of_the_engine_are_kept_and_not_doubled() -> None:
    report = with_verdicts(examples.report(verdicts=("A narrower network would do as well.",)))
    assert report.verdicts[-1] == "A narrower network would do as well."
    assert with_verdicts(report).verdicts == report.verdicts


def test_a_network_narrowed_evenly_is_compared() -> None:
    report = examples.report()
    chosen = report.chosen
    assert chosen is not None
    assert chosen.validation_accuracy is not None

    def said(**figures: Any) -> str:
        even = chosen.model_copy(update={"name": "uniform-width", "chosen": False, **figures})
        return "\n".join(verdicts(report.model_copy(update={"strategies": (*report.strategies, even)})))

    assert "A narrower network of the same family would do as well: with uniform width" in said()
    worse = chosen.validation_accuracy - 0.03
    assert (
        f"less well: with uniform width and the same training, it keeps the budgets at {worse:.2%}".replace(
            "%", " %"
        )
        in said(validation_accuracy=worse, behind_points=3.0, behind_ci95=(2.0, 4.0))
    )
    missed = said(keeps_budgets={"speedup": False})
    assert "No uniform width that was tried keeps the budgets." in missed
    assert "family" not in "\n".join(verdicts(report))
