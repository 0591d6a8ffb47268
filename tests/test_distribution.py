"""The distribution: its name, what messages say about installing it, and a wheel that works alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mcc.distribution import NAME, how_to_install
from mcc.flatc import HOW_TO_GET
from tests.test_project import PROJECT, ROOT, bash

MINE = re.compile(r"mcc|__editable__|passes$|cost_models$|distutils-precedence", re.IGNORECASE)


def test_the_name_is_the_projects_and_nobody_elses() -> None:
    assert PROJECT["project"]["name"] == NAME != "mcc"
    assert PROJECT["project"]["scripts"] == {"mcc": "mcc.cli.main:main"}


def test_no_page_and_no_message_installs_the_other_project() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    texts = [ROOT / name for name in listed.splitlines() if name.endswith((".py", ".md", ".sh", ".toml"))]
    wrong = re.compile(r"""(install|["'])\s*["']?mcc(\[|["']?\s*$)""")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in texts
        if path.is_file() and path != Path(__file__)
        for line in path.read_text().splitlines()
        if "pip install" in line and wrong.search(line)
    ]
    assert found == []


def test_how_to_install_follows_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert how_to_install("ray", root=tmp_path / "lib") == f'.venv/bin/python -m pip install "{NAME}[ray]"'
    (tmp_path / "pyproject.toml").touch()
    assert how_to_install("ray", root=tmp_path) == '.venv/bin/python -m pip install -e ".[ray]"'
    monkeypatch.chdir("/")
    assert how_to_install("ray", root=tmp_path).endswith(f' -m pip install -e "{str(tmp_path)[1:]}[ray]"')
    assert HOW_TO_GET.endswith('[executorch]"')


def test_every_extra_that_a_message_names_exists() -> None:
    named: set[str] = set()
    for path in (ROOT / "mcc").rglob("*.py"):
        named |= set(re.findall(r"""how_to_install\(["'](\w+)""", path.read_text()))
    assert named == {"executorch", "ray", "tensorflow", "web"}
    assert named <= set(PROJECT["project"]["optional-dependencies"])


@pytest.mark.parametrize(
    ("url", "removed"), [("file://ROOT", True), ("file:///elsewhere", False), ("", False)]
)
def test_setting_up_removes_this_checkouts_old_name_alone(url: str, removed: bool, tmp_path: Path) -> None:
    info = tmp_path / "lib/mcc-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mcc\nVersion: 0.1.0\n")
    if url:
        (info / "direct_url.json").write_text(json.dumps({"url": url.replace("ROOT", str(tmp_path))}))
    script = f"""
. tools/lib/setup.sh
root={tmp_path}; log={tmp_path}/log
step() {{ printf 'step %s\\n' "$*"; }}
export PYTHONPATH={tmp_path}/lib
python={sys.executable}
remove_old_name
"""
    ran = bash(script)
    assert ran.returncode == 0, ran.stderr
    assert ("pip uninstall" in ran.stdout) == removed


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Standard output of a command that succeeds, without anything of the checkout on its path."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=clean | env, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def wheel(folder: Path) -> Path:
    """The wheel of what git tracks here, or would."""
    source = folder / "source"
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in listed:
        if name.startswith(("mcc/", "passes/", "cost_models/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", ".",
        "-w", folder, cwd=source,
    )  # fmt: skip
    (found,) = folder.glob("*.whl")
    return found


def empty_environment(folder: Path) -> Path:
    """The Python of a new environment that has this one's libraries, and nothing of mcc."""
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env", cwd=folder)
    python = folder / "env/bin/python"
    libraries = folder / "libraries"
    libraries.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not MINE.match(entry.name):
            (libraries / entry.name).symlink_to(entry)
    (site,) = (folder / "env/lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(f"{libraries}\n")
    return python


@pytest.mark.slow
def test_a_wheel_does_the_digits_job_outside_the_checkout(tmp_path: Path) -> None:
    made, python = wheel(tmp_path), empty_environment(tmp_path)
    assert made.name.startswith(f"{NAME.replace('-', '_')}-")
    site = ["--python", str(python), "install", "--no-deps", "--no-index", "-q"]
    run(sys.executable, "-m", "pip", *site, made, cwd=tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    place = run(python, "-c", "import mcc; print(mcc.__file__)", cwd=work).strip()
    assert Path(place).is_relative_to(tmp_path / "env")
    show = "import importlib.metadata as m; print(m.version('mcc-compiler'))"
    assert run(python, "-c", show, cwd=work).strip() == PROJECT["project"]["version"]
    how = run(python, "-c", "from mcc.distribution import *; print(how_to_install('ray'))", cwd=work)
    assert f'-m pip install "{NAME}[ray]"' in how
    weights = work / "digits.safetensors"
    run(
        sys.executable, "-m", "tools.baselines.train", "digits", "-o", weights, cwd=ROOT, PYTHONPATH=str(ROOT)
    )
    command = python.with_name("mcc")
    run(
        command, "compress", "mcc.examples.digits:network", "--weights", weights, "--data", "digits",
        "--target", "litert-host", "--strategies", "int8-ptq", "--epochs", "0.1", "-o", "out", "-q",
        cwd=work, MCC_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    report = json.loads((work / "out/report.json").read_text())
    assert report["versions"]["mcc"] == PROJECT["project"]["version"]
    assert report["compressed"]["accuracy"] > 0.8
    assert (work / "out/report.html").stat().st_size > 10_000
