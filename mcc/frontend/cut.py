"""Taking a model up to a named place: what follows (suppressing boxes, say) is the application's.

A place is the path of a module inside a PyTorch model, whose result becomes an output, or the name of a node:
of a canonical graph (also where the rest of the model cannot be read), of an exported program, or of an ONNX
model (there also the name of a value).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from mcc.errors import UnsupportedError, UsageError
from mcc.ir.dataflow import ancestors, dataflow
from mcc.ir.graph import Graph, clean, copy_graph, infer, inputs, live_nodes, output_node

SUGGESTIONS = 3

PLACE = "--cut PLACE"
"""In the hint of a refusal: stands for the values that the refused operator reads."""


class _Reached(Exception):
    """All places were reached; what follows is not run."""


def unknown_place(name: str, known: Iterable[str], what: str) -> UsageError:
    """The error for a cut at a name that is not there, with the nearest that are."""
    near = difflib.get_close_matches(name, list(known), SUGGESTIONS, 0.4)
    hint = f"nearest: {', '.join(near)}" if near else "name a node that `mcc inspect` or `mcc opt` prints"
    return UsageError(f"there is no {what} {name!r}", where="--cut", hint=hint)


@contextmanager
def naming_cut(read: Callable[[], Sequence[str]]) -> Generator[None]:
    """Let a refusal that advises `--cut PLACE` name the places.

    Args:
        read: names of the values that the refused operator reads.
    """
    try:
        yield
    except UnsupportedError as error:
        places = " ".join(f"--cut {name}" for name in read()) if PLACE in (error.hint or "") else ""
        if places:
            error.hint = (error.hint or "").replace(PLACE, places)
        raise


def is_module_cut(module: nn.Module, cut: Collection[str]) -> bool:
    """Whether all places are paths of modules inside the model."""
    paths = dict(module.named_modules())
    return bool(cut) and all(name in paths for name in cut)


@contextmanager
def stopped_at(module: nn.Module, cut: Sequence[str]) -> Generator[None]:
    """Let a module return what the modules at these paths return, and run nothing behind the last of them.

    A module that is called several times counts with its first call. Nothing of this is left afterwards.

    Args:
        cut: paths of modules inside; none: the module stays as it is.
    """
    if not cut:
        yield
        return
    parts = dict(module.named_modules())
    found: dict[str, Any] = {}

    def see(name: str, result: Any) -> None:
        found.setdefault(name, result)
        if len(found) == len(cut):
            raise _Reached

    original = module.forward

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        found.clear()
        try:
            original(*args, **kwargs)
        except _Reached as reached:
            _leave_modules(reached)
            results = [found[name] for name in cut]
            return results[0] if len(results) == 1 else tuple(results)
        missing = next(name for name in cut if name not in found)
        raise UsageError("is not reached on the way through the model", where=f"--cut {missing}")

    hooks = [
        parts[name].register_forward_hook(lambda _m, _i, result, name=name: see(name, result)) for name in cut
    ]
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        for hook in hooks:
            hook.remove()


def _leave_modules(error: BaseException) -> None:
    """Leave the modules that an exception passed through: FX's tracer does not do so itself."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is fx.Tracer.call_module.__code__:
            trace.tb_frame.f_locals["self"].module_stack.popitem(last=True)
        trace = trace.tb_next


def cut_graph(graph: Graph, cut: Sequence[str]) -> Graph:
    """A copy of a graph that returns the values of the named nodes; what only others needed is gone.

    Inputs that nothing needs any longer stay: they are how the application feeds the model.

    Raises:
        UsageError: no such node, or one that does not depend on the input.
    """
    result = copy_graph(graph)
    nodes = {node.name: node for node in result.graph.nodes if node.op == "call_function"}
    for name in cut:
        if name not in nodes:
            raise unknown_place(name, nodes, "node")
    output_node(result).args = (tuple(nodes[name] for name in cut),)
    fed = set(inputs(result))
    for name in cut:
        if not fed & ancestors(dataflow(result.graph.nodes), nodes[name]):
            raise UsageError("does not depend on the input", where=f"--cut {name}")
    assert live_nodes(result)
    return infer(clean(result))
