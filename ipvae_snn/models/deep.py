"""Layers that explain one another: each predicts the log rates of the one below."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import (
    require_code,
    require_finite,
    require_flag,
    require_input,
    require_instance,
    require_integer,
    require_number,
)
from ipvae_snn._utils.seeding import require_same_draws
from ipvae_snn.kernels import equations, loop
from ipvae_snn.kernels.loop import Moment, State, Timestep
from ipvae_snn.models import run_output
from ipvae_snn.models.base import MODELS, BaseModel
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.models.likelihoods import Likelihood, Poisson
from ipvae_snn.models.local_rule import of_neurons
from ipvae_snn.models.residual import seen
from ipvae_snn.neurons import CLAMP, MEM_INIT_RANGE, IPVAENeuron
from ipvae_snn.neurons.lateral import NoLateral

SHARE = 4
"""Neurons of a layer for each of the next, where only the first is given."""
COUNTS = Poisson()
"""The law of spikes, given the log rates that the layer above predicts."""


class Level(nn.Module):
    """A layer above another: neurons, and what their spikes add to the log rates below.

    Args:
        below: K of the layer below.
        latents: K of this one.
        init_std: standard deviation of the initial Ψ.
        mem_init: u₀ before it has learned; ``None``: drawn as that of an IPVAE.
        neuron: options of :class:`~ipvae_snn.IPVAENeuron`.
    """

    def __init__(
        self, below: int, latents: int, init_std: float, mem_init: float | None, **neuron: Any
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(init_std * torch.randn(below, latents))
        start = sum(MEM_INIT_RANGE) / 2 if mem_init is None else mem_init
        self.neuron = IPVAENeuron(NoLateral(latents), mem_init=start, **neuron)
        with torch.no_grad():
            if mem_init is None:
                self.neuron.mem_init.uniform_(*MEM_INIT_RANGE)

    def predicted(self, spk: Tensor, rest: Tensor, clamp: float) -> Tensor:
        """a = u₀ + Ψ z, the log rates of the layer below, (..., K below), at most its clamp."""
        return F.soft_clamp(rest + spk @ self.weight.mT, clamp)

    def current(self, spk_below: Tensor, log_rate: Tensor) -> Tensor:
        """Ψᵀ (z_below − e^a), and in the exact form − ½ Σ e^a Ψ²; (..., K)."""
        rate = log_rate.exp()
        current = (spk_below - rate) @ self.weight
        if self.neuron.form == "exact":
            current = current - 0.5 * rate @ self.weight.square()
        return current


class _Sent(NamedTuple):
    """What the spikes of all layers leave: currents and log priors of each, and the NLL."""

    currents: list[Tensor]
    priors: list[Tensor]
    nll: Tensor


class LayerCurrents(NamedTuple):
    """Contributions to the change of a layer's membranes, nats per timestep, (T, B, K) each.

    ``feed_forward`` is what comes from below, ``lateral`` what spikes of the layer, and what is
    predicted by them, take away; ``top_down`` the pull to what is predicted; ``tonic`` −α b, with
    −α ½ v in the exact form; ``clamp`` what the clamps subtract.
    """

    feed_forward: Tensor
    lateral: Tensor
    top_down: Tensor
    tonic: Tensor
    clamp: Tensor


@MODELS.register("deep-ipvae")
class DeepIPVAE(BaseModel):
    r"""Layers of Poisson neurons, each of which explains the spikes of the one below.

    The first layer explains the input, as an :class:`~ipvae_snn.IPVAE` does. The spikes of a layer
    are explained by the next, under a Poisson likelihood: its log rates are what the layer above
    predicts. So spikes that were not predicted go up, and predictions come down as the prior that
    membranes are pulled to:

    .. math::
        a_1 = u_{0,1} + Ψ z_2 \qquad
        Δu_1 = α_1 \big[ Φᵀ Λ (x − Φ z_1) − \tfrac12 v_1 − b_1 − γ (u_1 − a_1) \big] \qquad
        Δu_2 = α_2 \big[ Ψᵀ (z_1 − e^{a_1}) − \tfrac12 v_2 − b_2 − γ (u_2 − u_{0,2}) \big]

    with γ ``top_down``, v₁ = diag G and v₂ = Σ e^{a} Ψ². All layers infer at once, by the spikes of
    the timestep before. Codes of all layers stand side by side, the first layer's first. The
    KL of a timestep is that of each layer to what is predicted of it, and of the last to e^{u₀}:
    NLL + KL is the negative of a lower bound of log p(x), where in an IPVAE the KL is to the
    membranes of the timestep before.

    Args:
        in_features: M.
        latents: K of each layer, from the input up; a number K stands for (K, K / 4).
        top_down: γ ≥ 0, the pull to what is predicted, of the last layer to u₀. With 1, and next to
            no tonic inhibition, membranes descend the free energy; 0 cuts the layers off from those
            above.
        init_std, decoder, likelihood, learn_scale, scale: of the first layer; see
            :class:`~ipvae_snn.IPVAE`.
        top_std: standard deviation of the initial Ψ.
        top_step: α of the layers above the first; default: ``step``. What a spike of theirs
            predicts adds up over all neurons below, so that they are stable with smaller steps:
            below 2 / (λ Σ e^a Ψ²), for the rate λ of the neuron.
        top_mem_init: log rates that the layers above the first start at and rest at, before they
            have learned; default: drawn as those of the first, at which they hardly fire.
        spike_grad, form, clamp, step, bias, learn_step, learn_bias: of all layers; see there.

    Raises:
        TypeError, ValueError: an option is out of range, named in the message.

    Source: arXiv 2410.19315 for the first layer; predictive coding, Rao & Ballard 1999, for errors
    that go up and predictions that come down.

    >>> model = DeepIPVAE(in_features=16, latents=[32, 8])
    >>> out = model.run(torch.rand(5, 16), num_steps=10, record=("spk", "kl"))
    >>> [part.shape for part in model.split(out.spk)]
    [torch.Size([10, 5, 32]), torch.Size([10, 5, 8])]
    >>> model.decode(out.spk[-1]).shape
    torch.Size([5, 16])
    """

    takes_graph = emits_counts = takes_mask = learns_locally = True
    recipe: ClassVar[Mapping[str, Any]] = {
        "rule": "local", "iterations": 4000, "batch": 50, "steps": 32, "burn_in": 24, "lr": 5e-3,
        "lr_end": 1e-4, "weight_decay": 0.0, "beta": 1.0,
    }  # fmt: skip

    def __init__(  # noqa: PLR0913
        self,
        in_features: int,
        latents: int | Sequence[int],
        *,
        top_down: float = 1.0,
        init_std: float = 1e-2,
        top_std: float = 0.3,
        top_step: float | None = None,
        top_mem_init: float | None = None,
        spike_grad: Callable[[Tensor], Tensor] | None = None,
        form: Literal["exact", "published"] | None = None,
        clamp: float = CLAMP,
        step: float = 0.1,
        bias: float = 1e-4,
        learn_step: bool = True,
        learn_bias: bool = False,
        learn_scale: bool = True,
        scale: float = 1.0,
        decoder: nn.Module | None = None,
        likelihood: Likelihood | None = None,
    ) -> None:
        super().__init__()
        if isinstance(latents, int):
            latents = latents, max(1, latents // SHARE)
        sizes = list(latents)
        sizes = [require_integer(size, "a size of latents") for size in sizes]
        if len(sizes) < 2:
            raise ValueError(f"latents must hold at least two layers, got {latents}: take an IPVAE")
        top_down = require_number(top_down, "top_down", least=0)
        require_number(top_std, "top_std", least=0)
        require_instance(spike_grad, "spike_grad")
        self.base = IPVAE(
            in_features, sizes[0], spike_grad=spike_grad, form=form, clamp=clamp, step=step,
            bias=bias, learn_step=learn_step, learn_bias=learn_bias,
            init_std=init_std, learn_scale=learn_scale, scale=scale, decoder=decoder,
            likelihood=likelihood,
        )  # fmt: skip
        self.upper = nn.ModuleList(
            Level(
                below, size, top_std, top_mem_init, spike_grad=spike_grad, form=form or "exact",
                clamp=clamp, step=step if top_step is None else top_step, bias=bias, leak=0.0,
                learn_step=require_flag(learn_step, "learn_step"), learn_bias=learn_bias,
            )
            for below, size in pairwise(sizes)
        )  # fmt: skip
        for neuron in self.neurons:
            neuron.leak = top_down
        self.sizes = tuple(sizes)
        self.in_features, self.latents = self.base.in_features, sum(sizes)

    # -- parts ------------------------------------------------------------------------------

    @property
    def neurons(self) -> list[IPVAENeuron]:
        """The layers, from the input up."""
        return [self.base.neuron, *(level.neuron for level in self._levels())]

    def _levels(self) -> Iterator[Any]:
        return iter(self.upper)

    @property
    def decoder(self) -> Any:
        """That of the first layer."""
        return self.base.decoder

    @property
    def log_scale(self) -> Tensor | None:
        return self.base.log_scale

    def split(self, code: Tensor) -> tuple[Tensor, ...]:
        """Codes or membranes (..., K) of all layers as those of each."""
        parts: tuple[Tensor, ...] = code.split(self.sizes, -1)
        return parts

    @property
    def like(self) -> Tensor:
        return self.base.like

    @property
    def clamp(self) -> float:  # type: ignore[override]
        return self.base.clamp

    def drawing(self) -> tuple[Any, ...]:
        own = tuple(neuron.spike_grad for neuron in self.neurons[1:])
        return *self.base.drawing(), *own

    def annealed(self) -> dict[str, float]:
        """The clamp of all layers."""
        return {"clamp": self.base.clamp}

    def anneal(self, name: str, value: float) -> None:
        for neuron in self.neurons:
            setattr(neuron, name, value)

    def mean_code(self, mem: Tensor) -> Tensor:
        """Expected counts of membranes: the rates e^u, in their shape."""
        return mem.exp()

    def decode(self, spk: Tensor) -> Tensor:
        """Reconstruction (..., M) from the first layer's part of codes (..., K)."""
        require_code(spk, self.latents, like=self.like)
        with torch.set_grad_enabled(self.keeps_graph(None, spk)):
            return self.base.decode(self.split(spk)[0])

    def nll_of(self, spk: Tensor, x: Tensor, shown: Tensor | None = None) -> Tensor:
        return self.base.nll_of(self.split(spk)[0], x, shown)

    def observed(self, spk: Tensor, like: Tensor | None = None) -> Tensor:
        return self.base.observed(self.split(spk)[0])

    def predicted(self, spk: Tensor) -> Tensor:
        """Log priors a of all layers, side by side as codes (..., K) are."""
        parts = self.split(spk)
        priors = [
            level.predicted(above, neuron.mem_init, neuron.clamp)
            for level, above, neuron in zip(self._levels(), parts[1:], self.neurons, strict=False)
        ]
        top = self.neurons[-1].mem_init
        return torch.cat([*priors, top.expand_as(parts[-1])], -1)

    # -- inference --------------------------------------------------------------------------

    def run(
        self,
        x: Tensor,
        num_steps: int | None = None,
        *,
        record: Sequence[str] = run_output.RECORDABLE,
        every: int = 1,
        state: State | None = None,
        seed: int | None = None,
        graph: bool | None = None,
        mask: Tensor | Literal["nan"] | None = None,
    ) -> Any:
        """Infer x for a number of timesteps: as :meth:`ipvae_snn.IPVAE.run`.

        ``spk`` and ``mem`` hold all layers, (T, B, K); :meth:`split` takes them apart. ``mask``
        holds 1 where a value was seen and 0 where it was not, or is ``"nan"``.
        """
        shown = None
        if mask is not None:
            x, precision = seen(x, mask, 1, self.like)
            if not bool(((precision == 0) | (precision == 1)).all()):
                raise ValueError("mask must be 1 where a value was seen and 0 where it was not")
            shown = precision > 0
        num_steps = require_input(x, num_steps, self.in_features, like=self.like)
        require_integer(every, "every")
        fields = run_output.check_fields(record)
        shape = (x.shape[-2], self.latents)
        if state is not None:
            state = run_output.require_state(state, shape, like=self.like)
        require_finite(x, "x")
        if self.base.decoded is not None:
            self.base.decoded.require(x, shown)
        with_graph = self.keeps_graph(graph, x, *(state or ()))
        with torch.set_grad_enabled(with_graph), self.seeded(seed):
            require_same_draws()
            self.require_together()
            for neuron in self.neurons:
                neuron.check_parameters()
            state = self._initial_state(shape) if state is None else state
            timestep = _DeepTimestep(self, x.to(self.like.dtype), shown)
            watched = any(neuron.observers for neuron in self.neurons)
            names = tuple(dict.fromkeys((*fields, "spk", "mem"))) if watched else fields
            values, last = loop.record(timestep, state, num_steps, names, 1 if watched else every)
        require_finite(last.mem, "the membranes")
        if watched:
            parts = (self.split(values[name]) for name in ("spk", "mem"))
            for neuron, spk, mem in zip(self.neurons, *parts, strict=True):
                neuron.notify_observers(State(spk, mem))
        return run_output.make_run(run_output.thinned(values, fields, every, watched), last)

    @torch.no_grad()
    def currents(self, x: Tensor, spk: Tensor, mem: Tensor) -> list["LayerCurrents"]:
        """What moved the membranes of each layer, from the recorded timesteps of a run.

        Args:
            x: (B, M), or (T, B, M), as in the run from its initial state.
            spk, mem: of every timestep, (T, B, K).

        Returns:
            From the input up, contributions to u_t − u_{t−1}, (T, B, K) of the layer each.
        """
        require_code(spk, self.latents, like=self.like)
        require_code(mem, self.latents, like=self.like)
        start = self._initial_state((spk.shape[1], self.latents))
        before = torch.cat([start.spk[None], spk[:-1]])
        mem_before = torch.cat([start.mem[None], mem[:-1]])
        inputs = x.expand(len(spk), -1, -1).flatten(0, 1).to(self.like.dtype)
        codes = before.flatten(0, 1)
        parts, priors = self.split(codes), self.split(self.predicted(codes))
        forms = [self.base.generative.given(inputs, form) for form in ("published", "exact")]
        alone = forms[0].feedback(torch.zeros_like(parts[0])).current
        current = forms[0].feedback(parts[0]).current
        exact = self.base.neuron.form == "exact"
        spread = forms[1].feedback(parts[0]).current - current if exact else 0 * current
        taken = [(alone, current - alone, spread)]
        for level, below, prior in zip(self._levels(), parts, priors, strict=False):
            up, down = below @ level.weight, prior.exp() @ level.weight
            taken.append((up, -down, level.current(below, prior) - (up - down)))
        found = []
        shape = spk.shape[:2]
        changes = zip(self.split(mem - mem_before), self.split(mem_before), strict=True)
        for neuron, own, prior, (change, u) in zip(
            self.neurons, taken, priors, changes, strict=True
        ):
            step = neuron.log_step.exp()
            up, lateral, spread = (step * part.unflatten(0, shape) for part in own)
            tonic = spread - step * neuron.log_bias.exp()
            top_down = -step * neuron.leak * (u - prior.unflatten(0, shape))
            clamp = change - up - lateral - tonic - top_down
            found.append(LayerCurrents(up, lateral, top_down, tonic, clamp))
        return found

    def _initial_state(self, shape: tuple[int, int]) -> State:
        mem = torch.cat([n.mem_init.expand(n.features) for n in self.neurons]).expand(shape)
        return State(torch.zeros_like(mem), mem)

    # -- learning ---------------------------------------------------------------------------

    def settled_loss(
        self, x: Tensor, spk: Tensor, rate: Tensor, shown: Tensor | None, target_rate: float
    ) -> Tensor:
        """What the local rule learns by: −log p(x, z) of settled counts (L, B, K); a scalar."""
        code, length = spk.flatten(0, 1), len(spk)
        parts, priors = self.split(code), self.split(self.predicted(code))
        shown = None if shown is None else shown.expand_as(x).repeat(length, 1)
        nll = self.nll_of(code, x.repeat(length, 1), shown)
        for z, prior in zip(parts[:-1], priors[:-1], strict=True):
            nll = nll + COUNTS.nll(z, prior)
        loss: Tensor = F.free_energy(nll, torch.zeros_like(nll), 0.0, self.in_features)
        means = self.split(rate.mean((0, 1)))
        for number, (neuron, mean) in enumerate(zip(self.neurons, means, strict=True)):
            top = number + 1 == len(means)
            loss = loss + of_neurons(neuron, mean, target_rate, rests=top)
        return loss

    # -- files ------------------------------------------------------------------------------

    def _current(self) -> dict[str, Any]:
        own = self.base._current()
        names = ("form", "clamp", "spike_grad", "decoder", "likelihood")
        return {"top_down": self.base.neuron.leak} | {n: own[n] for n in names if n in own}

    def check_loaded(self) -> None:
        self.base.check_loaded()


class _DeepTimestep(Timestep):
    """A timestep of all layers; states (B, K) of all side by side."""

    def __init__(self, model: DeepIPVAE, x: Tensor, shown: Tensor | None) -> None:
        self.model, self.changing = model, x.ndim == 3
        frames = x if self.changing else [x]
        base = model.base
        self.explained = [base.generative.given(f, base.neuron.form, shown) for f in frames]

    def send(self, spk: Tensor, t: int) -> _Sent:
        model = self.model
        parts, priors = model.split(spk), list(model.split(model.predicted(spk)))
        first = self.explained[t if self.changing else 0].feedback(parts[0])
        currents = [first.current]
        for level, below, prior in zip(model._levels(), parts, priors, strict=False):
            currents.append(level.current(below, prior))
        return _Sent(currents, priors, first.nll)

    def integrate(self, now: Moment, t: int) -> Tensor:
        # The same spikes leave another current where the next frame is another.
        sent = self.send(now.spk, t) if self.changing and t else now.sent
        mems = self.model.split(now.mem)
        return torch.cat(
            [
                neuron.integrate(current, mem.new_zeros(()), mem, mem_rest=prior)
                for neuron, current, mem, prior in zip(
                    self.model.neurons, sent.currents, mems, sent.priors, strict=True
                )
            ],
            -1,
        )

    def emit(self, mem: Tensor) -> Tensor:
        parts = self.model.split(mem)
        return torch.cat(
            [neuron.emit(part) for neuron, part in zip(self.model.neurons, parts, strict=True)], -1
        )

    def measure(self, name: str, now: Moment, t: int) -> Tensor:
        if name == "nll":
            nll: Tensor = now.sent.nll
            return nll
        prior = torch.cat(now.sent.priors, -1)
        return equations.poisson_kl_sum(now.mem, prior, "exact")
