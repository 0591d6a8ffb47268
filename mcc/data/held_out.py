"""Which images are for choices and which for the report. It depends on the data alone, not on a run's seed.

A network scores better on images that it was trained on: choices that rest on them are wrong. So images for
choices come from those it has not been trained on.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcc.data.augment import IndexArray, epoch_order

# Held out of training images: a tenth, but enough for an interval of about two points at 95 % accuracy where
# that leaves four fifths for training, and never more than an evaluation in a slow runtime can afford.
VALIDATION_SHARE, VALIDATION_LEAST, VALIDATION_MOST, VALIDATION_GREATEST_SHARE = 0.1, 500, 5000, 0.2
TEST_SHARE = 0.2  # held out for the test where training images are all there is
HOLD_OUT_SEED = 20_260_101


def hold_out(
    labels: NDArray[np.int64], count: int, seed: int = HOLD_OUT_SEED
) -> tuple[IndexArray, IndexArray]:
    """Split places 0..len(labels)-1 into (kept, held out), each class in proportion, both in rising order.

    Args:
        count: about how many to hold out; each class gives its share, rounded.
    """
    order = epoch_order(len(labels), seed, 0)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held[members[: round(count * len(members) / len(labels))]] = True
    return np.flatnonzero(~held).astype(np.int64), np.flatnonzero(held).astype(np.int64)


def halves(labels: NDArray[np.int64], seed: int = HOLD_OUT_SEED) -> tuple[IndexArray, IndexArray]:
    """Split places 0..len(labels)-1 into (first, second), in rising order.

    No class has more than one image more in either, and the first has as many as the second or one more.
    """
    order = epoch_order(len(labels), seed, 0)
    by_class = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_class[0::2]), np.sort(by_class[1::2])


def validation_count(images: int) -> int:
    """How many of `images` training images are held out for validation."""
    wanted = min(max(round(images * VALIDATION_SHARE), VALIDATION_LEAST), VALIDATION_MOST)
    return min(wanted, int(images * VALIDATION_GREATEST_SHARE))
