"""What every neuron of this package shares: snnTorch's calling contract, state and copies."""

import warnings
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn

from ipvae_snn._utils.checks import (
    require_finite,
    require_fitting,
    require_flag,
    require_float,
    require_not_negative,
)
from ipvae_snn.kernels.loop import State
from ipvae_snn.kernels.sampler import is_exporting


class StatefulNeuron(SpikingNeuron):
    """A snnTorch neuron with states ``spk`` and ``mem``; subclasses say what a timestep does.

    States are non-persistent buffers, empty until the first call. A subclass gives
    ``initial_state``, ``run_from`` and ``_check_input``. Whatever can raise does so before anything
    is stored.
    """

    spk: Tensor
    mem: Tensor
    init_hidden: bool
    output: bool
    _live: ClassVar["weakref.WeakSet[StatefulNeuron]"] = weakref.WeakSet()

    def __init__(
        self,
        *,
        spike_grad: Callable[[Tensor], Tensor],
        init_hidden: bool = False,
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        output: bool = False,
    ) -> None:
        for name, flag in (("init_hidden", init_hidden), ("output", output)):
            require_flag(flag, name)
        super().__init__(
            spike_grad=spike_grad, init_hidden=init_hidden, state_quant=state_quant, output=output
        )
        # snnTorch's class-wide list would keep this neuron alive for ever; ours is weak.
        if self in SpikingNeuron.instances:
            SpikingNeuron.instances.remove(self)
        StatefulNeuron._live.add(self)
        self.register_buffer("spk", torch.zeros(0), persistent=False)
        self.register_buffer("mem", torch.zeros(0), persistent=False)
        self._fresh = True
        self.observers: list[Callable[[State], None]] = []
        """Called with the timesteps of every call, spk and mem of shape (T, ..., K)."""

    def initial_state(self, shape: torch.Size | tuple[int, ...]) -> State:
        """The state before any input, for input of ``shape`` (..., K)."""
        raise NotImplementedError

    def run_from(self, input_: Tensor, state: State) -> tuple[State, State]:
        """All timesteps of ``input_``, (T, ..., K), and the last state; stores and checks nothing.

        Shows them to :attr:`observers`.
        """
        raise NotImplementedError

    def _check_input(self, input_: Tensor) -> None:
        """Raise unless ``input_``, of one timestep or of many, suits this neuron."""
        raise NotImplementedError

    def run(
        self,
        input_: Tensor,
        spk: Tensor | None = None,
        mem: Tensor | None = None,
        *,
        carry: bool = False,
    ) -> State:
        """All timesteps in one call, as snnTorch's parallel neurons take them: time first.

        Equal, timestep by timestep, to as many one-step calls, and faster: compiled kernels run the
        whole loop where they can. Gradients are first derivatives only; for second ones call the
        neuron step by step.

        Args:
            input_: currents, shape (T, ..., K), such as (T, B, K).
            spk, mem: states to start from, shape (..., K); default the initial state.
            carry: start from the stored state instead.

        Returns:
            ``(spk, mem)``, each of shape (T, ..., K), whatever ``init_hidden`` and ``output`` say.
            The last state is stored. Forward hooks, such as those of snnTorch's monitors, see
            one-step calls only.

        >>> from ipvae_snn import IPVAENeuron
        >>> spk, mem = IPVAENeuron(8).run(torch.rand(20, 4, 8))
        >>> spk.shape
        torch.Size([20, 4, 8])
        """
        require_float(input_, "input_")
        if input_.ndim < 2 or not len(input_):
            raise ValueError(
                f"input_ must have shape (T, ..., K), time first, T ≥ 1, got {tuple(input_.shape)}"
            )
        self._check_call(spk, mem)
        self._check_input(input_)
        if not carry and spk is None and mem is None:
            state = self.initial_state(input_.shape[1:])
        else:
            state = self._resume(input_.shape[1:], spk, mem)
        sequence, last = self.run_from(input_, state)
        self._keep(last)
        return sequence

    def observed(self, sequence: State) -> None:
        """Show timesteps, of shape (T, ..., K), to whoever watches."""
        for observer in self.observers:
            observer(sequence)

    def _declare(self, name: str, value: Tensor, learn: bool) -> None:
        """A parameter if it is learned, else a constant that is saved all the same."""
        if learn:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def _check_call(self, spk: Tensor | None, mem: Tensor | None) -> None:
        if self.init_hidden and not (spk is None and mem is None):
            raise TypeError(
                "with init_hidden=True the neuron keeps its state itself: call neuron(input_), "
                "or make it with init_hidden=False to pass spk and mem"
            )
        if isinstance(spk, tuple):
            raise TypeError(
                "spk must be a tensor, got a pair: write spk, mem = neuron.reset_mem() and then "
                "spk, mem = neuron(input_, spk, mem)"
            )
        if spk is not None and mem is None and spk is not self.spk:
            raise ValueError(
                "spk was passed without mem: the second argument is spk and the third mem, as in "
                "snntorch.RLeaky; to pass the membrane alone write neuron(input_, mem=mem)"
            )

    def _keep(self, state: State) -> Tensor | State:
        """Store the state, and return what ``init_hidden`` and ``output`` ask for."""
        if is_exporting():
            self._keep_in_place(state)
        elif not is_transformed(state.mem):
            self.spk, self.mem = state
            self._fresh = False
        return state.spk if self.init_hidden and not self.output else state

    def _keep_in_place(self, state: State) -> None:
        # torch.export sees a buffer change in place, but not another tensor taking its name.
        if self.init_hidden:  # otherwise the program's caller carries the state
            with torch.no_grad():
                self.spk.copy_(state.spk)
                self.mem.copy_(state.mem)

    def _resume(
        self, shape: torch.Size | tuple[int, ...], spk: Tensor | None, mem: Tensor | None
    ) -> State:
        """The state to go on from: each part the one passed, else the stored one, else fresh."""
        if self._fresh and self.init_hidden and is_exporting():
            raise ValueError(
                "a neuron that keeps its state itself (init_hidden=True) can be exported after a "
                "first call, when its state has the size of a batch: call it once before"
            )
        initial = self.initial_state(shape)
        given = [
            self._own(name, part, like)
            for name, part, like in zip(State._fields, (spk, mem), initial, strict=True)
        ]
        stored = State(self.spk, self.mem)
        fits = all(
            part.shape == like.shape and part.device == like.device and part.dtype == like.dtype
            for part, like in zip(stored, initial, strict=True)
        )
        if not (self._fresh or fits) and any(part is None for part in given):
            warnings.warn(
                f"the stored state {tuple(self.mem.shape)} does not fit the input {tuple(shape)}: "
                "started afresh; call reset_mem() between sequences",
                stacklevel=4,
            )
        kept = State(*map(_outside_inference, stored)) if fits and not self._fresh else initial
        return State(*(k if g is None else g for g, k in zip(given, kept, strict=True)))

    def _own(self, name: str, given: Tensor | None, initial: Tensor) -> Tensor | None:
        """A state that was passed, checked; ``None`` where the stored one is meant."""
        fresh = self._fresh and given is getattr(self, name)  # what reset_mem() returned
        if given is None or fresh:
            return None
        require_float(given, name)
        if given.numel() == 0 and initial.numel():  # what reset_mem() returned before any call
            return initial
        if given.shape != initial.shape:
            raise ValueError(
                f"{name} must have the shape of input_, {tuple(initial.shape)}, got "
                f"{tuple(given.shape)}: call reset_mem() when the batch changes"
            )
        require_fitting(given, name, like=initial)
        if given is getattr(self, name):  # our own, known to be sound
            return given
        require_finite(given, name)
        if name == "spk":
            require_not_negative(
                given,
                "spk must not be negative: the second argument is spk and the third mem, as in "
                "snntorch.RLeaky; for mem alone write neuron(input_, mem=mem)",
            )
        return given.to(initial.dtype)

    def reset_mem(self) -> State:
        """Back to the initial state; returns ``(spk, mem)``, empty before the first call."""
        if self.mem.numel():
            self.spk, self.mem = self.initial_state(self.mem.shape)
        self._fresh = True
        return State(self.spk, self.mem)

    init_rleaky = reset_mem  # the name that snnTorch once used, for neurons with these states

    def detach_mem(self) -> State:
        """Cut the state from the graph, for truncated back-propagation; returns ``(spk, mem)``."""
        self.spk, self.mem = self.spk.detach(), self.mem.detach()
        return State(self.spk, self.mem)

    @classmethod
    def detach_hidden(cls) -> None:
        """:meth:`detach_mem` on every living neuron of this class (snnTorch's habit)."""
        for neuron in list(cls._live):
            if isinstance(neuron, cls):
                neuron.detach_mem()

    @classmethod
    def reset_hidden(cls) -> None:
        """:meth:`reset_mem` on every living neuron of this class (snnTorch's habit)."""
        for neuron in list(cls._live):
            if isinstance(neuron, cls):
                neuron.reset_mem()

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles carry the state's values, not the graph that made them.
        state = self.__dict__.copy()
        state["_buffers"] = {k: v if v is None else v.detach() for k, v in self._buffers.items()}
        state["observers"] = []  # who watches the original does not watch the copy
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        StatefulNeuron._live.add(self)

    def _reset_cases(self, reset_mechanism: str) -> None:
        # snnTorch calls this when reset_mechanism is assigned, too.
        refuse_foreign({"reset_mechanism": reset_mechanism})


def _outside_inference(tensor: Tensor) -> Tensor:
    """A state that was made in ``torch.inference_mode`` and is now to be learned from."""
    if torch.compiler.is_compiling() or not tensor.is_inference():
        return tensor
    return tensor if torch.is_inference_mode_enabled() else tensor.clone()


def is_transformed(tensor: Tensor) -> bool:
    """Whether a torch.func transform wraps this tensor, so that it must not outlive the call."""
    if torch.compiler.is_compiling():
        return False
    wrapped: bool = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return wrapped


FOREIGN: dict[str, tuple[Any, str]] = {
    "threshold": (1.0, "lower mem_init or raise bias for fewer spikes"),
    "learn_threshold": (False, "mem_init and bias are learned instead"),
    "inhibition": (False, "lateral_scale sets the strength of competition"),
    "reset_mechanism": ("subtract", "the diagonal of gram is the reset"),
    "reset_delay": (True, "spikes inhibit from the next timestep on"),
    "graded_spikes_factor": (1.0, "scale the next layer's weights"),
    "learn_graded_spikes_factor": (False, "the next layer's weights learn this"),
}
"""snnTorch's arguments without a meaning here: the value they may have, and what to use instead."""


def refuse_foreign(arguments: dict[str, Any]) -> None:
    """Raise for snnTorch arguments that have no meaning here, naming what to use instead."""
    for name, value in arguments.items():
        if name not in FOREIGN:
            raise TypeError(f"IPVAENeuron has no argument {name!r}")
        default, instead = FOREIGN[name]
        if isinstance(value, Tensor) or value != default:
            raise ValueError(
                f"{name}={value!r} has no meaning for a Poisson neuron (leave it at {default!r}): "
                f"{instead}"
            )
