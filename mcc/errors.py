"""Exceptions of mcc: a stable code, one sentence, a place, and a hint.

Every error a user can cause is an `MccError`; the command line prints it as one sentence and exits with
`exit_status` (1: a constraint or a check was not met, 2: wrong use or unusable input).
"""

from __future__ import annotations

from typing import Any, ClassVar


class MccError(Exception):
    """Base of all errors of mcc.

    Args:
        message: One sentence that states the problem.
        where: Node, file or option concerned.
        hint: Suggested remedy.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 2

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}; {self.hint}" if self.hint else text


class UsageError(MccError):
    """Wrong use: an unknown option, target or pass, a malformed value."""

    code = "usage"


class DataError(MccError):
    """A data set or file that cannot be read in its declared format."""

    code = "data"


class UnsupportedError(MccError):
    """An operator or construct outside the canonical form, given by name and place."""

    code = "unsupported"


class TargetError(MccError):
    """A runtime that is missing, crashed, hung, or refused a file."""

    code = "target"


class GraphError(MccError):
    """A graph that breaks the canonical form: unknown operator, wrong shape, dangling value."""

    code = "graph"


class Refusal(MccError):
    """A pass that declines a graph or a node, with the reason."""

    code = "refusal"


class ConstraintError(MccError):
    """A budget that cannot be kept; the hint names the nearest feasible one.

    Attributes:
        report: Results so far, a `mcc.report.schema.Report`; for a job with several targets, the reports by
            target. None without results.
    """

    code = "constraint"
    exit_status = 1
    report: Any = None


class VerificationError(MccError):
    """A check that failed: numbers, structure, shapes or counted kernels differ."""

    code = "verification"
    exit_status = 1


class NotFiniteError(VerificationError):
    """A network's output is NaN or infinite."""
