"""Functions that a backward pass calls again, as activation checkpointing does."""

import sys
from types import FrameType
from typing import NamedTuple

import torch
from torch.autograd import function
from torch.utils import checkpoint


class Recomputation(NamedTuple):
    """A function that a backward pass calls again."""

    frame: FrameType | None
    """Identifies it; ``None`` if it is unknown where it begins."""
    repeats_draws: bool = True
    """Whether torch's generators are back in the state of the first call."""
    reentrant: bool = False
    """Whether the first call recorded no graph, as with ``use_reentrant=True``."""


def is_backward() -> bool:
    """Whether a backward pass is calling."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def current() -> Recomputation:
    """The innermost function that the present backward pass calls again."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        place, values = (frame.f_code.co_filename, frame.f_code.co_name), frame.f_locals
        if place == (checkpoint.__file__, "recompute_fn"):  # use_reentrant=False
            return Recomputation(frame, values.get("preserve_rng_state", True))
        if place == (function.__file__, "apply") and "self" in values:
            # A backward method: that of use_reentrant=True, or of any function that recomputes.
            preserves = getattr(values["self"], "preserve_rng_state", True)
            return Recomputation(frame, preserves, reentrant=True)
        frame = frame.f_back
    return Recomputation(None)


def enclosing() -> int:
    """Identifies the innermost checkpointed function, in its first call or a later one; or 0."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != checkpoint.__file__:
        frame = frame.f_back
    return 0 if frame is None else id(frame)
