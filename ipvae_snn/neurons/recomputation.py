"""Calls that a backward pass makes again, as activation checkpointing does.

``torch.utils.checkpoint`` calls the same function a second time during the backward pass. The state
that a neuron stores is then a later one than in the first call, and a generator of its own would
draw other spikes.
"""

import sys
import weakref
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.autograd import function
from torch.utils import checkpoint

from ipvae_snn.kernels.loop import State

PASS_STATES = (
    "pass the states to the checkpointed function and return them, as in spk, mem = "
    "checkpoint(neuron, input_, spk, mem, use_reentrant=False) with init_hidden=False, or let the "
    "function begin with reset(net) and run all timesteps"
)


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


@dataclass
class _Kept:
    """The state of the forward passes, while a backward pass calls the neuron again."""

    state: State
    fresh: bool
    frame: FrameType | None = None
    """The recomputed function that the present state belongs to."""


class Recomputable:
    """A neuron that recomputes a call from the state of the first call, or refuses.

    What a recomputed call stores is put back at the end of the backward pass.
    """

    spk: Tensor
    mem: Tensor
    spike_grad: Any
    _fresh: bool
    _kept: _Kept | None = None
    _without_graph: Tensor | None = None

    def _set_state(self, state: State) -> None:
        raise NotImplementedError

    def _begin_call(self) -> None:
        """Before a call that stores a state."""
        self._keep_state()
        if self._kept is None or getattr(self.spike_grad, "law", None) == "rounded":
            return
        own = getattr(self.spike_grad, "generator", None) is not None
        if own or not current().repeats_draws:
            cure = "leave spike_grad.generator at None" if own else "pass preserve_rng_state=True"
            _refuse(f"would draw other spikes than the first call: {cure}")

    def _keep_state(self) -> None:
        """Before anything that changes the state."""
        if not is_backward():
            self._put_back()  # after a backward pass that raised
        elif self._kept is None:
            self._kept = _Kept(State(self.spk, self.mem), self._fresh)
            _KEPT.add(self)
            torch.autograd.Variable._execution_engine.queue_callback(self._put_back)

    def _put_back(self) -> None:
        if not torch.compiler.is_compiling() and self._kept is not None:
            self._set_state(self._kept.state)
            self._fresh = self._kept.fresh
            self._kept = None
            _KEPT.discard(self)

    def _check_start(self, spk: Tensor | None, mem: Tensor | None) -> None:
        """Raise if a recomputed call would start from a later state than the first call."""
        if torch.compiler.is_compiling():
            return
        passed = spk is not None and spk is not self.spk and mem is not None and mem is not self.mem
        if self._kept is None:
            if not passed and torch.is_grad_enabled() and not self.mem.requires_grad:
                self._without_graph = self.mem
            return
        frame = current().frame
        if not (passed or (frame is not None and frame is self._kept.frame)):
            _refuse(
                "starts from the neuron's stored state, which has advanced since the first call: "
                + PASS_STATES
            )

    def _mark_state(self) -> None:
        """After a change of the state: the recomputed function may go on from it."""
        if not torch.compiler.is_compiling() and self._kept is not None:
            self._kept.frame = current().frame

    def _check_graph(self, mem: Tensor) -> None:
        """Raise if a later call went on from this recomputed membrane without its graph."""
        before = self._without_graph
        if torch.compiler.is_compiling() or self._kept is None or before is None:
            return
        if current().reentrant and torch.equal(mem, before):
            _refuse(
                "left a state without its graph, and a later call went on from it: pass "
                "use_reentrant=False"
            )


_KEPT: "weakref.WeakSet[Recomputable]" = weakref.WeakSet()


def _refuse(reason: str) -> NoReturn:
    for neuron in list(_KEPT):
        neuron._put_back()
    raise RuntimeError(f"this call, made again by activation checkpointing, {reason}")
