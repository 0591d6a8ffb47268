"""Sessions of loaded files, and the interface of their runners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from mcc.runtime.wire import Array, Header


@dataclass(frozen=True)
class TensorInfo:
    """An input or output declared in a file, in its own layout (NHWC in the .tflite files of mcc).

    Attributes:
        scale, zero_point: Parameters of a quantised tensor if the file has them, else None.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class Runner(Protocol):
    """Interface of runners, which answer the requests of `worker.py`: a process here or on a phone."""

    @property
    def pid(self) -> int:
        """Process id on this machine, to exclude it from the load of other processes."""
        ...

    def request(
        self,
        header: Mapping[str, Any],
        arrays: Sequence[Array] = (),
        *,
        limit_s: float = ...,
        where: str | None = None,
    ) -> tuple[Header, list[Array]]:
        """Send a request and return its answer; see `process.ProcessRunner`."""
        ...

    def close(self) -> None:
        """End the runner; idempotent."""
        ...


@dataclass(frozen=True)
class OpTime:
    """Time of one operator: its name, its kind and mean microseconds per inference."""

    name: str
    kind: str
    us: float


class RunnerSource(Protocol):
    """Interface of a target for measurements: its runners and their limits."""

    @property
    def memory_runners(self) -> int:
        """Number of new runners for peak memory, of which the maximum is used."""
        ...

    @property
    def runners_at_once(self) -> int:
        """Maximum number of simultaneous runners."""
        ...

    @property
    def sample_us(self) -> float:
        """Minimum duration of a sample, in microseconds."""
        ...

    def start_runner(self) -> Runner:
        """A new runner."""
        ...

    def measuring(self) -> AbstractContextManager[None]:
        """Context held while timing."""
        ...


class Session(ABC):
    """A file loaded in a target's runtime, ready to run. Use it in a `with` statement."""

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @abstractmethod
    def run(self, inputs: Sequence[Array], *, raw: bool = False) -> list[Array]:
        """One inference.

        Args:
            inputs: Arrays of the shapes in `inputs`, in the file's own layout; float arrays for a quantised
                input are quantised with the file's parameters.
            raw: Whether quantised outputs are returned as integers; otherwise dequantised to float32.

        Returns:
            The outputs in the order of `outputs`.

        Raises:
            UsageError: The inputs do not fit the file.
            TargetError: The runtime failed, crashed or hung.
        """

    @abstractmethod
    def run_all(self, x: Array, *, raw: bool = False) -> list[Array]:
        """N inferences of a model with one input, without per-image process overhead.

        Args:
            x: Input [N, ...] for a file's input [B, ...]; N must be a multiple of B (normally 1).
            raw: As in `run`.

        Returns:
            The outputs in the order of `outputs`, each concatenated over all inferences along axis 0.

        Raises:
            UsageError, TargetError: As in `run`.
        """

    def run_many(self, x: Array, *, raw: bool = False) -> Array:
        """The first output of `run_all`, for models with one output."""
        return self.run_all(x, raw=raw)[0]

    @abstractmethod
    def close(self) -> None:
        """End the session and its runner; idempotent."""

    @property
    def input_details(self) -> tuple[TensorInfo, ...]:
        """Name, shape, dtype and quantisation of the inputs."""
        return self.inputs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
