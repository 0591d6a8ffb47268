"""A runner that stops reading, or dies, while inputs are still being written to it."""

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mcc.errors import TargetError
from mcc.runtime.arm64 import stream

INPUT_FLOATS = 1 << 20  # 4 MB: far more than a pipe holds
DESCRIBED = (
    '{"inputs": [{"name": "x", "shape": [1, 1048576], "dtype": "float32"}],'
    ' "outputs": [{"name": "y", "shape": [1], "dtype": "float32"}]}'
)
ENDS = {
    "never reads": "import time; time.sleep(600)",
    "dies at once": "import sys; sys.exit(3)",
    "dies while reading": "import sys; sys.stdin.buffer.read(1 << 18); sys.exit(3)",
    "closes its output": "import os, time; os.close(1); os.close(0); sys.exit(0)",
}


@pytest.mark.slow
@pytest.mark.parametrize("end", sorted(ENDS))
def test_the_writing_thread_has_ended_before_the_pipe_is_closed(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LIMIT_S", 2.0)
    script = tmp_path / "runner.py"
    script.write_text(f"import sys\nprint('''{DESCRIBED}''', flush=True)\n{ENDS[end]}\n")
    runner = stream.StreamRunner([sys.executable, str(script)], dict(os.environ))
    runner.request({"op": "load", "file": "network.tflite", "threads": 1})
    threads = set(threading.enumerate())
    with pytest.raises(TargetError, match="ARM64 runner"):
        runner.request({"op": "run"}, [np.zeros((1, INPUT_FLOATS), np.float32)], limit_s=0.5)
    runner.close()
    assert not set(threading.enumerate()) - threads
    runner.close()  # a second call does nothing
