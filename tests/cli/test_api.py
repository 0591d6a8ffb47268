"""The Python API is the same whatever was imported before."""

import subprocess
import sys

import pytest

ORDERS = (
    "from mcc.compress import plan; from mcc import compress as job",
    "import mcc.compress.driver as driver, mcc; job = mcc.compress; assert driver.compress_one",
    "import mcc; mcc.compress; import mcc.compress.driver as d; job = mcc.compress; assert d.run_job",
)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_compress_is_callable_in_any_order_of_imports(order: str) -> None:
    script = f"""
{order}
import mcc
assert callable(mcc.plan) and callable(mcc.load) and callable(mcc.Pipeline.parse)
try:
    job("net.py:f", "digits", "no-such-target", out="/nonexistent/out")
except mcc.errors.MccError as error:
    print("refused:", error)
"""
    ran = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=False)
    assert ran.stdout.startswith("refused:"), ran.stderr


@pytest.mark.slow
def test_the_public_names_are_listed_before_they_are_used_and_help_shows_the_keywords() -> None:
    script = """
import mcc, pydoc
assert {"compress", "compress_for", "plan", "plan_for", "load", "Pipeline"} <= set(dir(mcc))
print(pydoc.render_doc(mcc.compress, renderer=pydoc.plaintext))
"""
    ran = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=False)
    for part in ("compress(model:", "max_drop:", "Compress a model for a target", "ConstraintError"):
        assert part in ran.stdout, ran.stderr


def test_importing_mcc_imports_nothing_heavy() -> None:
    script = "import mcc, sys; print([n for n in ('torch', 'numpy', 'click') if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, check=False)
    assert ran.stdout.strip() == "[]", ran.stderr
