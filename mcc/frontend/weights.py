"""Loading weights into a module: which of the tensors in a file are the module's, checked and copied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mcc.errors import DataError, UsageError
from mcc.files import ENTRY, split_entry
from mcc.frontend.checkpoint import WeightSet, read_sets

NAMES_SHOWN = 3

_HINT = "give the weights of this very model"
_WRAPPERS = {"module", "_orig_mod", "model", "net", "network"}
"""Attributes in which DataParallel, torch.compile, Lightning modules and the like keep the network."""
_AVERAGED = re.compile(r"(^|[._-])(ema|swa|avg|averaged?|shadow|polyak)\d*([._-]|$)", re.IGNORECASE)
_COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
"""Last parts of names: of batch norms, of torch's AveragedModel, and of the profiler thop."""


def load_weights(module: nn.Module, path: Path) -> tuple[str, ...]:
    """Copy the weights of a file into a module.

    Args:
        path: `.safetensors`, or a checkpoint written by `torch.save`; `FILE#KEY` names one of its entries.

    Returns:
        Sentences that say which weights were taken, where the file left a choice.

    Raises:
        DataError: The file cannot be read without running code, does not fit, or holds several sets that fit;
            the message names parameters that are missing, unexpected, of another shape or not finite.
        UsageError: It has no entry of that name.
    """
    path, entry = split_entry(path)
    own = module.state_dict(keep_vars=True)
    # Buffers that are not stored any more may be in older files.
    known = own | {name: value for name, value in module.named_buffers() if name not in own}
    required = {name: value for name, value in own.items() if not name.endswith("num_batches_tracked")}
    sets = read_sets(path)
    candidates = [c for found in sets for c in _candidates(found, required, known)]
    taken, sentence = _chosen(candidates, sets, entry, path)
    if taken is None:
        raise _misfit(sets if not entry else _under(sets, entry), required, known, path)
    for name in taken.tensors:
        _check(name, taken.tensors[name], known[name], path)
    with torch.no_grad():
        for name, value in taken.tensors.items():
            known[name].copy_(value)
    return (sentence,) if sentence else ()


# -- sets that fit -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """Weights in a file that have all of a module's names.

    Attributes:
        source: The set that they are in.
        prefix: What stands in front of the module's names, with its dot.
        tensors: Tensors by the module's names.
        unexpected: Names under the prefix that the module does not have.
        beside: Names of the set that are not under the prefix.
    """

    source: WeightSet
    prefix: str
    tensors: dict[str, Tensor] = field(repr=False)
    unexpected: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Key and prefix, without those of wrappers at the end: what a user names it by."""
        parts = [*self.source.key.split("."), *self.prefix.split(".")]
        parts = [part for part in parts if part]
        while len(parts) > 1 and parts[-1] in ("module", "_orig_mod"):
            parts.pop()
        return ".".join(parts)

    @property
    def averaged(self) -> bool:
        """Whether these are averaged weights (EMA, SWA)."""
        if self.source.averaged is not None:
            return self.source.averaged
        counters = (name for name in self.source.tensors if name.rpartition(".")[2] == "n_averaged")
        counted = any(self.prefix.startswith(name.removesuffix("n_averaged")) for name in counters)
        return counted or bool(_AVERAGED.search(self.label))

    def same_as(self, other: Candidate) -> bool:
        """Whether the two hold equal values."""
        pairs = ((value, other.tensors.get(name)) for name, value in self.tensors.items())
        return all(two is not None and one.shape == two.shape and torch.equal(one, two) for one, two in pairs)


def _candidates(source: WeightSet, required: dict[str, Tensor], known: dict[str, Tensor]) -> list[Candidate]:
    """For each prefix under which all required names are found: the weights there."""
    found = {
        prefix: {name.removeprefix(prefix) for name in names}
        for prefix, names in _by_prefix(source, known).items()
        if all(prefix + name in source.tensors for name in required)
    }
    if len(found) > 1:  # inner parts may have the whole's names by chance, but not its shapes
        shaped = {
            prefix: names
            for prefix, names in found.items()
            if all(source.tensors[prefix + name].shape == value.shape for name, value in required.items())
        }
        found = shaped or found
    taken = {prefix + name for prefix, names in found.items() for name in names}
    flat = {"ema_" + name.replace(".", "_") for name in known}  # MMCV's hook, which exchanges the two as well
    candidates: list[Candidate] = []
    for prefix, names in found.items():
        rest = [n for n in source.tensors if n not in taken and not _counts(n) and n not in flat]
        tensors = {name: source.tensors[prefix + name] for name in known if name in names}
        inside = tuple(name for name in rest if name.startswith(prefix))
        beside = tuple(name for name in rest if not name.startswith(prefix))
        candidates.append(Candidate(source, prefix, tensors, inside, beside))
    return candidates


def _by_prefix(source: WeightSet, known: Iterable[str]) -> dict[str, list[str]]:
    """Names in a set that end in one of the module's, by what stands in front of that."""
    own = set(known)
    found: dict[str, list[str]] = {}
    for name in source.tensors:
        for place in (0, *(at.end() for at in re.finditer(r"\.", name))):
            if name[place:] in own:
                found.setdefault(name[:place], []).append(name)
    return found


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def _under(sets: list[WeightSet], entry: str) -> list[WeightSet]:
    return [s for s in sets if s.key == entry or s.key.startswith(entry + ".")] or sets


# -- the choice --------------------------------------------------------------------------------------------


def _chosen(
    candidates: list[Candidate], sets: list[WeightSet], entry: str, path: Path
) -> tuple[Candidate | None, str]:
    """The weights to take, or None where none fit, and what is to be said of the choice.

    Averaged weights are taken before raw ones, as by timm and Real-ESRGAN: they are what was evaluated.
    """
    if entry:
        named = [c for c in candidates if _is_named(c, entry)]
        if not named and not any(_leads(s.key, entry) for s in sets):
            there = [c.label for c in candidates] or [s.key for s in sets]
            raise UsageError(
                f"holds nothing called {entry!r}", where=str(path),
                hint=f"it holds {_few(label or 'the file itself' for label in there)}",
            )  # fmt: skip
        candidates = named
    whole = [c for c in candidates if not c.unexpected] or candidates
    whole = [c for place, c in enumerate(whole) if not any(c.same_as(other) for other in whole[:place])]
    if not whole:
        return None, ""
    if len(whole) == 1:
        _refuse_unexpected(whole[0], path)
        return whole[0], _remark(whole[0], path)
    averaged, raw = [c for c in whole if c.averaged], [c for c in whole if not c.averaged]
    if len(averaged) == len(raw) == 1:
        _refuse_unexpected(averaged[0], path)
        taken, other = averaged[0].label, raw[0].label
        return averaged[0], (
            f"{path.name} holds averaged and raw weights; the averaged ones ({_called(taken)}) were taken. "
            f"--weights {path.name}{ENTRY}{other or '.'} takes the raw ones."
        )
    labels = [c.label for c in whole]
    raise DataError(
        f"holds {len(labels)} sets of weights, {', '.join(map(_called, labels))}", where=str(path),
        hint=f"name one of them: --weights {path.name}{ENTRY}{next(filter(None, labels))}",
    )  # fmt: skip


def _is_named(candidate: Candidate, entry: str) -> bool:
    """Whether a user's `KEY` leads to these weights; `.` is the file itself."""
    full = ".".join(part for part in (candidate.source.key, candidate.prefix.rstrip(".")) if part)
    if entry == ".":
        return not candidate.label
    return candidate.label == entry or _leads(full, entry)


def _leads(key: str, entry: str) -> bool:
    return key == entry or key.startswith(entry + ".")


def _called(label: str) -> str:
    return repr(label) if label else "those of the file itself"


def _refuse_unexpected(taken: Candidate, path: Path) -> None:
    if taken.unexpected:
        raise DataError(
            f"holds {_few(taken.unexpected)}, which the model does not have ({len(taken.unexpected)} such in "
            "all)",
            where=str(path), hint=_HINT,
        )  # fmt: skip


def _remark(taken: Candidate, path: Path) -> str:
    """What is to be said of the only weights that fit."""
    if taken.source.pickled:
        return (
            f"{path.name} holds a pickled {taken.source.pickled}: its weights were taken, and its code was "
            "not run."
        )
    averaged = [name for name in taken.beside if _AVERAGED.search(name)]
    if averaged and not taken.averaged:
        return (
            f"{path.name} also holds what may be averaged weights ({_few(averaged)}), under other names than "
            f"the model's; {_called(taken.label)} were taken."
        )
    inside = [part for part in taken.prefix.split(".") if part and part not in _WRAPPERS]
    if inside and taken.beside:
        return (
            f"The weights are those of {_called(taken.label)} in {path.name}; {len(taken.beside)} tensors "
            f"beside them were left out ({_few(taken.beside)})."
        )
    return ""


# -- what does not fit -------------------------------------------------------------------------------------


def _misfit(
    sets: list[WeightSet], required: dict[str, Tensor], known: dict[str, Tensor], path: Path
) -> DataError:
    """Why no set fits, with names of both sides, from the one that comes nearest."""
    best, prefix, names = max(_nearest(sets, known), key=lambda found: len(found[2]))
    lacking = [name for name in required if prefix + name not in best.tensors]
    other = [n for n in best.tensors if n not in names and n.startswith(prefix) and not _counts(n)]
    where = f" (under {best.key!r})" if best.key else ""
    if not names:
        return DataError(
            f"has none of the model's weights{where}: it holds {_few(best.tensors)}, and the model has "
            f"{_few(required)}",
            where=str(path), hint=_HINT,
        )  # fmt: skip
    more = f"; it holds {len(other)} that the model does not have ({_few(other)})" if other else ""
    return DataError(
        f"has no weights for {len(lacking)} of the model's {len(required)} tensors ({_few(lacking)}){more}",
        where=str(path), hint=_HINT,
    )  # fmt: skip


def _nearest(sets: list[WeightSet], known: Iterable[str]) -> Iterator[tuple[WeightSet, str, list[str]]]:
    for found in sets:
        yield found, "", []
        for prefix, names in _by_prefix(found, known).items():
            yield found, prefix, names


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:NAMES_SHOWN]) + (", ..." if len(listed) > NAMES_SHOWN else "")


def _check(name: str, value: Tensor, own: Tensor, path: Path) -> None:
    kind = _unusable(value)
    if kind:
        raise DataError(
            f"holds {name} as {kind}", where=str(path), hint="save ordinary, dense tensors of the CPU"
        )
    if own.is_meta:
        raise DataError(
            f"cannot be loaded into {name}, for which the model has no memory (device meta)", where=str(path),
            hint="make the model on the CPU",
        )  # fmt: skip
    if value.is_complex() or value.is_floating_point() != own.is_floating_point():
        raise DataError(
            f"holds {name} as {_type(value)}, but the model's is {_type(own)}", where=str(path),
            hint="dequantise integer weights first; a compressed file is lowered as it is",
        )  # fmt: skip
    if value.shape != own.shape:
        raise DataError(
            f"holds {name} of shape {tuple(value.shape)}, but the model's is {tuple(own.shape)}",
            where=str(path), hint=_HINT,
        )  # fmt: skip
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise DataError(f"holds values in {name} that are not finite", where=str(path), hint="train it again")
    if not bool((value.detach().to(own.dtype).isfinite()).all()):
        raise DataError(f"holds values in {name} that are too large for {_type(own)}", where=str(path))


def _unusable(value: Tensor) -> str:
    """What kind of tensor it is that holds no plain values, in words; empty for an ordinary one."""
    if value.is_meta:
        return "a tensor without values (device meta)"
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return f"a sparse tensor ({_word(value.layout)})"
    return f"a quantised tensor ({_type(value)})" if value.is_quantized else ""


def _type(value: Tensor) -> str:
    return _word(value.dtype)


def _word(value: object) -> str:
    return str(value).removeprefix("torch.")
