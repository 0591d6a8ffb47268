"""Data sets and tasks: what a network is trained on, chosen by and measured with."""

from mcc.data.assembly import assemble, from_arrays
from mcc.data.augment import Augmentation
from mcc.data.bound import BoundTask, bind_task
from mcc.data.classification import Prediction
from mcc.data.interval import Interval, paired_difference, wilson
from mcc.data.load import load_data
from mcc.data.loaders import from_loaders
from mcc.data.module import Batch, DataModule, SplitName
from mcc.data.outputs import Named, Output
from mcc.data.preprocessing import Preprocessing
from mcc.data.split import ImageSource, ImageSplit, MemoryImages, Split
from mcc.data.task import Score, Task, load_task, task_names
from mcc.metric import Metric

__all__ = [
    "Augmentation",
    "Batch",
    "BoundTask",
    "DataModule",
    "ImageSource",
    "ImageSplit",
    "Interval",
    "MemoryImages",
    "Metric",
    "Named",
    "Output",
    "Prediction",
    "Preprocessing",
    "Score",
    "Split",
    "SplitName",
    "Task",
    "assemble",
    "bind_task",
    "from_arrays",
    "from_loaders",
    "load_data",
    "load_task",
    "paired_difference",
    "task_names",
    "wilson",
]
