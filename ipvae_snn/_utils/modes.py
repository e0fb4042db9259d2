"""The mode of a module, ``train()`` or ``eval()``, that several threads may use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

_LOCK = threading.Lock()
_EVALUATED: dict[int, tuple[int, bool]] = {}
"""By the identity of a module: how many blocks hold it in ``eval()`` mode, and its own mode."""


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """A block in which a module is in ``eval()`` mode.

    Its own mode returns with the last of the threads that leave such a block.
    """
    with _LOCK:
        blocks, training = _EVALUATED.get(id(module), (0, module.training))
        if not blocks:
            module.eval()
        _EVALUATED[id(module)] = blocks + 1, training
    try:
        yield
    finally:
        with _LOCK:
            blocks, training = _EVALUATED.pop(id(module))
            if blocks > 1:
                _EVALUATED[id(module)] = blocks - 1, training
            else:
                module.train(training)
