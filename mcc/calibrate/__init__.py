"""Calibration of targets: timing of kernels in the target's runtime, for the table of a cost model."""

from mcc.calibrate.api import calibrate, predict_graph

__all__ = ["calibrate", "predict_graph"]
