"""The driver behind the main job: plans, repairs, lowers, measures, chooses and reports."""

from mcc.compress.driver import compress
from mcc.compress.predict import plan

__all__ = ["compress", "plan"]
