"""The driver behind the main job: plans, fine-tunes, lowers, measures, chooses and reports."""

import sys
from types import ModuleType

from mcc.compress.api import compress, compress_for, plan, plan_for

__all__ = ["compress", "compress_for", "plan", "plan_for"]


class _Job(ModuleType):
    """`mcc.compress(...)` runs the job, although importing this package makes `mcc.compress` the package."""

    __call__ = staticmethod(compress)


sys.modules[__name__].__class__ = _Job
