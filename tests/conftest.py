"""What every test starts from: fixed seeds, one thread, and a cache of its own instead of the user's."""

import os
import random
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import platformdirs

# Before anything imports numpy or torch: their thread pools read these once.
for _pool in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_pool] = "1"
# Inherited by the programs that tests start. matplotlib would otherwise write under the home directory.
_scratch = Path(tempfile.mkdtemp(prefix="mcc-tests-"))
# Fetched programs stay where the set-up put them; measurements start from nothing.
_cache = os.environ.get("MCC_CACHE_DIR") or platformdirs.user_cache_dir("mcc")
os.environ.setdefault("MCC_TOOLS_DIR", str(Path(_cache) / "tools"))
os.environ["MCC_CACHE_DIR"] = str(_scratch / "cache")
# Tests read no times: they neither wait for measurements on this machine nor make each other wait.
os.environ["MCC_LOCK_DIR"] = str(_scratch)
os.environ["MPLCONFIGDIR"] = str(_scratch / "matplotlib")
os.environ["MPLBACKEND"] = "Agg"
# Whatever asks adb for phones starts its server: not the user's, and it ends with the tests.
with socket.create_server(("127.0.0.1", 0)) as _free:
    os.environ["ANDROID_ADB_SERVER_PORT"] = str(_free.getsockname()[1])

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from cost_models import lookup  # noqa: E402

torch.set_num_threads(1)

# No deadline: a test asserts no times. In CI every run tries the same examples, so a red run can be repeated.
hypothesis.settings.register_profile("developer", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "developer")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes the graphs after again; read the diff before committing it."""
    parser.addoption("--update-golden", action="store_true", help="write golden graphs again")


def pytest_unconfigure() -> None:
    """Remove the scratch directory of this process, and end its adb server."""
    if shutil.which("adb") is not None:
        subprocess.run(["adb", "kill-server"], capture_output=True, timeout=60, check=False)
    shutil.rmtree(_scratch, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start each test, and what modules share among theirs, from the same random state, in whatever order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def disturbed_rows_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost model that uses every measured row, also those that other work on this machine disturbed.

    For tests of what rests on which row, with times that are really measured.
    """
    monkeypatch.setattr(lookup, "unsure", lambda row: False)


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this test alone, where the tests of one worker otherwise share one."""
    path = tmp_path / "cache"
    monkeypatch.setenv("MCC_CACHE_DIR", str(path))
    return path
