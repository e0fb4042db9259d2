"""Libraries that only some users need, loaded when first used."""

import importlib
from types import ModuleType


def require_extra(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say which extra brings it.

    Raises:
        ImportError: the module is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs {module.split('.')[0]}: install it with pip install 'ipvae-snn[{extra}]'"
        ) from error
