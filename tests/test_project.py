"""Facts about the project itself: packaging, floors, and the scripts that set it up."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import mcc
from mcc.distribution import NAME

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def bash(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a bash script in the root of the checkout, with `env` over the environment."""
    return subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=os.environ | env, text=True, capture_output=True, check=False
    )


def test_version_is_one_and_the_same() -> None:
    assert mcc.__version__ == PROJECT["project"]["version"] == metadata.version(NAME)
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[(Unreleased|{re.escape(mcc.__version__)})\]", changes, re.MULTILINE)


def test_licence_is_apache_2() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert PROJECT["project"]["license"] == "Apache-2.0"


def test_every_dependency_is_a_range() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    listed = [
        *PROJECT["project"]["dependencies"],
        *(entry for entries in extras.values() for entry in entries),
    ]
    listed = [entry for entry in listed if not entry.startswith(f"{NAME}[")]
    loose = [entry for entry in listed if not re.fullmatch(r"[\w\-\[\]]+>=[\d.]+,<[\d.]+", entry)]
    assert loose == []


MODULES = {
    "scikit-learn": "sklearn",
    "pytorch-ignite": "ignite",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "ai-edge-litert": "ai_edge_litert",
}
"""Dependencies whose module has another name."""


def not_imported(dependencies: list[str], texts: list[str]) -> list[str]:
    """The dependencies that no Python text imports."""
    found = {name.partition(".")[0] for text in texts for name in imports(text)}
    names = [re.split(r"[>\[]", entry)[0] for entry in dependencies]
    return [name for name in names if MODULES.get(name, name) not in found]


def imports(text: str) -> list[str]:
    return re.findall(r"^\s*(?:import|from) ([\w.]+)", text, re.MULTILINE)


def test_every_dependency_is_imported() -> None:
    texts = [
        file.read_text() for room in ("mcc", "passes", "cost_models") for file in (ROOT / room).rglob("*.py")
    ]
    listed: list[str] = PROJECT["project"]["dependencies"]
    assert not_imported(listed, texts) == []
    assert not_imported([*listed, "onnxscript>=0.7,<0.8"], texts) == ["onnxscript"]  # it bites


@pytest.mark.parametrize("arguments", [["--help"], ["compress", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = [
        "torch",
        "numpy",
        "onnx",
        "onnxruntime",
        "ai_edge_litert",
        "matplotlib",
        "sklearn",
        "scipy",
    ]
    script = f"""
import sys
from mcc.cli.main import main
sys.argv = ["mcc", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("loaded:", [name for name in {heavy!r} if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "loaded: []"


def test_public_names_load_when_used() -> None:
    for name in ("compress", "load", "Pipeline"):
        assert callable(getattr(mcc, name))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mcc.nonsense  # noqa: B018


def test_every_room_has_its_floor() -> None:
    floors = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "floors")
    placed = {
        re.sub(r"[()]", "", room.strip()) for floor in floors["layers"] for room in re.split(r"[|:]", floor)
    }
    rooms = {f"mcc.{path.stem}" for path in (ROOT / "mcc").iterdir() if (path / "__init__.py").exists()}
    rooms |= {f"mcc.{path.stem}" for path in (ROOT / "mcc").glob("[!_]*.py")}
    assert rooms <= placed, f"no floor in pyproject.toml for {sorted(rooms - placed)}"


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("mcc.ir", "mcc.search"), ("passes.fold", "passes.prune"), ("cost_models.table", "passes.fold")],
)
def test_floors_bite(tmp_path: Path, importer: str, imported: str) -> None:
    for module in {importer, imported, "passes.other", "cost_models.other", "mcc.other"}:
        package, name = module.split(".")
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / f"{name}.py").write_text(f"import {imported}\n" if module == importer else "")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ran = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 1
    assert f"{importer} -> {imported}" in ran.stdout


@pytest.mark.slow
def test_wheel_holds_the_code_and_its_data_only(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for package in ("mcc", "passes", "cost_models"):
        ignored = shutil.ignore_patterns("node_modules", "__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    installed = source / "mcc/runtime/web/node_modules/some"
    installed.mkdir(parents=True)
    (installed / "package.json").write_text("{}")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        source,
    ]
    subprocess.run(pip, text=True, capture_output=True, check=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("mcc_compiler-*.whl"))).namelist())
    assert {"mcc/errors.py", "mcc/py.typed", "passes/__init__.py", "cost_models/__init__.py"} <= names
    assert "mcc/runtime/web/package-lock.json" in names
    assert [name for name in names if "node_modules" in name or name.startswith(("tests", "tools"))] == []
    kept = (
        path for path in (source / "mcc").rglob("*") if path.is_file() and "node_modules" not in path.parts
    )
    missing = {path.relative_to(source).as_posix() for path in kept} - names
    assert missing == set(), (
        "files that a wheel leaves out: name their kind in [tool.setuptools.package-data]"
    )


def test_lock_file_names_no_registry() -> None:
    web = ROOT / "mcc/runtime/web"
    wanted = json.loads((web / "package.json").read_text())["dependencies"]
    locked = json.loads((web / "package-lock.json").read_text())["packages"]
    for name, version in wanted.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    for name, entry in locked.items():
        assert name == "" or entry["integrity"].startswith("sha512-")
        assert entry.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/")


def test_set_up_and_target_agree_on_the_oldest_node() -> None:
    script = re.search(r"^node_oldest=(\d+)$", (ROOT / "tools/lib/setup.sh").read_text(), re.MULTILINE)
    target = re.search(
        r"^OLDEST_NODE = (\d+)", (ROOT / "mcc/runtime/litert_web.py").read_text(), re.MULTILINE
    )
    package = json.loads((ROOT / "mcc/runtime/web/package.json").read_text())["engines"]["node"]
    assert script is not None
    assert target is not None
    assert script[1] == target[1] == package.removeprefix(">=")


def test_ci_runs_the_test_command() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "tools/test" in (ROOT / ".ci/run").read_text()


def test_a_failed_stage_fails_the_run_and_the_others_still_run() -> None:
    ran = bash(". tools/lib/stages.sh; stage first false; stage second echo reached; finish")
    assert ran.returncode == 1
    assert "reached" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "failed: first"


def test_stages_that_pass_pass() -> None:
    ran = bash(". tools/lib/stages.sh; stage only true; finish")
    assert ran.returncode == 0, ran.stdout


def test_no_suitable_python_is_one_sentence(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for program in ("bash", "dirname", "mkdir", "id"):
        located = subprocess.run(
            ["which", program], text=True, capture_output=True, check=True
        ).stdout.strip()
        (tools / program).symlink_to(located)
    script = (
        f'. tools/lib/setup.sh; root="{tmp_path}"; venv="{tmp_path}/.venv"; log="{tmp_path}/log"; create_venv'
    )
    ran = subprocess.run(
        [tools / "bash", "-c", script],
        cwd=ROOT,
        env={"PATH": str(tools)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert ran.returncode == 1
    assert re.fullmatch(r"error: no Python 3\.11 or 3\.12 was found: .*MCC_PYTHON=.*\n", ran.stderr)


def test_a_failing_npm_is_named_and_costs_nothing_else(tmp_path: Path) -> None:
    script = f"""
. tools/lib/setup.sh
root={tmp_path}; venv={tmp_path}/.venv; log={tmp_path}/log; web={tmp_path}
mkdir -p "$venv"
find_node() {{ npm=(false); }}
install_web && echo goes on
"""
    ran = bash(script)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert any(line.strip().startswith("litert-web left out: npm could not install") for line in lines)
    assert lines[-1] == "goes on"
    assert not (tmp_path / ".venv/stamp-web").exists()


def test_a_stamp_holds_until_a_file_changes(tmp_path: Path) -> None:
    (tmp_path / "decides").write_text("one")
    head = f". tools/lib/setup.sh; root={tmp_path}; venv={tmp_path}; python={sys.executable};"
    assert bash(f"{head} stamp part decides; stamped part decides").returncode == 0
    (tmp_path / "decides").write_text("two")
    assert bash(f"{head} stamped part decides").returncode == 1


def test_a_missing_browser_is_named_and_costs_nothing_else(tmp_path: Path) -> None:
    script = f"""
. tools/lib/setup.sh
root={tmp_path}; log={tmp_path}/log
command() {{ return 1; }}  # finds no browser
install_debian() {{ return 1; }}
setup_browser && echo goes on
"""
    ran = bash(script)
    assert ran.returncode == 0, ran.stderr
    assert "litert-web:chromium left out: install Chromium" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "goes on"
