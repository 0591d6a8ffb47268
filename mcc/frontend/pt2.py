"""Reading `.pt2` files (`torch.export.save`) without torch's loader.

torch's loader unpickles tensors marked so, falls back to unrestricted unpickling for the legacy format and
for sample inputs, evaluates strings as symbolic expressions and imports modules that the file names. mcc
reads the archive itself instead: JSON and raw tensor bytes; nothing in it can run code. What would need a
pickle is refused with a sentence. The schema is version 8 of `torch/_export/serde/schema.py`.
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx

from mcc.errors import DataError, MccError, UnsupportedError
from mcc.files import readable_file
from mcc.frontend.emitter import MAX_ELEMENTS
from mcc.frontend.operators import operator_of
from mcc.frontend.program import Program, Stored, state_changes
from mcc.ir.limits import check_count

SCHEMA = 8
# Zip entries are stored, not compressed; a JSON part larger than this is not a network of ours.
MAX_JSON_BYTES = 256 << 20

_DTYPES = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip

_WORDS = ("Infinity", "-Infinity", "NaN")

Json = dict[str, Any]


def read_pt2(path: Path) -> Program:
    """The program in a `.pt2` file.

    Raises:
        DataError: the file is damaged, of another version, or holds entries that only unpickling could read.
        UnsupportedError: operators other than ATen's, or argument kinds outside the canonical form.
    """
    try:
        with zipfile.ZipFile(readable_file(path)) as archive:
            return _Reader(archive, str(path)).program()
    except MccError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(
            f"is no readable exported program: {type(error).__name__}: {reason}",
            where=str(path),
            hint="save it with torch.export.save of torch 2.9 or newer",
        ) from error


class _Reader:
    """One archive; entries are looked at by name before any is read."""

    def __init__(self, archive: zipfile.ZipFile, where: str) -> None:
        self.archive = archive
        self.where = where
        self.entries = {info.filename: info for info in archive.infolist()}
        self.values: dict[str, fx.Node] = {}
        self.numbers: dict[str, fx.Node] = {}
        self.graph = fx.Graph()
        self._check_entries()

    # -- the archive ---------------------------------------------------------------------------------------

    def _check_entries(self) -> None:
        names = list(self.entries)
        if any(name.split("/")[-1].startswith("serialized_") for name in names):
            raise self._refusal("is in the legacy format, which is read by unpickling")
        roots = {name.split("/", 1)[0] for name in names}
        if len(roots) != 1 or not any(name.endswith("/archive_format") for name in names):
            raise DataError("is no .pt2 archive", where=self.where, hint="save it with torch.export.save")
        self.root = roots.pop()
        if self._read("archive_format") != b"pt2":
            raise DataError("is no .pt2 archive", where=self.where, hint="save it with torch.export.save")
        for name in names:
            leaf = name.split("/")[-1]
            if leaf.startswith(("custom_obj", "opaque_obj")):
                raise self._refusal(f"holds the custom object {leaf}, which is read by unpickling")
            if "/aotinductor/" in name or "/executorch/" in name:
                raise DataError("holds compiled code", where=self.where, hint="save the program alone")
        if f"{self.root}/models/model.json" not in self.entries:
            raise DataError("holds no program called model", where=self.where)

    def _refusal(self, reason: str) -> DataError:
        return DataError(
            reason,
            where=self.where,
            hint="mcc never unpickles: export the model again with torch 2.9 or newer, plain tensors only",
        )

    def _read(self, name: str) -> bytes:
        info = self.entries.get(f"{self.root}/{name}")
        if info is None:
            raise DataError(f"lacks {name}", where=self.where, hint="is the file whole?")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise DataError(f"holds {name} compressed", where=self.where, hint="torch stores entries plain")
        return self.archive.read(info)

    def _json(self, name: str) -> Json:
        info = self.entries.get(f"{self.root}/{name}")
        if info is not None and info.file_size > MAX_JSON_BYTES:
            raise DataError(f"holds {name} of {info.file_size} bytes", where=self.where)
        return cast(Json, json.loads(self._read(name)))

    def _tensors(self, kind: str) -> dict[str, Stored]:
        """Tensors of `weights` or `constants` by dotted name; one of several names goes by the first."""
        config = f"data/{kind}/model_{kind}_config.json"
        if f"{self.root}/{config}" not in self.entries:
            return {}
        found: dict[str, Stored] = {}
        shared: dict[str, Stored] = {}
        for name, payload in self._json(config)["config"].items():
            if payload["use_pickle"] or payload["tensor_meta"] is None:
                raise self._refusal(f"holds {name} as a pickle")
            key = json.dumps([payload["path_name"], payload["tensor_meta"]])
            if key not in shared:
                tensor = self._tensor(f"data/{kind}/{payload['path_name']}", payload["tensor_meta"], name)
                shared[key] = Stored(name, tensor, trains=False)
            found[name] = shared[key]
        return found

    def _tensor(self, entry: str, meta: Json, name: str) -> Tensor:
        dtype = _DTYPES.get(meta["dtype"])
        if dtype is None:
            raise UnsupportedError(f"is of torch's dtype number {meta['dtype']}", where=name)
        sizes = [_number(size) for size in meta["sizes"]]
        strides = [_number(stride) for stride in meta["strides"]]
        offset = _number(meta["storage_offset"])
        raw = self._read(entry)
        if any(length < 0 for length in (*sizes, *strides, offset)) or math.prod(sizes) > MAX_ELEMENTS:
            raise DataError(f"holds {name} of the impossible size {sizes}", where=self.where)
        reach = offset + 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        if 0 not in sizes and reach * dtype.itemsize > len(raw):
            raise DataError(f"holds too few bytes for {name}", where=self.where, hint="is the file whole?")
        if not raw:
            return torch.empty(sizes, dtype=dtype)
        flat = torch.frombuffer(bytearray(raw), dtype=dtype)
        return flat.as_strided(sizes, strides, offset).clone()

    # -- the program ---------------------------------------------------------------------------------------

    def program(self) -> Program:
        """Build the graph node by node."""
        model = self._json("models/model.json")
        version = model["schema_version"]["major"]
        if version != SCHEMA:
            raise DataError(
                f"is written in schema {version}, mcc reads {SCHEMA}", where=self.where,
                hint="export the model again with torch 2.13",
            )  # fmt: skip
        tensors = {**self._tensors("weights"), **self._tensors("constants")}
        graph: Json = model["graph_module"]["graph"]
        check_count(len(graph["nodes"]))
        signature: Json = model["graph_module"]["signature"]
        metas: dict[str, Json] = graph["tensor_values"]
        stored: dict[str, Stored] = {}
        fed: list[str] = []
        for spec in signature["input_specs"]:
            kind, body = _only(spec)
            name = _argument_name(body["arg"])
            self._placeholder(name, metas)
            if kind == "user_input":
                fed.append(name)
                continue
            key = next((str(v) for k, v in body.items() if k.endswith("_name")), name)
            if key not in tensors:
                raise DataError(f"lacks the tensor {key}", where=self.where, hint="is the file whole?")
            stored[name] = replace(tensors[key], trains=kind == "parameter")
        for node in graph["nodes"]:
            self._node(node, metas)
        outputs = self._outputs(signature)
        self.graph.output(tuple(self.values[name] for name in outputs))
        named = {self.values[name].name: value for name, value in stored.items()}
        return Program(
            self.graph,
            named,
            tuple(self.values[n].name for n in fed),
            tuple(self.values[n].name for n in outputs),
            open_batch=any("as_expr" in metas[name]["sizes"][0] for name in fed if metas[name]["sizes"]),
        )

    def _outputs(self, signature: Json) -> list[str]:
        found: list[str] = []
        for spec in signature["output_specs"]:
            kind, body = _only(spec)
            if kind == "buffer_mutation":
                raise state_changes(str(body["buffer_name"]))
            if kind == "user_output" and "as_none" not in body["arg"]:
                found.append(_argument_name(body["arg"]))
        return found

    def _placeholder(self, name: str, metas: Mapping[str, Json]) -> None:
        node = self.graph.placeholder(name)
        node.meta["val"] = _meta(metas[name]) if name in metas else None
        self.values[name] = node

    def _node(self, node: Json, metas: Mapping[str, Json]) -> None:
        target = _target(node["target"])
        named = {entry["name"]: self._value(entry["arg"]) for entry in node["inputs"]}
        args, kwargs = _placed(target, named)
        made = self.graph.call_function(target, args, kwargs)
        made.meta["stack_trace"] = node["metadata"].get("stack_trace")
        made.meta["nn_module_stack"] = _module_stack(node["metadata"].get("nn_module_stack") or "")
        names = [name for output in node["outputs"] for name in _names(output)]
        made.meta["val"] = [_meta(metas[name]) for name in names if name in metas] or None
        results = [_only(output) for output in node["outputs"]]
        if len(names) == 1 and results[0][0] != "as_tensors":
            made.meta["val"] = (made.meta["val"] or [None])[0]
            self.values[names[0]] = made
            return
        for index, name in enumerate(names):
            item = self.graph.call_function(operator.getitem, (made, index))
            item.meta = {**made.meta, "val": _meta(metas[name]) if name in metas else None}
            self.values[name] = item

    def _value(self, argument: Json) -> Any:
        """An argument of a node: values by name, else plain data."""
        kind, value = _only(argument)
        if kind == "as_none":
            return None
        if kind in ("as_tensor", "as_sym_int", "as_sym_float", "as_sym_bool"):
            return self._named(value)
        if kind in ("as_tensors", "as_sym_ints", "as_optional_tensors", "as_sym_floats"):
            return [self._named(item) for item in value]
        if kind in ("as_float", "as_floats"):
            return [_real(item) for item in value] if isinstance(value, list) else _real(value)
        if kind in ("as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings"):
            return value
        if kind == "as_scalar_type":
            return _DTYPES.get(value, value)
        if kind in ("as_device", "as_layout", "as_memory_format"):
            return None  # where and how values are stored is not the model's concern here
        raise UnsupportedError(f"has an argument of the kind {kind}", where=self.where)

    def _named(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        body = cast(Json, value)
        if "name" in body:
            return self.values[body["name"]]
        kind, inner = _only(body)
        if kind == "as_none":
            return None
        if kind in ("as_name", "as_tensor"):
            return self.values[inner if isinstance(inner, str) else inner["name"]]
        return inner


def _only(union: Json) -> tuple[str, Any]:
    """Kind and body of a tagged union."""
    ((kind, body),) = union.items()
    return str(kind), body


def _number(size: Json) -> int:
    """A length; of a symbolic one, the example it was exported with."""
    kind, value = _only(size)
    if kind == "as_expr":
        hint = value.get("hint")
        if hint is None:
            raise UnsupportedError("a shape depends on the values of the input")
        return int(_only(hint)[1])
    return int(value)


def _real(value: Any) -> float:
    """A number; JSON has none for what is not finite, and torch writes words (a padding with -inf)."""
    if isinstance(value, str) and value not in _WORDS:
        raise DataError(f"holds {value[:20]!r} where a number belongs")
    return float(value)


def _meta(declared: Json) -> Tensor | None:
    """A tensor without storage of the declared type; None where its shape depends on values."""
    try:
        shape = [_number(size) for size in declared["sizes"]]
    except UnsupportedError:
        return None
    return torch.empty(shape, dtype=_DTYPES.get(declared["dtype"], torch.float32), device="meta")


def _argument_name(argument: Json) -> str:
    body = _only(argument)[1] if "name" not in argument else argument
    if not isinstance(body, dict) or "name" not in body:
        raise UnsupportedError(f"the program takes or returns {body!r}", hint="use tensors only")
    return str(cast(Json, body)["name"])


def _names(output: Json) -> list[str]:
    kind, body = _only(output)
    if kind == "as_none":
        return []
    items = body if isinstance(body, list) else [body]
    return [str(item.get("name") or item.get("as_name")) for item in cast(list[Json], items)]


def _target(name: str) -> Any:
    """The operator of that name: ATen's, or `getitem`. Nothing else is looked up."""
    parts = name.split(".")
    if name == "_operator.getitem":
        return operator.getitem
    if parts[:3] == ["torch", "ops", "aten"] and len(parts) == 5 and parts[3].isidentifier():
        packet = getattr(torch.ops.aten, parts[3], None)
        if packet is not None and parts[4] in packet.overloads():
            return getattr(packet, parts[4])
    raise UnsupportedError(f"operator {name[:80]} is not supported", hint="export plain PyTorch operators")


def _placed(target: Any, named: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by position as far as the schema goes, the rest by keyword."""
    if target is operator.getitem:
        return tuple(named.values()), {}
    known = operator_of(target).arguments
    unknown = set(named) - {argument.name for argument in known}
    if unknown:
        raise DataError(f"operator {target} has no argument {', '.join(sorted(unknown))}")
    positional = [argument for argument in known if not argument.keyword]
    last = max((i for i, argument in enumerate(positional) if argument.name in named), default=-1)
    args = tuple(named.get(argument.name, argument.default) for argument in positional[: last + 1])
    return args, {a.name: named[a.name] for a in known if a.keyword and a.name in named}


def _module_stack(text: str) -> dict[str, tuple[str, str]]:
    """`key,path,class;...` as torch keeps it on nodes."""
    found: dict[str, tuple[str, str]] = {}
    for entry in text.split(";"):
        words = entry.split(",")
        if len(words) >= 3:
            found[words[0]] = (words[1], words[2])
    return found
