"""Calibration: kernels are timed in the target's runtime, and the table of them gives a cost model."""

from mcc.calibrate.api import calibrate, predict_graph

__all__ = ["calibrate", "predict_graph"]
