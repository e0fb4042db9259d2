"""Exact estimators: integer counts forward, a declared weight for dz/du backward."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float, require_integer
from ipvae_snn.kernels.sampler import poisson

LOG_RATE_MAX = 16.0
LOG_RATE_MIN = -30.0
MAX_SUBSTEPS = 2**24
"""float32 cannot hold every count above."""


def bounded_log_rate(mem: Tensor) -> Tensor:
    """u in at least float32, between bounds that keep counts and rates finite in u's own dtype."""
    top = min(LOG_RATE_MAX, math.log(torch.finfo(mem.dtype).max) - 0.5)
    return (mem if mem.dtype == torch.float64 else mem.float()).clamp(LOG_RATE_MIN, top)


def rate_of(mem: Tensor) -> Tensor:
    """Rate λ = e^u in spikes per timestep, in at least float32, finite for every finite u."""
    return bounded_log_rate(mem).exp()


def require_membrane(mem: Tensor) -> None:
    """Raise unless ``mem`` can be a membrane: a finite floating-point tensor."""
    require_float(mem, "mem")
    require_finite(mem, "mem")


class _Count(torch.autograd.Function):
    """Counts drawn by ``estimator.sample``; backward multiplies by ``estimator.slope``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(mem: Tensor, estimator: "Exact") -> Tensor:
        return estimator.sample(mem)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        mem, ctx.estimator = inputs
        ctx.save_for_backward(mem, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        mem, spk = ctx.saved_tensors
        return grad * ctx.estimator.slope(spk, rate_of(mem)).to(grad.dtype), None


@dataclass
class Estimator:
    """What all estimators share: a generator, and integer counts on request."""

    generator: torch.Generator | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.generator, torch.Generator | None):
            raise TypeError(f"generator must be a torch.Generator or None, got {self.generator!r}")

    def sample(self, mem: Tensor) -> Tensor:
        """Integer Poisson counts with rate e^mem, in the dtype of ``mem``, without gradient."""
        require_membrane(mem)
        return self.draw(mem)

    def draw(self, mem: Tensor) -> Tensor:
        """:meth:`sample` for a membrane that is known to be sound: nothing is checked."""
        with torch.no_grad():
            return poisson(rate_of(mem), self.generator).to(mem.dtype)


class Exact(Estimator):
    """Integer counts in training too; a subclass declares what stands in for dz/du."""

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        """The weight w that stands in for dz/du."""
        raise NotImplementedError

    def __call__(self, mem: Tensor) -> Tensor:
        return _Count.apply(mem, self)


@dataclass
class midpoint(Exact):
    """Exact counts, w = (z + λ)/2: temperature-free, unbiased for quadratic functions of z.

    A Poisson obeys d E[f]/du = λ E[f(z+1) − f(z)] = E[z (f(z) − f(z−1))]. The mean of both, with
    f' for the differences, is w; for quadratic f the errors cancel. Source: He & Wu, finite-order
    relaxation. The default, because the Gaussian log-likelihood is quadratic.

    Args:
        generator: source of randomness; ``None`` for torch's global one.
    """

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        return (spk + rate) / 2


@dataclass
class rate(Exact):
    """Exact counts, w = λ: the mean-field straight-through estimator, unbiased for linear f only.

    Args:
        generator: source of randomness; ``None`` for torch's global one.
    """

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        return rate


@dataclass
class bernoulli(Exact):
    """Binary spikes in n sub-bins, summed: z ~ Binomial(n, p), p = 1 − e^(−λ/n).

    What hardware with one-bit spikes emits when a timestep is split in n; tends to the Poisson
    count as n grows. Backward: w = n p' + (z − n p) · p' (1 − 2p) / (2 p (1 − p)), p' = dp/du =
    λ/n · (1 − p), the one weight linear in z that is unbiased for quadratic f; it tends to
    ``midpoint`` as n grows (derived for this package, proved in its tests by enumeration).

    Args:
        substeps: n ≥ 1, sub-bins per timestep, the largest possible count.
        generator: source of randomness; ``None`` for torch's global one.

    Raises:
        TypeError, ValueError: if ``substeps`` is not a positive integer up to 2²⁴.
    """

    substeps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.substeps = require_integer(self.substeps, "substeps")
        if self.substeps > MAX_SUBSTEPS:
            raise ValueError(f"substeps must be at most {MAX_SUBSTEPS}, got {self.substeps}")

    def draw(self, mem: Tensor) -> Tensor:
        with torch.no_grad():
            fire = -torch.expm1(-rate_of(mem) / self.substeps)
            bins = torch.full_like(fire, self.substeps)
            return torch.binomial(bins, fire, generator=self.generator).to(mem.dtype)

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        per_bin = rate / self.substeps
        fire, silent = -torch.expm1(-per_bin), torch.exp(-per_bin)
        mean_slope = self.substeps * per_bin * silent
        return mean_slope + (spk - self.substeps * fire) * per_bin * (1 - 2 * fire) / (2 * fire)


@dataclass
class rounded(Exact):
    """Deterministic graded spikes z = round(λ), w = λ, for graded-spike chips: no sampling noise.

    Args:
        generator: accepted for uniformity, never used.
    """

    def draw(self, mem: Tensor) -> Tensor:
        with torch.no_grad():
            return rate_of(mem).round().to(mem.dtype)

    def slope(self, spk: Tensor, rate: Tensor) -> Tensor:
        return rate
