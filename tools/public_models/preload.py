"""Imports shared by all runs of the zoo: each run is forked from a process with this module.

The runtimes are left out: they start threads when they are imported, and threads do not survive a fork.
"""

from __future__ import annotations

import torch
from torch import nn

from mcc.frontend import capture
from tools.public_models import chain
from tools.public_models.importing import declare_operators

__all__ = ["chain", "timm", "torchvision"]

declare_operators()

import timm  # noqa: E402  (its operators must be declared first)
import torchvision  # noqa: E402

torch.set_num_threads(1)
capture(
    nn.Conv2d(1, 1, 1), (torch.zeros(1, 1, 2, 2),)
)  # torch.export imports a good part of torch when first used
