"""Formats: found by scanning, asked by everybody, and each with a target that runs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mcc.lower
from mcc.compress.folder import names_left
from mcc.cost_api import kernel_of
from mcc.errors import UsageError
from mcc.ir.graph import GraphBuilder, calls
from mcc.ir.text import print_graph
from mcc.lower import formats as module
from mcc.lower.formats import format_of, formats, get_format
from mcc.runtime.registry import get_target, targets
from mcc.search.kernel_bytes import constant_bytes
from tests.pages import files

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
TITLE = "mcc/lower/listing/format.py"


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The format of the page, in a folder of its own."""
    (tmp_path / "listing").mkdir()
    (tmp_path / "listing" / "format.py").write_text(files(PAGE)[TITLE], encoding="utf-8")
    monkeypatch.setattr(module, "LOWER", tmp_path)
    monkeypatch.setattr(mcc.lower, "__path__", [*mcc.lower.__path__, str(tmp_path)])
    formats.cache_clear()
    yield
    formats.cache_clear()


def test_every_format_is_run_by_its_host_and_every_target_has_one() -> None:
    for name, form in formats().items():
        assert form.name == name
        assert form.suffix in get_target(form.host).suffixes
        assert format_of(Path("net").with_suffix(form.suffix)) is form
    for target in targets().values():
        assert get_format(target.format).suffix in target.suffixes
    assert len({form.suffix for form in formats().values()}) == len(formats())


def test_what_is_no_format_is_refused_by_name() -> None:
    assert format_of("net.mcc") is None
    with pytest.raises(UsageError, match=r"mcc cannot write .tf.") as caught:
        get_format("tf")
    assert all(name in str(caught.value) for name in formats())


def test_a_format_is_one_folder(newcomer: None, tmp_path: Path) -> None:
    b = GraphBuilder()
    graph = b.finish(b.relu(b.input("x", (1, 4))))
    file = get_format("listing").write(graph, tmp_path / "net", labels=("a",))
    assert (file.name, file.read_text()) == ("net.listing", print_graph(graph))
    assert format_of(file) is get_format("listing")
    assert "model.listing" in names_left("listing")
    assert constant_bytes(kernel_of(calls(graph)[0]), get_format("listing").storage) == 0
