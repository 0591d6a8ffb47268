"""mcc: compresses trained neural networks for mobile runtimes.

The public names load when they are first used, so that `import mcc` and `mcc --help` do not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mcc.distribution import VERSION

if TYPE_CHECKING:
    from mcc.compress import compress as compress
    from mcc.compress import compress_for as compress_for
    from mcc.compress import plan as plan
    from mcc.compress import plan_for as plan_for
    from mcc.frontend import load as load
    from mcc.pipeline import Pipeline as Pipeline

__version__ = VERSION
__all__ = ["Pipeline", "__version__", "compress", "compress_for", "load", "plan", "plan_for"]

_HOMES = {
    "Pipeline": "mcc.pipeline",
    "compress": "mcc.compress",
    "compress_for": "mcc.compress",
    "load": "mcc.frontend",
    "plan": "mcc.compress",
    "plan_for": "mcc.compress",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module; raises AttributeError for any other."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mcc' has no attribute {name!r}")
    module = import_module(home)
    # The package of that name is itself callable; a function in its place would hide its modules.
    value = module if home == f"mcc.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, including those that are not loaded yet."""
    return sorted({*globals(), *__all__})
