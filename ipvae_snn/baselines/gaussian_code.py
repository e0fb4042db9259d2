"""Base class of baselines with Gaussian latents: the code of a draw, its mean, and the KL."""

from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_flag
from ipvae_snn._utils.seeding import source
from ipvae_snn.baselines.base import Baseline

LOG_STD_BOUND = 2.0
"""log s stays within ±2."""


class GaussianBaseline(Baseline):
    """A baseline whose ``mem`` begins with (μ, ξ = log s), shape (..., ≥ 2K), and z ~ N(μ, s²).

    Args:
        in_features, latents, init_std: as in :class:`Baseline`.
        relu: the code is gain · max(z, 0), with a learned gain per neuron.
        parts: ``decoder`` and ``likelihood`` of those.
    """

    log_gain: Tensor | None

    def __init__(
        self, in_features: int, latents: int, *, relu: bool = False, init_std: float = 1e-2,
        **parts: Any,
    ) -> None:  # fmt: skip
        super().__init__(in_features, latents, init_std=init_std, **parts)
        relu = require_flag(relu, "relu")
        self.register_parameter("log_gain", nn.Parameter(torch.zeros(latents)) if relu else None)
        self.sparse_code = relu

    def mean_code(self, mem: Tensor) -> Tensor:
        """E[z], or with ``relu`` gain · E[max(z, 0)] = gain · (μ Φ(μ/s) + s φ(μ/s))."""
        mean, log_std = mem[..., : self.latents], mem[..., self.latents : 2 * self.latents]
        if self.log_gain is None:
            return mean
        std, normal = log_std.exp(), torch.distributions.Normal(0.0, 1.0)
        ratio = mean / std
        probability: Tensor = normal.cdf(ratio)
        density: Tensor = normal.log_prob(ratio).exp()
        return self.log_gain.exp() * (mean * probability + std * density)

    def code(self, z: Tensor) -> Tensor:
        """The code of a draw z, which the decoder takes."""
        return z if self.log_gain is None else self.log_gain.exp() * z.relu()

    def through_code(self, current: Tensor, z: Tensor) -> Tensor:
        """The gradient for z from ``current``, the gradient for its code."""
        return current if self.log_gain is None else self.log_gain.exp() * current * (z > 0)


def normal_like(mean: Tensor) -> Tensor:
    """Draws from N(0, 1) in the shape of ``mean``."""
    generator = source(None, mean.device)
    return torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)


def gaussian_kl(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """KL(N(μ, s²) ‖ N(m, p²)) per element, in nats.

    log(p/s) + (s² + (μ − m)²) / 2p² − ½

    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> gaussian_kl(one, zero, zero, zero)
    tensor([0.5000])
    """
    ratio = 2 * (log_std - prior_log_std)
    distance = (mean - prior_mean).square() * (-2 * prior_log_std).exp()
    return 0.5 * (ratio.exp() + distance - 1 - ratio)


def standard_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(μ, s²) ‖ N(0, 1)), summed over neurons."""
    zero = mean.new_zeros(())
    return gaussian_kl(mean, log_std, zero, zero).sum(-1)


def bound(v: Tensor, limit: float) -> Tensor:
    """v bounded to ±limit: limit · tanh(v / limit)."""
    return limit * torch.tanh(v / limit)
