"""Exact estimators: integer counts forward, a weight w in place of dz/du backward."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_integer, require_number
from ipvae_snn.kernels.sampler import binomial
from ipvae_snn.surrogate.estimator import ESTIMATORS, Assumptions, Estimator, rate_of

MAX_SUBSTEPS = 2**24
"""float32 holds every count up to it."""


class _Count(torch.autograd.Function):
    """Forward ``estimator.sample``; backward the gradient times ``estimator.slope``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mem: Tensor, estimator: "Exact") -> Tensor:
        return estimator.sample(mem)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        mem, ctx.estimator = inputs
        ctx.save_for_backward(mem, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        mem, spk = ctx.saved_tensors
        return grad * ctx.estimator.slope(spk, rate_of(mem)).to(grad.dtype), None


class Exact(Estimator):
    """Integer counts in training and evaluation; a subclass gives :meth:`slope`."""

    _overrides_call: ClassVar[bool] = False
    """Whether a subclass overrides ``__call__``: kernels then cannot replace it."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._overrides_call = cls._overrides_call or "__call__" in vars(cls)

    def assumptions(self, training: bool) -> Assumptions | None:
        return None if self._overrides_call else Assumptions(self.law, self.slope_kind)

    @abstractmethod
    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        """The weight w in place of dz/du."""

    def __call__(self, mem: Tensor) -> Tensor:
        spk: Tensor = _Count.apply(mem, self)  # type: ignore[no-untyped-call]
        return spk


@dataclass
class _Floored(Exact):
    """A slope that is at least ``floor``."""

    floor: float = 0.0

    def checked(self, name: str, value: Any) -> Any:
        if name != "floor":
            return super().checked(name, value)
        return require_number(value, "floor", least=0, most=1)

    def floored(self, slope: Tensor) -> Tensor:
        return slope.clamp(min=self.floor) if self.floor else slope


@ESTIMATORS.register("midpoint")
@dataclass
class midpoint(_Floored):
    """Exact counts, w = (z + λ)/2: no temperature, unbiased for quadratic functions of z.

    For a Poisson, d E[f]/du = λ E[f(z+1) − f(z)] = E[z (f(z) − f(z−1))]. The mean of the two, with
    f' in place of the differences, gives w; for quadratic f the errors cancel. The default, because
    the Gaussian log-likelihood is quadratic. Source: He & Wu, finite-order relaxation.

    Args:
        floor: the smallest w. A neuron that hardly ever fires then still learns what would make it
            fire, where its own slope would have vanished; biased there. For hidden layers.
        generator: source of randomness; ``None`` for torch's global one.
    """

    slope_kind: ClassVar[str] = "midpoint"

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        return self.floored((spk + rate) / 2)


@ESTIMATORS.register("rate")
@dataclass
class rate(_Floored):
    """Exact counts, w = λ: the mean-field straight-through estimator, unbiased for linear f only.

    Args:
        floor: the smallest w, see :class:`midpoint`.
        generator: source of randomness; ``None`` for torch's global one.
    """

    slope_kind: ClassVar[str] = "rate"

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        return self.floored(rate)


@ESTIMATORS.register("bernoulli")
@dataclass
class bernoulli(Exact):
    """Sum of binary spikes in n sub-bins of a timestep: z ~ Binomial(n, p), p = 1 − e^(−λ/n).

    For hardware with one-bit spikes; tends to Poisson counts as n grows. Backward:
    w = n p' + (z − n p) · p' (1 − 2p) / (2 p (1 − p)) with p' = dp/du = λ/n · (1 − p), the only
    weight linear in z that is unbiased for quadratic f. It tends to ``midpoint`` as n grows
    (derived for this package, tested by enumeration).

    Args:
        substeps: n ≥ 1, sub-bins per timestep, and so the largest possible count.
        generator: source of randomness; ``None`` for torch's global one.

    Raises:
        TypeError, ValueError: if ``substeps`` is not a positive integer up to 2²⁴.
    """

    substeps: int = 8

    def checked(self, name: str, value: Any) -> Any:
        if name != "substeps":
            return super().checked(name, value)
        substeps = require_integer(value, "substeps")
        if substeps > MAX_SUBSTEPS:
            raise ValueError(f"substeps must be at most {MAX_SUBSTEPS}, got {substeps}")
        return substeps

    def draw(self, mem: Tensor) -> Tensor:
        with torch.no_grad():
            fire = -torch.expm1(-rate_of(mem) / self.substeps)
            bins = torch.full_like(fire, self.substeps)
            return binomial(bins, fire, self.generator).to(mem.dtype)

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        per_bin = rate / self.substeps
        fire, silent = -torch.expm1(-per_bin), torch.exp(-per_bin)
        mean_slope = self.substeps * per_bin * silent
        return mean_slope + (spk - self.substeps * fire) * per_bin * (1 - 2 * fire) / (2 * fire)


@ESTIMATORS.register("rounded")
@dataclass
class rounded(_Floored):
    """Deterministic graded spikes z = round(λ), w = λ, for chips with graded spikes.

    Args:
        floor: the smallest w, see :class:`midpoint`.
        generator: accepted for uniformity, not used.
    """

    law: ClassVar[str] = "rounded"
    slope_kind: ClassVar[str] = "rate"

    def draw(self, mem: Tensor) -> Tensor:
        with torch.no_grad():
            return rate_of(mem).round().to(mem.dtype)

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        return self.floored(rate)
