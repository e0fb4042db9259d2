"""The Poisson neuron: a stateful snnTorch neuron, one timestep per call."""

import math
import numbers
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import (
    per_neuron,
    require_all_finite,
    require_all_within,
    require_finite,
    require_fitting,
    require_flag,
    require_float,
    require_instance,
    require_not_negative,
    require_number,
    require_same_kind,
    require_values,
)
from ipvae_snn._utils.settings import choice, number
from ipvae_snn.kernels import equations, one_step
from ipvae_snn.neurons.base import FOREIGN, State, StatefulNeuron, refuse_foreign
from ipvae_snn.neurons.inference import (
    assumptions_of,
    infer_unobserved,
    is_constant,
    spec_of,
)
from ipvae_snn.neurons.lateral import (
    Lateral,
    Recurrent,
    SharedDecoder,
    SharedMapDecoder,
    features_of,
    make_lateral,
    remake_weights,
)
from ipvae_snn.surrogate import midpoint, require_estimator
from ipvae_snn.surrogate.relaxed import Relaxed

BIAS = math.exp(-3)
"""Initial tonic inhibition, nats per timestep."""


class Defaults(NamedTuple):
    """Settings of a neuron that are not given."""

    clamp: float
    step: float
    mem_init: tuple[float, float]
    leak: float = 0.0
    floor: float = 0.0
    """Least slope of the counts."""


CLAMP = 5.0
"""Default clamp, nats: at most e⁵ = 148 spikes per timestep. The paper's clamp of 10 allows 22,026.
In briefly trained models one rare burst of so many can excite other neurons without end."""

STEP = 0.2
"""Default initial step size of inference. The paper starts from 1, which is only stable with a
smaller learning rate; learning moves both to between 0.05 and 0.3."""

CLAMP_MAX = 16.0
"""Largest clamp: float32 counts are exact up to 2²⁴, just above e¹⁶."""
MEM_INIT_RANGE = -6.0, -4.0
"""Default range of the initial membrane, uniform, in nats."""
INFERENCE = Defaults(CLAMP, STEP, MEM_INIT_RANGE)
"""For hundreds of timesteps of inference."""
HIDDEN = Defaults(clamp=1.5, step=1.0, mem_init=(-1.25, -0.75))
"""For a hidden layer, with tens of timesteps: near firing, and at most e^1.5 = 4.5 spikes in one. A
membrane oscillates where α G_kk times the rate exceeds 2. Training raises rates, with a clamp of 3
or 5 until it ends in bursts, and would raise a learned α beyond 2, where gradients explode; so α is
constant there, and G_kk = 1. With a smaller α, or a start farther from firing, layers with few
spikes and no noise fall silent before they have learned anything."""
MAPS = Defaults(clamp=2.0, step=1.0, mem_init=(-2.5, -1.5), floor=0.1)
"""For one on feature maps, whose channels are used at many places and by few of them: without the
floor a convolutional network is less accurate."""
SEQUENCES = Defaults(clamp=2.0, step=1.0, mem_init=(-2.5, -1.5), leak=0.1)
"""For one with recurrent weights: its currents change, and what was there long ago fades."""
READOUT_FLOOR = 0.5
"""That of a read-out. A loss of spike counts is less, at first, the less the read-out fires: it
falls silent before it has learned what to fire at, and with its rates the gradient of the whole
network vanishes."""
MEM_INIT_MAX = 60.0
"""Largest |mem_init|, |log_bias| and |log_step|, in nats: beyond, a KL or step overflows."""
LARGEST = 1e6
"""Largest step size and factor on the lateral inhibition."""


FORMS = "exact", "published"
"""Of the membrane's equation: with the variance term, or without."""

_FLAGS = "surrogate_disable", "init_hidden", "output"
_LEARNED = {"step": "log_step", "bias": "log_bias"}
"""Arguments that become the exponential of a parameter."""
_PARAMETERS = "mem_init", "log_bias", "log_step"
_FIXED = "learn_step", "learn_bias", "learn_mem_init", "learn_gram"
FLAT = 2
"""Dimensions of a timestep's input, (B, K), up to which its last one surely holds the neurons."""

NOT_SCRIPTED = (
    "TorchScript cannot hold a network that draws spikes, torch.jit.trace would keep one draw for "
    "ever: use torch.compile or torch.export, or ipvae_snn.export"
)


def _defaults(decoder: Any, gram: Tensor | None, dim: int | None, output: bool) -> Defaults:
    """For the arguments of a neuron."""
    alone = (
        decoder.hidden if isinstance(decoder, Lateral) else isinstance(decoder, numbers.Integral)
    )
    if gram is not None or not alone:
        return INFERENCE
    of_maps = dim not in (None, -1)
    found = SEQUENCES if isinstance(decoder, Recurrent) else MAPS if of_maps else HIDDEN
    return found._replace(floor=READOUT_FLOOR) if output is True else found


def require_quantizer(state_quant: Any) -> None:
    """Raise ``TypeError`` unless ``state_quant`` is False or a callable."""
    if not (callable(state_quant) or state_quant is False):
        raise TypeError(f"state_quant must be a callable on tensors, got {state_quant!r}")


def require_dim(dim: Any) -> None:
    """Raise ``TypeError`` unless ``dim`` is an integer or ``None``."""
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
        raise TypeError(f"dim must be an integer or None, got {dim!r}")


def require_observers(observers: Any) -> None:
    """Raise ``TypeError`` unless ``observers`` is a list of callables."""
    if not (isinstance(observers, list) and all(map(callable, observers))):
        raise TypeError(f"observers must be a list of callables, got {observers!r}")


class IPVAENeuron(StatefulNeuron):
    r"""Poisson neurons for joint inference: membranes are log rates, spikes are counts.

    One call is one timestep of natural-gradient inference in the iterative Poisson VAE:

    .. math::
        h_t &= α (d_t − z_{t−1} G − ½ diag G − b − leak · (u_{t−1} − u_0)) \\
        u_t &= clamp(u_{t−1} + clamp(h_t)) \\
        z_t &∼ Poisson(e^{u_t})

    ``input_`` is the current d_t, of shape (..., K), in nats per timestep: Φᵀ Λ x for exact
    inference (:meth:`drive`), or the output of any layer with K features. Of inputs with more
    dimensions than (B, K), ``dim`` says which one holds the neurons. The current acts on the spikes
    of the same call; inhibition comes from the spikes of the previous call. The variance term
    ½ diag G is what the noise of a neuron's own count costs; ``form="published"`` leaves it out.
    ``spk`` are integer counts in the dtype of ``mem``; ``mem`` is u, the log of the expected spikes
    per timestep, in nats.

    Args:
        decoder: the source of the lateral weights G. A bias-free ``nn.Linear(K, M)`` is shared,
            never copied: G = Φᵀ Λ Φ follows its weights as they learn; so is a transposed
            convolution, for maps (B, K, h, w). A number K makes K neurons
            with their own lateral weights: ``gram`` if given, else a hidden layer, which learns
            them from G ≈ 1 with G_kk = 1. A module of :mod:`ipvae_snn.neurons.lateral` is used as
            it is: ``Recurrent(K)`` for sequences, ``ConvLateral(K)`` for maps whose neighbouring
            places compete, too, also make hidden layers.
        log_scale: with a decoder, log σ per pixel, ``nn.Parameter`` or tensor of shape (M,), also
            shared, bounded by :func:`~ipvae_snn.functional.bound_log_scale`. Default σ = 1.
        gram: with a number K, symmetric (K, K) lateral weights in nats per spike.
        learn_gram: learn ``gram``, kept positive semidefinite, instead of keeping it constant.
        lateral_scale: factor on the lateral inhibition; 1 is exact inference, 0 no competition.
        form: ``"exact"``, the natural gradient of the expected error, or ``"published"``, without
            its variance term ½ ``lateral_scale`` diag G. Default: exact with a decoder, published
            with lateral weights of the neurons' own, which belong to no error.
        leak: pull of the membrane to ``mem_init`` per timestep, in [0, 1]; like 1 − ``beta``.
            Default 0, with recurrent weights 0.1.
        clamp: upper bound of the membrane and of its change per timestep, in nats
            (:func:`~ipvae_snn.functional.soft_clamp`). The lower bound is always −8; hardly any
            gradient passes there. Default 5, in a hidden layer 1.5, on maps and with recurrent
            weights 2. The bound is smooth: log(1 + e^{v − clamp}) is taken off at every timestep,
            .007 nats of a change near 0 with clamp 5, as an inhibition of .007 / α would. A step
            below .05 needs a larger clamp.
        step: α > 0, the step size of inference; stored as its logarithm, ``log_step``. Default 0.2,
            in a hidden layer 1.
        bias: b > 0, tonic inhibition in nats per timestep, number or (K,); stored as ``log_bias``.
        dim: the dimension of a timestep's input that holds the neurons: 1 for feature maps
            (B, K, H, W), whose channels compete at each place, −1 for (B, L, K). Inputs (B, K) need
            none.
        mem_init: u_0 ≥ −60 nats, number or (K,); default uniform per neuron in (−6, −4), in a
            hidden layer in (−1.25, −0.75), on maps and with recurrent weights in (−2.5, −1.5).
        learn_step, learn_bias, learn_mem_init: learn this parameter instead of keeping it constant.
            Default: all but the step of a hidden layer.
        spike_grad: an estimator of :mod:`ipvae_snn.surrogate`, or a callable from membranes to
            counts of about the rates e^mem, which is tried when it is set. Default
            ``midpoint()``; in a hidden layer on maps, by ``dim``, ``midpoint(floor=0.1)``, and
            with ``output=True``, as read-outs have, ``midpoint(floor=0.5)``. Relaxed estimators
            draw integer counts in ``eval()``.
        surrogate_disable: emit the same spikes without a gradient.
        init_hidden: keep the state inside: ``spk = neuron(input_)``.
        output: for a read-out: return ``(spk, mem)`` even with ``init_hidden``.
        state_quant: callable applied to ``mem`` before spikes are emitted; the dtype stays.
        threshold, learn_threshold, graded_spikes_factor, learn_graded_spikes_factor, inhibition,
            reset_mechanism, reset_delay: accepted only with snnTorch's defaults. A Poisson neuron
            has no threshold, its counts are graded already, and G does reset and inhibition: its
            diagonal subtracts after each spike, its other entries are the competition.

    The defaults suit inference over hundreds of timesteps with a decoder, and tens of timesteps in
    a hidden layer, ``IPVAENeuron(K)``.

    A call returns ``(spk, mem)``, or only ``spk`` with ``init_hidden=True`` and ``output=False``.

    State: ``spk`` and ``mem`` move with the module, but are no part of the model: they are neither
    saved nor listed among its buffers. A call without states continues from the stored ones. The
    first call, and the first after :meth:`reset_mem`, starts without spikes and from ``mem_init``.
    A stored state whose shape does not fit the input is replaced by the initial state, with a
    warning.

    Raises:
        TypeError: a state is passed with ``init_hidden=True``; input is no floating-point tensor.
        ValueError: wrong shapes, NaN or infinity in ``input_``, options out of range. A call that
            raises does not change the state.

    Source: arXiv 2410.19315; the calling order is that of snnTorch's ``RLeaky``.

    >>> decoder = nn.Linear(8, 16, bias=False)
    >>> neuron = IPVAENeuron(decoder)
    >>> current = neuron.drive(torch.rand(4, 16))
    >>> spk, mem = neuron.reset_mem()
    >>> for _ in range(10):
    ...     spk, mem = neuron(current, spk, mem)
    >>> spk.shape, mem.shape
    (torch.Size([4, 8]), torch.Size([4, 8]))
    """

    lateral: Lateral
    spike_grad: Callable[[Tensor], Tensor]
    mem_init: Tensor
    log_bias: Tensor
    log_step: Tensor
    form: str = choice(*FORMS)
    lateral_scale: float = number(0.0, LARGEST)
    leak: float = number(0.0, 1.0)
    clamp: float = number(equations.MEM_FLOOR + 1, CLAMP_MAX)
    dim: int | None

    def __init__(  # noqa: PLR0913
        self,
        decoder: nn.Linear | nn.ConvTranspose1d | nn.ConvTranspose2d | Lateral | int,
        *,
        log_scale: Tensor | None = None,
        gram: Tensor | None = None,
        learn_gram: bool = False,
        form: Literal["exact", "published"] | None = None,
        lateral_scale: float = 1.0,
        leak: float | None = None,
        clamp: float | None = None,
        dim: int | None = None,
        step: float | None = None,
        bias: float | Tensor = BIAS,
        mem_init: float | Tensor | None = None,
        learn_step: bool | None = None,
        learn_bias: bool = True,
        learn_mem_init: bool = True,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        surrogate_disable: bool = False,
        init_hidden: bool = False,
        state_quant: Callable[[Tensor], Tensor] | bool = False,
        output: bool = False,
        **foreign: Any,
    ) -> None:
        # Validate before drawing, so that a rejected call leaves the generator untouched. Numbers
        # may be set before the constructor of nn.Module is called.
        refuse_foreign(foreign)
        require_dim(dim)
        default = _defaults(decoder, gram, dim, output)
        if spike_grad is None:
            spike_grad = midpoint(default.floor)
        require_quantizer(state_quant)
        flags = {
            "surrogate_disable": surrogate_disable,
            "learn_step": default is INFERENCE if learn_step is None else learn_step,
            "learn_bias": learn_bias,
            "learn_mem_init": learn_mem_init,
        }
        for name, flag in flags.items():
            require_flag(flag, name)
        features, like = features_of(decoder), getattr(decoder, "weight", torch.empty(0))
        require_estimator(spike_grad, like.new_empty(features))
        tonic = per_neuron(bias, "bias", features, like, least=1e-6)
        rest = None
        if mem_init is not None:
            rest = per_neuron(mem_init, "mem_init", features, like, least=-MEM_INIT_MAX)
        self.lateral_scale = lateral_scale
        self.leak = default.leak if leak is None else leak
        self.clamp = default.clamp if clamp is None else clamp
        of_maps = isinstance(decoder, nn.ConvTranspose1d | nn.ConvTranspose2d | SharedMapDecoder)
        decoded = of_maps or isinstance(decoder, nn.Linear | SharedDecoder)
        dim = 1 if of_maps and dim is None else dim
        self.form = ("exact" if decoded else "published") if form is None else form
        step = default.step if step is None else step
        log_step = math.log(require_number(step, "step", least=1e-6, most=LARGEST))
        super().__init__(
            spike_grad=spike_grad, init_hidden=init_hidden, state_quant=state_quant, output=output
        )
        self.surrogate_disable, self.dim = surrogate_disable, dim
        self.lateral = make_lateral(decoder, log_scale=log_scale, gram=gram, learn_gram=learn_gram)
        if rest is None:
            rest = torch.empty(features).uniform_(*default.mem_init).to(like)
        self._declare("mem_init", rest, learn_mem_init)
        self._declare("log_bias", tonic.log(), learn_bias)
        self._declare("log_step", like.new_tensor(log_step), flags["learn_step"])

    def __setattr__(self, name: str, value: Any) -> None:
        modules = self.__dict__.get("_modules", {})
        if "lateral" in modules:  # the constructor has checked what came before
            self._check_attribute(name, value)
        if name == "spike_grad" and not isinstance(value, nn.Module):
            modules.pop(name, None)  # else PyTorch takes modules only after a module
        super().__setattr__(name, value)

    def _check_attribute(self, name: str, value: Any) -> None:
        """Raise unless attribute ``name`` may be set to ``value``."""
        if name == "spike_grad":
            require_estimator(value, self.mem_init.new_empty(self.features))
        elif name == "state_quant":
            require_quantizer(value)
        elif name in _FLAGS:
            require_flag(value, name)
        elif name == "dim":
            require_dim(value)
        elif name == "observers":
            require_observers(value)
        elif name == "lateral":
            require_instance(value, name, Lateral)
            self._check_shape(name, (value.features,), ((self.features,),))
        elif name in _PARAMETERS and (isinstance(value, Tensor) or value is None):
            require_all_within(self._check_parameter(name, value), name, MEM_INIT_MAX)
        elif name in State._fields:
            self._check_stored(name, value)
        elif name in FOREIGN and name != "reset_mechanism":  # which snnTorch gives to its check
            if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
                value = value.item()  # a buffer that load_state_dict(assign=True) sets
            refuse_foreign({name: value})
        elif name in _FIXED or (name in _LEARNED and not callable(value)):
            kept = _LEARNED.get(name)
            raise TypeError(
                f"{name} is an argument of IPVAENeuron, which nothing reads later: "
                + (f"set its logarithm, {kept}" if kept else "set requires_grad of the parameter")
            )

    @staticmethod
    def _check_shape(name: str, shape: tuple[int, ...], allowed: tuple[Any, ...]) -> None:
        if shape not in allowed:
            expected = " or ".join(map(str, reversed(allowed)))
            raise ValueError(f"{name} must be for neurons of shape {expected}, got {shape}")

    def _check_parameter(self, name: str, value: Any) -> Tensor:
        """``value``; raises unless it may be the parameter ``name``."""
        require_float(value, name)
        shapes: tuple[tuple[int, ...], ...] = ((), (self.features,))
        self._check_shape(name, tuple(value.shape), shapes[: 1 if name == "log_step" else 2])
        tensor: Tensor = value
        return tensor

    @staticmethod
    def _check_stored(name: str, value: Any) -> None:
        """Raise unless ``value`` may be stored as the state ``name``."""
        require_float(value, name)
        require_finite(value, name)
        if name == "spk":
            require_not_negative(value, "spk must not be negative: it holds counts")

    def check_parameters(self) -> None:
        """Raise unless all parameters fit together, in whatever way they were set or moved."""
        like, sizes = self.mem_init, ((), (self.features,))
        require_values(like)
        parameters = self.log_step, self.log_bias, like
        if self.log_step.ndim or not all(
            p.dtype == like.dtype and p.device == like.device and p.shape in sizes
            for p in parameters
        ):
            for name in _PARAMETERS:  # which of them, and why
                require_same_kind(name, self._check_parameter(name, getattr(self, name)), like)
        for name in ("weight", "log_scale"):
            value = getattr(self.lateral, name, None)
            if value is not None:
                require_same_kind(f"{name} of the lateral weights", value, like)

    # -- lateral weights and currents ---------------------------------------------------------

    @property
    def features(self) -> int:
        """K, the number of neurons."""
        return self.lateral.features

    def gram(self) -> Tensor:
        """The current lateral weights G, shape (K, K), differentiable."""
        return self.lateral.gram()

    def tonic(self, gram: Tensor, log_bias: Tensor | None = None) -> Tensor:
        """Tonic inhibition in nats per timestep, shape (K,): b, in the exact form with ½ diag G.

        Args:
            gram: the current lateral weights.
            log_bias: the logarithm of b, if it is not to be this neuron's own.
        """
        bias = (self.log_bias if log_bias is None else log_bias).exp()
        if self.form == "published":
            return bias if bias.ndim else bias.expand(self.features)
        return bias + (0.5 * self.lateral_scale) * self.lateral.diagonal(gram)

    def drive(self, x: Tensor) -> Tensor:
        """The feed-forward current Φᵀ Λ x of this neuron's decoder, (..., M) to (..., K).

        With a convolutional decoder (..., C, H, W) to (..., K, h, w).
        """
        if not isinstance(self.lateral, SharedDecoder | SharedMapDecoder):
            raise TypeError("drive needs a decoder: this neuron was made from a number of neurons")
        return self.lateral.drive(x)

    # -- one timestep -------------------------------------------------------------------------

    def integrate(
        self, drive: Tensor, inhibition: Tensor, mem: Tensor, tonic: Tensor | None = None,
        mem_rest: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The next membrane, from the drive and zG of the previous spikes; stores no state.

        ``tonic``: of :meth:`tonic`; default b. ``mem_rest``: what the leak pulls to; default u₀.
        """
        mem = equations.membrane_step(
            mem,
            drive,
            inhibition if self.lateral_scale == 1 else self.lateral_scale * inhibition,
            step=self.log_step.exp(),
            bias=self.log_bias.exp() if tonic is None else tonic,
            leak=self.leak,
            mem_rest=self.mem_init if mem_rest is None else mem_rest,
            clamp=self.clamp,
        )
        return self._checked(self.state_quant(mem), mem, "state_quant") if self.state_quant else mem

    def emit(self, mem: Tensor) -> Tensor:
        """Spike counts for a membrane; stores no state."""
        if isinstance(self.spike_grad, Relaxed) and not self.training:
            return self.spike_grad.sample(mem)
        spk = self.spike_grad(mem.detach() if self.surrogate_disable else mem)
        return self._checked(spk, mem, "spike_grad")

    @staticmethod
    def _checked(result: Tensor, mem: Tensor, name: str) -> Tensor:
        if not isinstance(result, Tensor) or result.shape != mem.shape:
            shape = tuple(result.shape) if isinstance(result, Tensor) else repr(result)
            raise ValueError(
                f"{name} must keep the shape of mem, {tuple(mem.shape)}: it returned {shape}"
            )
        return result.to(mem.dtype)

    def forward(
        self,
        input_: Tensor,
        spk: Tensor | None = None,
        mem: Tensor | None = None,
        *,
        gram: Tensor | None = None,
    ) -> Tensor | State:
        """One timestep: see the class. ``gram``: G, if the caller has it already."""
        self._check_call(spk, mem)
        self._check_input(input_)
        if gram is not None:
            self._check_gram(gram)
        self._begin_call()
        axis, state = self.axis(input_.shape), self._resume(input_.shape, spk, mem)
        state = self.step(*(part.movedim(axis, -1) for part in (input_, *state)), gram=gram)
        state = State(*(part.movedim(-1, axis) for part in state))
        if self.observers:
            self.notify_observers(State(state.spk[None], state.mem[None]))
        return self._store(state)

    def step(
        self, input_: Tensor, spk: Tensor, mem: Tensor, *, gram: Tensor | None = None
    ) -> State:
        """One timestep from a state to the next: stores no state, and checks no input.

        All are (..., K), whatever ``dim`` is.
        """
        gram = self.lateral.cached_gram() if gram is None else gram
        known, tonic = assumptions_of(self), self.tonic(gram)
        if known is not None and not self.lateral.between_places:
            settings = one_step.Settings(
                self.lateral_scale, self.leak, self.clamp, self.spike_grad, *known
            )
            rest = self.mem_init if self.mem_init.ndim else self.mem_init.expand(self.features)
            parameters = self.log_step, tonic, rest
            tensors = input_.to(mem.dtype), gram, spk, mem, *parameters
            if one_step.supports(settings, *tensors):
                return State(*one_step.one_step(settings, *tensors))
        mem = self.integrate(input_, self.lateral.inhibition(spk, gram), mem, tonic)
        return State(self.emit(mem), mem)

    def run_from(self, input_: Tensor, state: State) -> tuple[State, State]:
        axis, steps = self.axis(input_.shape[1:]), len(input_)
        drive = (input_[0] if is_constant(input_) else input_).to(state.mem.dtype)
        drive, gram = drive.movedim(axis, -1), self.lateral.cached_gram()
        state = State(*(part.movedim(axis, -1) for part in state))
        shape, rows = state.mem.shape, (-1, self.features)
        if self.lateral.between_places:
            drives = drive if drive.ndim > len(shape) else drive.expand(steps, *shape)
            states = list(accumulate(drives, partial(self._next, gram), initial=state))[1:]
            sequence, last = State(*map(torch.stack, zip(*states, strict=True))), states[-1]
        else:
            state = State(*(part.reshape(rows) for part in state))
            drive = drive.reshape(*drive.shape[: drive.ndim - len(shape)], *rows)
            out = infer_unobserved(
                self, spec_of(self, drive, gram, state, steps=steps, fields=("spk", "mem"))
            )
            assert out.spk is not None
            assert out.mem is not None
            sequence = State(*(part.reshape(steps, *shape) for part in (out.spk, out.mem)))
            last = State(out.last_spk.reshape(shape), out.last_mem.reshape(shape))
        sequence, last = (State(*(p.movedim(-1, axis) for p in pair)) for pair in (sequence, last))
        if self.observers:
            self.notify_observers(sequence)
        return sequence, last

    def _next(self, gram: Tensor, state: State, drive: Tensor) -> State:
        return self.step(drive, *state, gram=gram)

    def axis(self, shape: torch.Size | tuple[int, ...]) -> int:
        """Which dimension of a timestep's input holds the neurons, from the end: −1, −2, ...

        Raises:
            ValueError: it is not said, or there is none such.
        """
        if self.dim is None:
            if len(shape) <= FLAT:
                return -1
            raise ValueError(
                f"input_ of a timestep must have shape (B, {self.features}), a current per neuron, "
                f"got {tuple(shape)}. Say which dimension holds the neurons: IPVAENeuron(..., "
                "dim=1) for feature maps (B, C, H, W) or (B, C, L), whose channels compete at each "
                "place, dim=-1 for (B, L, C); take all values of a map as neurons by flatten(1); "
                "give sequences of timesteps to neuron.run(input_)"
            )
        axis = self.dim - len(shape) if self.dim >= 0 else self.dim
        if not -len(shape) <= axis < 0:
            raise ValueError(
                f"input_ of a timestep has no dimension {self.dim}, which dim says holds the "
                f"neurons, got {tuple(shape)}"
            )
        return axis

    def _check_input(self, input_: Tensor, *, sequence: bool = False) -> None:
        require_float(input_, "input_")
        shape = input_.shape[1:] if sequence else input_.shape
        if not torch.compiler.is_compiling() and torch._C._is_tracing():
            raise TypeError(NOT_SCRIPTED)
        axis = self.axis(shape) if shape else -1
        if shape[axis:][:1] != (self.features,):
            decoder = getattr(self.lateral, "decoder", None)
            pixels = decoder is not None and shape[-1:] == (decoder.out_features,)
            places = ", ..." if axis < -1 else ""
            raise ValueError(
                f"input_ must have shape (..., {self.features}{places}), a current per neuron, got "
                f"{tuple(input_.shape)}"
                + (": this is the shape of model inputs x, use neuron.drive(x)" if pixels else "")
            )
        remake_weights(self)
        self.check_parameters()
        require_fitting(input_, "input_", like=self.mem_init)
        require_all_finite(
            input_=input_,
            log_step=self.log_step,
            log_bias=self.log_bias,
            mem_init=self.mem_init,
            step=self.log_step.exp(),
        )

    def _check_gram(self, gram: Tensor) -> None:
        require_float(gram, "gram")
        between, dtype = self.lateral.between_places, self.mem_init.dtype
        shape = tuple(self.gram().shape) if between else (self.features, self.features)
        if gram.shape != shape or gram.dtype != dtype:
            raise ValueError(
                f"gram must be what neuron.gram() returned, {dtype} of shape {shape}, got "
                f"{gram.dtype} of shape {tuple(gram.shape)}"
            )
        require_finite(gram, "gram")

    def initial_state(self, shape: torch.Size | tuple[int, ...]) -> State:
        """No spikes and ``mem_init``, for currents of ``shape``; stores no state."""
        axis = self.axis(shape)
        remake_weights(self)
        rest = self.mem_init.reshape(-1, *(1,) * (-axis - 1))
        mem = rest.expand(shape).clone()
        return State(torch.zeros_like(mem), mem)

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(NOT_SCRIPTED)

    def extra_repr(self) -> str:
        return (
            f"{self.features}, "
            + (f"dim={self.dim}, " if self.dim is not None else "")
            + f"form={self.form!r}, spike_grad={self.spike_grad!r}, "
            f"clamp={self.clamp:g}, "
            f"leak={self.leak:g}, lateral_scale={self.lateral_scale:g}"
        )
