"""The facts of a delivered file for the code that apps run it with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mcc.app.facts import AppFacts, ports
from mcc.compress.job import Job
from mcc.data import ImageSplit
from mcc.ir import ops
from mcc.ir.graph import Graph, inputs, outputs
from mcc.ir.notes import shape_of
from mcc.ir.table import row_of


def app_facts(job: Job, file: Path, graph: Graph) -> AppFacts:
    """The facts of a file of the job.

    Args:
        graph: The graph that it was lowered from.
    """
    taken, given = ([shape_of(node) for node in nodes(graph)] for nodes in (inputs, outputs))
    with job.target.session(file) as session:
        read, written = ports(session, taken, given, file)
    judged = outputs(graph)[job.task.output]
    answer = job.task.answer(job.data)
    if answer.kind == "classes" and judged.op == "call_function" and row_of(judged).function is ops.softmax:
        answer = replace(answer, probabilities=True)
    split = job.data.test
    preprocessing = split.preprocessing if isinstance(split, ImageSplit) else job.data.preprocessing
    return AppFacts(
        file=file.name, model=job.name, inputs=tuple(read), outputs=tuple(written),
        preprocessing=preprocessing, labels=tuple(job.data.class_names), answer=answer,
        judged=job.task.output, threads=job.request.threads, pictures=isinstance(split, ImageSplit),
    )  # fmt: skip
