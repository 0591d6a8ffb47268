"""What the layout of the code promises: no circles of imports between files, small functions in compress."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mcc", "passes", "cost_models")
SCANNERS = {"mcc.runtime", "mcc.compress.strategies"}  # import their own files by name
MOST_PARAMETERS, MOST_LINES = 8, 250
ENTRY_POINTS = {"compress", "plan", "compress_for", "plan_for"}


def sources(package: str) -> Iterator[Path]:
    for path in sorted((ROOT / package).rglob("*.py")):
        if "node_modules" not in path.parts:
            yield path


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """Modules imported anywhere in a file, inside functions too, but for those that only annotations need."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in known or node.module in known:
                    yield full if full in known else node.module
        waiting.extend(ast.iter_child_nodes(node))


def circles(trees: dict[str, ast.AST]) -> list[list[str]]:
    graph = nx.DiGraph(
        (name, other)
        for name, tree in trees.items()
        for other in imported(tree, set(trees))
        if name != other and name not in SCANNERS
    )
    return [sorted(found) for found in nx.strongly_connected_components(graph) if len(found) > 1]


@pytest.mark.slow
def test_no_circle_of_imports_between_files() -> None:
    trees: dict[str, ast.AST] = {
        module_name(path): ast.parse(path.read_text("utf-8")) for name in PACKAGES for path in sources(name)
    }
    assert len(trees) > 300
    assert circles(trees) == []


def test_a_circle_inside_functions_is_found() -> None:
    trees: dict[str, ast.AST] = {
        "a": ast.parse("def f():\n    from b import g"),
        "b": ast.parse("from c import h"),
        "c": ast.parse("import a"),
        "d": ast.parse("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import e"),
        "e": ast.parse("import d"),
    }
    assert circles(trees) == [["a", "b", "c"]]


def missing_imports(tree: ast.AST) -> Iterator[str]:
    """What a file imports from the project and the project has not: also inside functions, which run late."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
            continue
        if node.module.split(".")[0] not in ("mcc", "tests", "tools"):
            continue
        module = importlib.import_module(node.module)
        for name in node.names:
            if not hasattr(module, name.name) and not importlib.util.find_spec(f"{node.module}.{name.name}"):
                yield f"{node.module}.{name.name}"


@pytest.mark.parametrize("package", ["mcc", "tests", "tools"])
def test_what_a_file_imports_from_the_project_is_there(package: str) -> None:
    missing = {path: list(missing_imports(ast.parse(path.read_text()))) for path in sources(package)}
    assert {str(path): names for path, names in missing.items() if names} == {}


def test_a_missing_import_inside_a_function_is_found() -> None:
    tree = ast.parse("def f():\n    from mcc.ir import ops, no_such_name\n")
    assert list(missing_imports(tree)) == ["mcc.ir.no_such_name"]


def test_compress_has_short_parameter_lists_and_classes() -> None:
    large: list[str] = []
    for path in sources("mcc/compress"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno > MOST_LINES:
                large.append(f"{path.name}: class {node.name}")
            if isinstance(node, ast.FunctionDef) and node.name not in ENTRY_POINTS:
                named = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len([name for name in named if name not in ("self", "cls")]) > MOST_PARAMETERS:
                    large.append(f"{path.name}: {node.name}")
    assert large == []
