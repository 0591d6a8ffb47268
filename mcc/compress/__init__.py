"""The driver behind the main job: plans, repairs, lowers, measures, chooses and reports."""

import sys
from types import ModuleType

from mcc.compress.driver import compress
from mcc.compress.predict import plan

__all__ = ["compress", "plan"]


class _Job(ModuleType):
    """`mcc.compress(...)` runs the job, although importing this package makes `mcc.compress` the package."""

    __call__ = staticmethod(compress)


sys.modules[__name__].__class__ = _Job
