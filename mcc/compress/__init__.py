"""Compression jobs: plan, fine-tune, lower, measure, choose and report."""

import sys
from types import ModuleType

from mcc.compress.api import compress, compress_for, plan, plan_for

__all__ = ["compress", "compress_for", "plan", "plan_for"]


class _Job(ModuleType):
    """Makes the package callable: `mcc.compress(...)` runs `mcc.compress.compress`."""

    __call__ = staticmethod(compress)


sys.modules[__name__].__class__ = _Job
