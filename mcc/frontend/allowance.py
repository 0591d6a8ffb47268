"""What a model may make of its constants while it is read: a few lines can ask for any amount of memory."""

from __future__ import annotations

from mcc.ir.limits import TooLargeError

# Folded constants are masks, tables of positions and weights in another layout: as much as the model holds
# itself a few times, or little.
ONE_BYTES = 32 << 20
ALL_BYTES = 128 << 20
COPIES = 4


class Allowance:
    """Counts the bytes of constants before they are computed.

    Args:
        stored_bytes: of the constants that the model holds itself.
    """

    def __init__(self, stored_bytes: int) -> None:
        self.one_bytes = ONE_BYTES + COPIES * stored_bytes
        self.left_bytes = ALL_BYTES + COPIES * stored_bytes

    def take(self, wanted_bytes: int, *, where: str) -> None:
        """Take so much. Raises TooLargeError where one constant, or all together, would be too large."""
        if wanted_bytes > min(self.one_bytes, self.left_bytes):
            raise TooLargeError(
                f"makes constants beyond what mcc handles ({wanted_bytes >> 20} MiB here, "
                f"{max(0, self.left_bytes) >> 20} MiB left)",
                where=where,
                hint="store the constant itself",
            )
        self.left_bytes -= wanted_bytes
