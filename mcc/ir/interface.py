"""The inputs and outputs that the author of a model named: an app feeds and reads these.

Of a file they are its own, of a PyTorch module the keys of the dictionary that it returns. A graph keeps them
in the note of its output node, so that a file lowered from it after any passes has the same names, order and
types.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import cast

DTYPES = ("float32", "int8", "uint8")


@dataclass(frozen=True)
class Port:
    """An input or output of a file.

    Attributes:
        name: Name of its tensor.
        key: Its name in the signature; empty if there is none.
        dtype: Element type: `float32`, `int8` or `uint8`.
        scale, zero_point: Parameters of an integer one, as stored.
    """

    name: str
    key: str = ""
    dtype: str = "float32"
    scale: float = 0.0
    zero_point: int = 0

    def __post_init__(self) -> None:
        texts = (cast(object, self.name), cast(object, self.key), cast(object, self.dtype))
        if not all(isinstance(text, str) for text in texts) or self.dtype not in DTYPES:
            raise ValueError(f"an input or output has names and a type of {', '.join(DTYPES)}, not {self!r}")
        scale, zero = cast(object, self.scale), cast(object, self.zero_point)
        if not isinstance(scale, int | float) or not 0 <= scale < float("inf") or type(zero) is not int:
            raise ValueError(f"an input or output has a scale and a whole zero point, not {self!r}")
        if self.dtype != "float32" and scale == 0:
            raise ValueError(f"an integer input or output has a positive scale, not {self!r}")

    @property
    def integer(self) -> bool:
        """Whether its elements are integers."""
        return self.dtype != "float32"


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a file, in order.

    Attributes:
        signature: Key of the signature; empty if the file has none.
        half_weights: Whether the file stores real weights in half precision.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    signature: str = ""
    half_weights: bool = False

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.signature), str):
            raise ValueError(f"the key of a signature is a text, not {self.signature!r}")
        if not isinstance(cast(object, self.half_weights), bool):
            raise ValueError(f"half_weights is True or False, not {self.half_weights!r}")

    def plain(self) -> tuple[object, ...]:
        """Nested tuples of plain values, for the text form."""
        return astuple(self)


def interface_from(value: object) -> Interface:
    """The interface from `Interface.plain`. Raises ValueError for anything else."""
    try:
        inputs, outputs, signature, half = cast(tuple[tuple[tuple[object, ...], ...], ...], value)
        return Interface(
            tuple(Port(*each) for each in inputs),  # pyright: ignore[reportArgumentType]
            tuple(Port(*each) for each in outputs),  # pyright: ignore[reportArgumentType]
            cast(str, signature),
            cast(bool, half),
        )
    except TypeError as error:
        raise ValueError(f"is no interface: {value!r:.80}") from error
