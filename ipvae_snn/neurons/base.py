"""Shared by all neurons of this package: snnTorch's calling contract, state and copies."""

import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from snntorch import RLeaky, SpikingNeuron
from torch import Tensor, nn

from ipvae_snn._utils.checks import (
    require_finite,
    require_fitting,
    require_flag,
    require_float,
    require_not_negative,
)
from ipvae_snn._utils.recomputed import is_backward
from ipvae_snn._utils.settings import Checked
from ipvae_snn.kernels.loop import State as State
from ipvae_snn.kernels.sampler import is_exporting
from ipvae_snn.neurons.hidden import Buffers
from ipvae_snn.neurons.recomputation import Recomputable
from ipvae_snn.neurons.snntorch_loops import Representative, refuse_backprop


class _NoRecurrence:
    """What snnTorch's export asks first of an ``RLeaky``: these neurons are none."""

    def __bool__(self) -> bool:
        raise NotImplementedError(
            "a neuron of ipvae_snn has no recurrent weights as snntorch.RLeaky has, and "
            "snntorch.export_nir cannot write it: use ipvae_snn.export.to_nir(net)"
        )


class StatefulNeuron(Checked, Recomputable, RLeaky):  # type: ignore[misc]  # snnTorch is untyped
    """A snnTorch neuron with states ``spk`` and ``mem``; subclasses define a timestep.

    It is an ``RLeaky``, which has these states, only for snnTorch's own loops, which look for the
    classes that they know: nothing is inherited but what every ``SpikingNeuron`` has.

    States move with the module, but are no part of the model: they are not listed among its
    buffers, averaged, synchronized or saved. They are empty until the first call. A subclass gives
    ``forward``, ``initial_state``, ``run_from`` and ``_check_input``. A call that raises stores
    nothing.

    A function that ``torch.utils.checkpoint`` recomputes in the backward pass may call the neuron
    if it also passes the states or resets them: the neuron has advanced since. States are put back
    after the backward pass, and observers see each call once.
    """

    spk: Tensor
    mem: Tensor
    init_hidden: bool
    output: bool
    _live: ClassVar["weakref.WeakValueDictionary[int, StatefulNeuron]"] = (
        weakref.WeakValueDictionary()
    )
    all_to_all: ClassVar = _NoRecurrence()
    _state_lost = False
    """Whether the last call was one of a torch.func transform, which stores nothing."""
    _buffers: dict[str, Tensor | None]

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
        SpikingNeuron.__init__(
            self,
            spike_grad=spike_grad,
            init_hidden=init_hidden,
            state_quant=state_quant,
            output=output,
        )
        self._buffers = Buffers(self._buffers)
        for name in State._fields:
            self.register_buffer(name, torch.zeros(0), persistent=False)
        self._fresh = True
        self.observers: list[Callable[[State], None]] = []
        """Called after every call of the neuron with its timesteps, (T, ..., K) each."""
        self._register()

    def initial_state(self, shape: torch.Size | tuple[int, ...]) -> State:
        """The initial state, for input of ``shape`` (..., K)."""
        raise NotImplementedError

    def axis(self, shape: torch.Size | tuple[int, ...]) -> int:
        """The dimension of a timestep of ``shape`` that holds the neurons, from the end: −1, ..."""
        return -1

    def run_from(self, input_: Tensor, state: State) -> tuple[State, State]:
        """Spikes and membranes of all timesteps of ``input_``, (T, ..., K), and the last state.

        Stores and checks nothing, but calls :attr:`observers`.
        """
        raise NotImplementedError

    def _check_input(self, input_: Tensor, *, sequence: bool = False) -> None:
        """Raise unless ``input_`` is valid: of one timestep, or a ``sequence`` of them."""
        raise NotImplementedError

    def run(
        self,
        input_: Tensor,
        spk: Tensor | None = None,
        mem: Tensor | None = None,
        *,
        carry: bool = False,
        batch_first: bool = False,
    ) -> State:
        """All timesteps in one call, time first, like snnTorch's parallel neurons.

        The result is that of T one-step calls, but faster: compiled kernels run the whole loop
        where they can. It has first derivatives only; for second ones call the neuron step by step.

        Args:
            input_: currents, shape (T, ..., K), such as (T, B, K).
            spk, mem: states to start from, shape (..., K); default the initial state.
            carry: start from the stored state instead.
            batch_first: ``input_`` is (B, T, ...), as in PyTorch's recurrent layers, and so is the
                result.

        Returns:
            ``(spk, mem)``, each of the shape of ``input_``, for any ``init_hidden`` and
            ``output``. The last state is stored. Forward hooks, such as those of snnTorch's
            monitors, see only one-step calls.

        >>> from ipvae_snn import IPVAENeuron
        >>> spk, mem = IPVAENeuron(8).run(torch.rand(20, 4, 8))
        >>> spk.shape
        torch.Size([20, 4, 8])
        """
        require_float(input_, "input_")
        require_flag(batch_first, "batch_first")
        if batch_first and input_.ndim < 3:
            raise ValueError(
                f"input_ must have shape (B, T, ..., K) if batch_first, got {tuple(input_.shape)}"
            )
        input_ = input_.movedim(1, 0) if batch_first else input_
        if input_.ndim < 2 or not len(input_):
            raise ValueError(
                f"input_ must have shape (T, ..., K), time first, T ≥ 1, got {tuple(input_.shape)}"
            )
        self._check_call(spk, mem)
        self._check_input(input_, sequence=True)
        self._begin_call()
        if not carry and spk is None and mem is None:
            state = self.initial_state(input_.shape[1:])
        else:
            state = self._resume(input_.shape[1:], spk, mem)
        sequence, last = self.run_from(input_, state)
        self._store(last)
        return State(*(s.movedim(0, 1) for s in sequence)) if batch_first else sequence

    def notify_observers(self, sequence: State) -> None:
        """Call the observers with timesteps of shape (T, ..., K)."""
        if is_backward():
            return  # they saw the first call
        for observer in self.observers:
            observer(sequence)

    def _declare(self, name: str, value: Tensor, learn: bool) -> None:
        """Register a parameter if it is learned, else a buffer; files hold both."""
        if learn:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def _check_call(self, spk: Tensor | None, mem: Tensor | None) -> None:
        """Raise if the states were passed in a form that is a common mistake."""
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

    def _store(self, state: State) -> Tensor | State:
        """Store the state, and return it in the form of ``init_hidden`` and ``output``."""
        if is_exporting():
            self._store_in_place(state)
        elif is_transformed(state.mem):
            self._state_lost = True
        else:
            self._check_graph(state.mem)
            self._set_state(state)
            self._fresh = self._state_lost = False
            self._mark_state()
        return state.spk if self.init_hidden and not self.output else state

    def _set_state(self, state: State) -> None:
        # Without the checks of what is set from outside.
        super().__setattr__("spk", state.spk)
        super().__setattr__("mem", state.mem)

    def _store_in_place(self, state: State) -> None:
        # torch.export follows a buffer that changes in place, but not one that is replaced.
        if self.init_hidden:  # otherwise the caller of the exported program holds the state
            with torch.no_grad():
                self.spk.copy_(state.spk)
                self.mem.copy_(state.mem)

    def _resume(
        self, shape: torch.Size | tuple[int, ...], spk: Tensor | None, mem: Tensor | None
    ) -> State:
        """The state to start from: spk and mem as passed, else as stored, else the initial ones."""
        if self._fresh and self.init_hidden and is_exporting():
            raise ValueError(
                "a neuron that keeps its state itself (init_hidden=True) can be exported after a "
                "first call, when its state has the size of a batch: call it once before"
            )
        self._check_start(spk, mem)
        if self._state_lost and (spk is None or mem is None):
            raise RuntimeError(
                "the last call was inside a torch.func transform, which leaves no state to go on "
                "from: pass the states, as in spk, mem = neuron(input_, spk, mem) with "
                "init_hidden=False, or take all timesteps in one call, neuron.run(input_); "
                "reset_mem() begins anew"
            )
        initial = self.initial_state(shape)
        passed = [
            self._check_state(name, value, like)
            for name, value, like in zip(State._fields, (spk, mem), initial, strict=True)
        ]
        stored = State(self.spk, self.mem)
        fits = all(
            value.shape == like.shape and value.device == like.device and value.dtype == like.dtype
            for value, like in zip(stored, initial, strict=True)
        )
        if not (self._fresh or fits) and any(value is None for value in passed):
            warnings.warn(
                f"the stored state {tuple(self.mem.shape)} does not fit the input {tuple(shape)}: "
                "started afresh; call reset_mem() between sequences",
                stacklevel=4,
            )
        default = State(*map(_outside_inference, stored)) if fits and not self._fresh else initial
        return State(*(d if p is None else p for p, d in zip(passed, default, strict=True)))

    def _check_state(self, name: str, value: Tensor | None, initial: Tensor) -> Tensor | None:
        """A state that was passed, after validation; ``None`` for the default."""
        stored: Tensor = getattr(self, name)
        if value is None or (self._fresh and value is stored):  # what reset_mem() returned
            return None
        require_float(value, name)
        if value.numel() == 0 and initial.numel():  # what reset_mem() returned before any call
            return initial
        if value.shape != initial.shape:
            raise ValueError(
                f"{name} must have the shape of input_, {tuple(initial.shape)}, got "
                f"{tuple(value.shape)}: call reset_mem() when the batch changes"
            )
        require_fitting(value, name, like=initial)
        if value is stored:  # valid since this neuron computed it
            return value
        require_finite(value, name)
        if name == "spk":
            require_not_negative(
                value,
                "spk must not be negative: the second argument is spk and the third mem, as in "
                "snntorch.RLeaky; for mem alone write neuron(input_, mem=mem)",
            )
        return value.to(initial.dtype)

    def reset_mem(self) -> State:
        """Back to the initial state; returns ``(spk, mem)``, empty before the first call."""
        self._keep_state()
        if self.mem.numel():
            self._set_state(self.initial_state(self.mem.shape))
        self._fresh, self._state_lost = True, False
        self._mark_state()
        return State(self.spk, self.mem)

    init_rleaky = reset_mem  # snnTorch's former name for it, in neurons with these states

    def detach_mem(self) -> State:
        """Detach the state from its graph, for truncated back-propagation; returns it."""
        self._keep_state()
        self._set_state(State(self.spk.detach(), self.mem.detach()))
        return State(self.spk, self.mem)

    @classmethod
    def detach_hidden(cls) -> None:
        """:meth:`detach_mem` on every neuron of this class that exists, as in snnTorch."""
        for neuron in cls._all():
            if isinstance(neuron, cls):
                neuron.detach_mem()

    @classmethod
    def reset_hidden(cls) -> None:
        """:meth:`reset_mem` on every neuron of this class that exists, as in snnTorch."""
        for neuron in cls._all():
            if isinstance(neuron, cls):
                neuron.reset_mem()

    @classmethod
    def _all(cls) -> "Iterator[StatefulNeuron | None]":
        # The list of references is made at once: other threads may make neurons meanwhile.
        return (reference() for reference in StatefulNeuron._live.valuerefs())

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles hold the values of the state, not its graph.
        state = self.__dict__.copy()
        state["_buffers"] = {
            k: v if v is None else v.detach() for k, v in dict(self._buffers).items()
        }
        state["observers"] = []  # observers of the original do not observe the copy
        for name in ("_kept", "_without_graph"):
            state.pop(name, None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._buffers = Buffers(self._buffers)
        self._register()

    def _register(self) -> None:
        # snnTorch's class-wide list would keep this neuron alive forever; ours has weak references.
        StatefulNeuron._live[id(self)] = self
        _REPRESENTATIVE.replace(self)

    def train(self, mode: bool = True) -> "StatefulNeuron":
        """Set the mode, as in every module."""
        refuse_backprop()  # which calls this before each batch
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StatefulNeuron":
        # Moves and casts: PyTorch's own applies fn to the parameters and buffers that are listed.
        super()._apply(fn, recurse)
        self._without_graph = None
        for name in State._fields:
            self._buffers[name] = fn(getattr(self, name))
        self._fresh |= self.mem.is_meta  # no values are left to go on from
        return self

    def _reset_cases(self, reset_mechanism: str) -> None:
        # snnTorch calls this in the constructor and whenever reset_mechanism is assigned.
        refuse_foreign({"reset_mechanism": reset_mechanism})


_REPRESENTATIVE = Representative(StatefulNeuron.reset_hidden, StatefulNeuron.detach_hidden)


def _outside_inference(tensor: Tensor) -> Tensor:
    """A copy of a tensor from ``torch.inference_mode``, where autograd needs one."""
    if torch.compiler.is_compiling() or not tensor.is_inference():
        return tensor
    return tensor if torch.is_inference_mode_enabled() else tensor.clone()


def is_transformed(tensor: Tensor) -> bool:
    """Whether a torch.func transform wraps this tensor: then it must not outlive the call."""
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
"""snnTorch's arguments without a meaning here: the only value accepted, and what to use instead."""
_RECURRENT = (
    "spikes act on other neurons by lateral weights, which IPVAENeuron(K) learns; in "
    "IPVAENeuron(Recurrent(K)), with ipvae_snn.neurons.Recurrent, they may excite them, too"
)
_SYNAPSE = "there is no synaptic current: filter the input before the layer"
ABSENT = {
    "beta": "leak = 1 - beta is the nearest; by default membranes do not decay",
    "learn_beta": "the leak is not learned: step, bias and mem_init are",
    "alpha": _SYNAPSE,
    "learn_alpha": _SYNAPSE,
    **dict.fromkeys(("all_to_all", "linear_features", "V", "learn_recurrent"), _RECURRENT),
    **dict.fromkeys(
        ("conv2d_channels", "kernel_size"),
        "give feature maps to IPVAENeuron(K, dim=1), whose channels compete at each place, or "
        "IPVAENeuron(ConvLateral(K), dim=1), where neighbours do, too",
    ),
}
"""Other arguments of snnTorch's neurons, and what to use instead."""


def refuse_foreign(arguments: dict[str, Any]) -> None:
    """Raise for snnTorch arguments without a meaning here; the message names the alternative."""
    for name, value in arguments.items():
        if name not in FOREIGN:
            instead = f": {ABSENT[name]}" if name in ABSENT else ""
            raise TypeError(f"IPVAENeuron has no argument {name!r}{instead}")
        default, instead = FOREIGN[name]
        if isinstance(value, Tensor):  # snnTorch keeps some of them in buffers, which are loaded
            meant = value.is_meta or (value.ndim == 0 and bool(value == default))
        else:
            meant = bool(value == default)
        if not meant:
            raise ValueError(
                f"{name}={value!r} has no meaning for a Poisson neuron (leave it at {default!r}): "
                f"{instead}"
            )
