"""Optional dependencies, imported when first used."""

import importlib
from types import ModuleType


def require_extra(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the named extra installs.

    Raises:
        ImportError: it is not installed; the message says how to install the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs {module.split('.')[0]}: install it with pip install 'ipvae-snn[{extra}]'"
        ) from error
