"""Targets, on which lowered models run and are timed: one file per target.

A file in this folder with a `TARGET` object is a target; `get_target("name")` finds it by scanning.
Start reading at `target.py` (the protocol) and `litert_host.py` (an example of a target).
"""

from mcc.runtime.facts import TargetFacts
from mcc.runtime.lock import measuring, wait_while_measuring
from mcc.runtime.registry import get_target, target_names, targets
from mcc.runtime.samples import LatencySamples, MachineLoad
from mcc.runtime.session import OpTime, Session, TensorInfo
from mcc.runtime.target import Availability, Fingerprint, Target

__all__ = [
    "Availability",
    "Fingerprint",
    "LatencySamples",
    "MachineLoad",
    "OpTime",
    "Session",
    "Target",
    "TargetFacts",
    "TensorInfo",
    "get_target",
    "measuring",
    "target_names",
    "targets",
    "wait_while_measuring",
]
