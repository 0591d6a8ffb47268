"""The pages stand alone, say what the report says, and trust nothing that they are given."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mcc.ir.diff import NodeView, diff_views
from mcc.report.diff_html import render_diff_html, write_diff_html
from mcc.report.html import render_html, write_html
from mcc.report.plot import COLOURS, pareto_svg
from mcc.report.schema import Result
from tests.report import examples

VOID = {"meta", "link", "br", "input", "img", "hr"}
HOSTILE = '<script>alert("x")</script>'


class Checker(HTMLParser):
    """Collects elements and addresses, and notices tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def checked(page: str) -> Checker:
    """The page, parsed; it must be well nested and refer to nothing outside itself."""
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert all(address.startswith(("#", "data:,")) for address in checker.addresses), checker.addresses
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    assert not {"script", "iframe", "object", "embed"} & set(checker.seen)
    return checker


def diff() -> str:
    a = [NodeView("conv", "conv2d", "f32[1,8,4,4]"), NodeView("gone", "relu", "f32[1,8,4,4]")]
    b = [NodeView("conv", "conv2d", "f32[1,6,4,4]"), NodeView("new", "relu", "f32[1,6,4,4]")]
    return render_diff_html(diff_views(a, b), "before.mcc", HOSTILE)


def test_report_page_stands_alone_and_says_it() -> None:
    report = examples.report()
    page = render_html(report, diff_views([NodeView("a", "relu", "t")], [NodeView("b", "relu", "t")]))
    text = " ".join(" ".join(checked(page).text).split())
    for strategy in report.strategies:
        assert strategy.name in text
    for decision in report.decisions:
        assert decision.node in text
    for said in ("2.07x faster and 66 % smaller", "Pareto", "chosen", "sparse, 80 % zeros", "96 → 56"):
        assert said in text
    for said in (
        "low-rank, 48 inner",
        "fitted",
        "mcc compress",
        "1 added, 1 removed",
        "ai-edge-litert 2.3.0",
    ):
        assert said in text
    assert text.index("2.07x faster") < text.index("Strategies")


def test_report_page_fits_phones_and_both_schemes() -> None:
    page = render_html(examples.report())
    assert 'name="viewport" content="width=device-width' in page
    assert "prefers-color-scheme: dark" in page
    assert "max-width: 720px" in page


def test_pages_trust_nothing() -> None:
    report = examples.report(model=HOSTILE, data=HOSTILE, verdicts=(HOSTILE,), command=HOSTILE)
    strategies = tuple(s.model_copy(update={"name": s.name + HOSTILE}) for s in report.strategies)
    page = render_html(report.model_copy(update={"strategies": strategies}))
    checked(page)
    checked(diff())
    assert "<script" not in page + diff()


def test_report_page_without_the_optional_parts() -> None:
    figures = Result(model_cycles=2e6, size_bytes=10, macs=1, params=1)
    report = examples.report(
        strategies=(), decisions=(), baseline=figures, compressed=figures, command="", stages={}, versions={},
        predicted_latency_us=None,
    )  # fmt: skip
    text = " ".join(checked(render_html(report)).text)
    assert "Speed against accuracy" not in text
    assert "model cycles" in text


def test_pages_are_the_same_every_time() -> None:
    assert render_html(examples.report()) == render_html(examples.report())


def test_plot_can_be_read_aloud_and_follows_the_page() -> None:
    svg = pareto_svg(examples.report())
    assert svg.startswith("<svg")
    assert 'role="img"' in svg
    assert "8 joint: 352 us, 92.88 %, chosen" in svg
    assert "currentColor" in svg
    assert not any(stand_in in svg for stand_in in COLOURS)
    assert "<metadata" not in svg
    assert "<style" not in svg


def test_points_that_coincide_share_a_label() -> None:
    tried = examples.report().strategies
    twin = tried[-1].model_copy(update={"name": "twin", "chosen": False})
    svg = pareto_svg(examples.report(strategies=(*tried, twin)))
    assert ">8, 9</text>" in svg
    assert ">8</text>" not in svg


def test_diff_page() -> None:
    text = " ".join(checked(diff()).text)
    assert "1 added, 1 removed" in text
    for said in ("conv", "gone", "new", "f32[1,6,4,4]"):
        assert said in text


def test_large_diffs_hide_what_is_unchanged() -> None:
    same = [NodeView(f"n{i}", "relu", "t") for i in range(1000)]
    assert 'id="same" >' in render_diff_html(diff_views(same, same), "a", "b")
    assert 'id="same" checked>' in diff()


def test_pages_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    from mcc.errors import DataError

    write_html(examples.report(), tmp_path / "report.html")
    write_diff_html(diff_views([], []), tmp_path / "diff.html", "a", "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["diff.html", "report.html"]
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_html(examples.report(), tmp_path / "taken.html")
    assert len(list(tmp_path.iterdir())) == 3


def test_warnings_stand_before_the_headline():
    report = examples.report().model_copy(update={"warnings": (HOSTILE,)})
    page = render_html(report)
    checked(page)
    assert page.index("&lt;script&gt;alert") < page.index('class="headline"')
