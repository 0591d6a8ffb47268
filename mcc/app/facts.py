"""The facts of one model file that an app is written from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcc.data.answer import Answer
from mcc.data.preprocessing import Preprocessing
from mcc.report.measure import channels_last
from mcc.runtime.session import Session, TensorInfo

PICTURE_CHANNELS = (1, 3, 4)  # grey, colour, colour with opacity
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of the file, as stored.

    Attributes:
        name: Name of its tensor.
        shape: Shape with batch, in the layout of the file.
        dtype: numpy's name of its element type.
        last: Whether its channels are stored last, where the graph has them first.
        scale, zero_point: Parameters of an integer one; (1, 0) of a float one.
    """

    name: str
    shape: Shape
    dtype: str
    last: bool
    scale: float = 1.0
    zero_point: int = 0

    @property
    def integer(self) -> bool:
        """Whether its elements are quantised."""
        return self.dtype in ("int8", "uint8")


@dataclass(frozen=True)
class AppFacts:
    """Everything that the generated code holds as constants.

    Attributes:
        file: Name of the model file.
        model: Name of the model.
        inputs, outputs: Its inputs and outputs in order.
        preprocessing: Normalisation of a picture; its means and deviations fit the input's channels.
        labels: Names of the classes.
        answer: Meaning of the outputs.
        judged: Place of the output that holds the answer.
        threads: Number of threads that the file was measured with.
        pictures: Whether the inputs are pictures, and no other measurements.
    """

    file: str
    model: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    answer: Answer
    judged: int
    threads: int
    pictures: bool

    @property
    def suffix(self) -> str:
        """The suffix of the file, which tells the runtime."""
        return Path(self.file).suffix

    @property
    def image(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of the only input, if it is a picture."""
        port = self.inputs[0]
        if not self.pictures or len(self.inputs) != 1 or len(port.shape) != 4 or port.shape[0] != 1:
            return None
        channels, height, width = (port.shape[3], *port.shape[1:3]) if port.last else port.shape[1:]
        return (channels, height, width) if channels in PICTURE_CHANNELS else None


def ports(
    session: Session, taken: list[Shape], given: list[Shape], file: Path
) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of an open file.

    Args:
        taken, given: Shapes of the graph's inputs and outputs, with batch.
    """
    last = channels_last(file)
    return (
        [_port(info, shape, last) for info, shape in zip(session.inputs, taken, strict=True)],
        [_port(info, shape, last) for info, shape in zip(session.outputs, given, strict=True)],
    )


def _port(info: TensorInfo, shape: Shape, last: bool) -> Port:
    moved = (*shape[2:], shape[1]) if len(shape) == 4 else shape[1:]
    fits = [layout for layout, axes in ((True, moved), (False, shape[1:])) if info.shape[1:] == axes]
    stored_last = len(shape) == 4 and (last if last in fits else fits == [True])
    scale = (info.scale or 1.0, info.zero_point or 0) if info.scale else (1.0, 0)
    return Port(info.name, tuple(info.shape), info.dtype, stored_last, *scale)
