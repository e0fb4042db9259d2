"""Base class of all baselines: a linear decoder, and the timesteps of a run."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

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
    require_shape,
)
from ipvae_snn._utils.seeding import require_same_draws
from ipvae_snn.kernels import loop
from ipvae_snn.kernels.loop import Moment, State
from ipvae_snn.models.base import BaseModel
from ipvae_snn.models.generative import require_decoder
from ipvae_snn.models.likelihoods import Gaussian, Likelihood
from ipvae_snn.models.run_output import RECORDABLE, check_fields, make_run, require_pair
from ipvae_snn.neurons.lateral import remake_weights, require_like, weight_of

_WEIGHTS = "weights hold NaN or infinity, or numbers that are too large"


class Baseline(BaseModel):
    """A model x ≈ Φ z to compare :class:`~ipvae_snn.IPVAE` with.

    Where inference does not need Φ, as by an encoder, a subclass may take any decoder and
    likelihood.

    A subclass gives :meth:`start`, :meth:`advance` and :meth:`mean_code`, and may override
    :meth:`sense` and :meth:`shared`. As in an IPVAE, ``spk`` is the code z of a timestep, but of
    real numbers, and ``mem`` the parameters of the distribution it was drawn from.

    Args:
        in_features: M, length of an input.
        latents: K.
        init_std: standard deviation of the initial Φ.
        learn_scale: learn log σ per pixel; otherwise σ = 1.
        decoder: any module from codes (B, K) to (B, M), in place of Φ.
        likelihood: in place of the Gaussian; see :mod:`ipvae_snn.models.likelihoods`. ``None`` is
            kept for the linear decoder with its Gaussian alone.
    """

    raw_log_scale: Tensor | None

    def __init__(
        self, in_features: int, latents: int, *, init_std: float = 1e-2, learn_scale: bool = True,
        decoder: nn.Module | None = None, likelihood: Likelihood | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features = require_integer(in_features, "in_features")
        self.latents = require_integer(latents, "latents")
        require_number(init_std, "init_std", least=0)
        if likelihood is not None:
            require_instance(likelihood, "likelihood", Likelihood)
        learn_scale = require_flag(learn_scale, "learn_scale")
        if decoder is not None and likelihood is None:
            likelihood = Gaussian(self.in_features, learn_scale)
        self.likelihood = likelihood
        self.linear = decoder is None
        if decoder is None:
            decoder = nn.Linear(latents, in_features, bias=False)
            nn.init.normal_(decoder.weight, std=init_std)
        self.decoder: Any = decoder
        own = learn_scale and likelihood is None
        self.register_parameter("raw_log_scale", F.raw_log_scale(self.in_features, own))

    has_matrix = takes_graph = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "decoder" and self.linear:
            require_like(value, self.__dict__["_modules"].get("decoder"))
        elif name == "decoder":
            require_decoder(value, self.latents, self.in_features, torch.empty(0))
        elif "_made" in self.__dict__ and self._is_read_once(name):
            raise TypeError(
                f"{name} of {type(self).__name__} is fixed when it is made, as nothing reads it "
                "later: make another model, or set the parameter that came of it"
            )
        super().__setattr__(name, value)

    def _is_read_once(self, name: str) -> bool:
        """Whether setting an attribute would change nothing, or what weights have the shape of."""
        argument = name in self.__dict__["_arguments"]
        return name in ("in_features", "latents", "clamp") or (argument and not hasattr(self, name))

    # -- for subclasses -------------------------------------------------------------------------

    def sense(self, x: Tensor) -> Tensor:
        """What inference needs of a frame (B, M); computed once for all timesteps that show it."""
        return x

    @abstractmethod
    def start(self, sensed: Tensor) -> State:
        """The initial state."""

    @abstractmethod
    def advance(self, sensed: Tensor, state: State, shared: Any) -> tuple[State, Tensor]:
        """The state after a timestep, and its cost: the KL, (B,), in nats."""

    @abstractmethod
    def mean_code(self, mem: Tensor) -> Tensor:
        """E[z] of the distribution that ``mem`` describes, (..., K)."""

    def shared(self) -> Any:
        """Values that all timesteps of a run share, such as G."""
        return None

    # -- common to all --------------------------------------------------------------------------

    @property
    def weight(self) -> Tensor:
        """Φ, shape (M, K); of another decoder, what one spike of each neuron adds."""
        return weight_of(self._modules.get("decoder")) if self.linear else super().weight

    @property
    def log_scale(self) -> Tensor | None:
        """log σ per pixel, bounded, shape (M,); ``None`` for σ = 1, or where there is none."""
        if self.likelihood is not None:
            return getattr(self.likelihood, "log_scale", None)
        return None if self.raw_log_scale is None else F.bound_log_scale(self.raw_log_scale)

    def decode(self, spk: Tensor) -> Tensor:
        """Reconstruction Φ z of codes (..., K); shape (..., M).

        It carries a graph as the result of :meth:`run` does.
        """
        require_code(spk, self.latents, like=self.like)
        self.require_together()
        with torch.set_grad_enabled(self.keeps_graph(None, spk)):
            x_hat = self._mean(self._output(spk.to(self.like.dtype)))
        require_finite(x_hat, "the reconstruction of spk", _WEIGHTS)
        return x_hat

    def _output(self, spk: Tensor) -> Tensor:
        """What the decoder makes of codes (..., K), (..., M)."""
        if self.linear:
            return spk @ self.weight.mT
        eta: Tensor = self.decoder(spk.reshape(-1, self.latents))
        return eta.reshape(*spk.shape[:-1], -1)

    def _mean(self, eta: Tensor) -> Tensor:
        return eta if self.likelihood is None else self.likelihood.mean(eta)

    def nll_of(self, spk: Tensor, x: Tensor, shown: Tensor | None = None) -> Tensor:
        if self.likelihood is None:
            return super().nll_of(spk, x, shown)
        assert shown is None
        return self.likelihood.nll(x, self._output(spk))

    def observed(self, spk: Tensor, like: Tensor | None = None) -> Tensor:
        if self.likelihood is None:
            return super().observed(spk)
        return self.likelihood.draw(self._output(spk))

    def run(
        self,
        x: Tensor,
        num_steps: int | None = None,
        *,
        record: Sequence[str] = RECORDABLE,
        every: int = 1,
        state: State | None = None,
        seed: int | None = None,
        graph: bool | None = None,
    ) -> Any:
        """Infer x for a number of timesteps; arguments and result as in :meth:`IPVAE.run`.

        Raises:
            TypeError, ValueError: x is no finite floating-point tensor (B, M) or (T, B, M), or an
                option is out of range.
        """
        fields = check_fields(record)
        steps = require_input(x, num_steps, self.in_features, like=self.like)
        require_integer(every, "every")
        require_finite(x, "x")
        x = x.to(self.like.dtype)
        if self.likelihood is not None:
            self.likelihood.require(x)
        if state is not None:
            self._check_state(state, x.shape[-2])
            state = State(*(part.to(self.like.dtype) for part in state))
        with_graph = self.keeps_graph(graph, x, *(state or ()))
        with torch.set_grad_enabled(with_graph), self.seeded(seed):
            require_same_draws()
            remake_weights(self)
            self.require_together()
            timestep = _BaselineTimestep(self, x)
            start = self._start(timestep.sensed) if state is None else state
            values, last = loop.record(timestep, start, steps, fields, every)
        costs: dict[str, Any] = {
            name: values[name][every - 1 :: every] for name in ("nll", "kl") if name in fields
        }
        for name, result in {"spk": last.spk, "mem": last.mem, **costs}.items():
            require_finite(result, name, _WEIGHTS)
        return make_run({**values, **costs}, last)

    def _check_state(self, state: Any, batch: int) -> None:
        """Raise unless ``state`` is what a run with so many samples returned."""
        require_pair(state, self.like)
        require_shape(state[0], "state.spk", (batch, self.latents))
        if state[1].shape[:1] != (batch,):
            raise ValueError(f"state.mem must have {batch} rows, got {tuple(state[1].shape)}")

    def _start(self, sensed: Tensor) -> State:
        start: Any = self.start(sensed)
        if not isinstance(start, State):
            raise TypeError(
                f"start() of {type(self).__name__} must return State(spk, mem), it returned a "
                f"{type(start).__name__}"
            )
        return start


class _BaselineTimestep(loop.Timestep):
    """A timestep of a baseline. ``sent`` is its KL, which ``measure`` returns."""

    def __init__(self, model: Baseline, x: Tensor) -> None:
        self.model, self.frames = model, x if x.ndim == 3 else x[None]
        self.changing = x.ndim == 3
        self.decodes = type(model).decode is not Baseline.decode
        self.shared, self.sensed = model.shared(), model.sense(self.frames[0])

    def send(self, spk: Tensor, t: int) -> None:
        """Nothing: :meth:`advance` does the whole timestep."""

    def integrate(self, now: Moment, t: int) -> Tensor:
        raise NotImplementedError

    emit = integrate  # type: ignore[assignment]

    def advance(self, now: Moment, t: int) -> Moment:
        if self.changing and t:
            self.sensed = self.model.sense(self.frames[t])
        after: Any = self.model.advance(self.sensed, State(now.spk, now.mem), self.shared)
        if t == 0:
            self._check(after)
        state, kl = after
        return Moment(state.spk, state.mem, now.mem, kl)

    def _check(self, after: Any) -> None:
        name = f"advance() of {type(self.model).__name__}"
        if type(after) is not tuple or len(after) != 2 or not isinstance(after[0], State):
            raise TypeError(f"{name} must return (State(spk, mem), cost)")
        require_shape(after[1], f"the cost that {name} gives", (self.frames.shape[1],))

    def measure(self, name: str, now: Moment, t: int) -> Tensor:
        if name == "kl":
            kl: Tensor = now.sent
            return kl
        spk, model = now.spk, self.model
        x = self.frames[t if self.changing else 0]
        if model.likelihood is not None:
            return model.likelihood.nll(x, model._output(spk))
        x_hat = model.decode(spk) if self.decodes else model._output(spk)  # without checks
        return F.gaussian_nll(x - x_hat, model.log_scale)
