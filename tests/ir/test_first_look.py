"""Files are told by their first bytes, in a moment, however large they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcc.errors import MccError
from mcc.ir import first_look
from mcc.ir.first_look import check_model


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".tflite", ".mcc"])
def test_a_large_file_of_zeros_is_refused_without_reading_it(suffix: str, tmp_path: Path) -> None:
    """Sparse: a reader that goes through its 768 MiB byte by byte takes minutes."""
    file = tmp_path / f"zeros{suffix}"
    with file.open("wb") as made:
        made.truncate(768 << 20)
    with pytest.raises(MccError):
        check_model(str(file))


def test_more_fields_than_a_model_has_are_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "fields.onnx"
    file.write_bytes(b"\x3a\x00" * 12)  # field 7, the graph, empty, twelve times
    check_model(str(file))
    monkeypatch.setattr(first_look, "MAX_FIELDS", 11)
    with pytest.raises(MccError):
        check_model(str(file))
