"""How an app reads what a network says: the part of a task that runs on the phone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["classes", "map", "boxes", "values"]


@dataclass(frozen=True)
class Answer:
    """The meaning of a network's outputs.

    Attributes:
        kind: `classes`: one score per class; `map`: a score per class and pixel, [classes, H, W]; `boxes`:
            see `boxes`; `values`: numbers with no further meaning.
        probabilities: Whether the scores of `classes` are probabilities already, and need no softmax.
        boxes: Constants of decoding and suppression for `boxes`, as JSON values.
    """

    kind: Kind = "values"
    probabilities: bool = False
    boxes: Any = None

    @property
    def whole(self) -> bool:
        """Whether a picture is seen whole, each side scaled by its own factor; else its centre."""
        return self.kind in ("map", "boxes")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)
