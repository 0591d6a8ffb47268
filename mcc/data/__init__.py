"""Data sets and tasks: what a network is trained on, chosen by and measured with."""

from mcc.data.augment import Augmentation
from mcc.data.interval import Interval, paired_difference, wilson
from mcc.data.load import load_data
from mcc.data.module import Batch, DataModule, SplitName, assemble, from_arrays
from mcc.data.preprocessing import Preprocessing
from mcc.data.split import ImageSource, ImageSplit, MemoryImages, Split
from mcc.data.task import Prediction, Score, Task, load_task, task_names

__all__ = [
    "Augmentation",
    "Batch",
    "DataModule",
    "ImageSource",
    "ImageSplit",
    "Interval",
    "MemoryImages",
    "Prediction",
    "Preprocessing",
    "Score",
    "Split",
    "SplitName",
    "Task",
    "assemble",
    "from_arrays",
    "load_data",
    "load_task",
    "paired_difference",
    "task_names",
    "wilson",
]
