"""Imports torchvision and timm with a torch for which there is no build of torchvision.

torchvision's compiled operators exist for a few builds of torch only, and its import fails without them. No
network of the zoo runs one of them (boxes are left to the application), so it is enough to declare them.
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
    """Declare the operators that torchvision's import requires, unless its compiled library defines them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _DECLARED:
        name = schema.partition("(")[0]
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _kept.append(library)


_kept: list[torch.library.Library] = []  # the operators of a library are removed when it is collected
