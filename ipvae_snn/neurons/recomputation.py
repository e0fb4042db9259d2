"""Calls that a backward pass makes again, as activation checkpointing does.

``torch.utils.checkpoint`` calls the same function a second time during the backward pass. The state
that a neuron stores is then a later one than in the first call, and a generator of its own would
draw other spikes.
"""

import weakref
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor

from ipvae_snn._utils.recomputed import current, is_backward
from ipvae_snn._utils.seeding import RECOMPUTED, other_draws, require_same_draws
from ipvae_snn.kernels.loop import State

PASS_STATES = (
    "pass the states to the checkpointed function and return them, as in spk, mem = "
    "checkpoint(neuron, input_, spk, mem, use_reentrant=False) with init_hidden=False, or let the "
    "function begin with reset(net) and run all timesteps"
)


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
        if torch.compiler.is_compiling() or getattr(self.spike_grad, "law", None) == "rounded":
            return
        if self._kept is None:
            require_same_draws()
        elif reason := other_draws(getattr(self.spike_grad, "generator", None)):
            _refuse(reason)

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
    raise RuntimeError(f"{RECOMPUTED} {reason}")
