"""Importing torchvision and timm beside a torch that has no torchvision build of its own.

torchvision's compiled operators exist for a few builds of torch only, and its import fails where they are
missing. No network of the zoo runs one of them (boxes are the application's work), so it is enough that they
are declared.
"""

from __future__ import annotations

from functools import cache

import torch

# Those whose shape rules or gradients torchvision registers when it is imported, with its own signatures.
_DECLARED = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def declare_operators() -> None:
    """Declare the operators that torchvision's import looks for, unless its compiled library brings them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _DECLARED:
        name = schema.partition("(")[0]
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _kept.append(library)


_kept: list[torch.library.Library] = []  # a library takes its operators along when it is collected
