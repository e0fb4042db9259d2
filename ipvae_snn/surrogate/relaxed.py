"""Relaxed estimators: soft counts with a pathwise derivative; integers in evaluation."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_number
from ipvae_snn._utils.seeding import source
from ipvae_snn.surrogate.estimator import (
    ESTIMATORS,
    Estimator,
    bounded_log_rate,
    require_membrane,
)
from ipvae_snn.surrogate.exact import midpoint

MAX_RELAXED_RATE = 50.0
"""Largest rate that is relaxed; see :meth:`Relaxed.__call__`."""


class Relaxed(Estimator):
    """Soft counts in training, integer Poisson counts from ``sample`` in evaluation."""

    temp: float

    def checked(self, name: str, value: Any) -> Any:
        if name == "temp":
            return require_number(value, "temp", least=1e-6, most=1)
        return super().checked(name, value)

    @abstractmethod
    def soften(self, log_rate: Tensor) -> Tensor:
        """Soft counts for bounded log rates."""

    def __call__(self, mem: Tensor) -> Tensor:
        """Soft counts. Of a rate above MAX_RELAXED_RATE only this share is relaxed.

        A Poisson count is the sum of independent ones with shares of its rate. The rest is drawn
        exactly, with the backward pass of ``midpoint``, which bounds the memory.
        """
        require_membrane(mem)
        log_rate = bounded_log_rate(mem)
        rate = log_rate.detach().exp()
        if rate.numel() == 0 or rate.max() <= MAX_RELAXED_RATE:
            return self.soften(log_rate).to(mem.dtype)
        share = (MAX_RELAXED_RATE / rate).clamp(max=1)
        exact = midpoint(generator=self.generator)(log_rate + torch.log1p(-share).clamp(min=-60))
        return (self.soften(log_rate + share.log()) + exact).to(mem.dtype)


def _max_count(mean: Tensor) -> int:
    """A count that a Poisson with the largest of these means exceeds once in about 10⁹ draws."""
    top = float(mean.max()) if mean.numel() else 0.0
    return int(top + 6 * top**0.5 + 9)


def _cubic(v: Tensor) -> Tensor:
    w = ((v + 1) / 2).clamp(0, 1)
    return w.square() * (3 - 2 * w)


_INDICATORS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    # The |v| beyond which the indicator is 0 or 1 (sigmoid: to within 5e-5), and the indicator.
    "cubic": (1.0, _cubic),
    "sigmoid": (10.0, torch.sigmoid),
}


@ESTIMATORS.register("eat")
@dataclass
class eat(Relaxed):
    """Exponential arrival times: z = Σ_k s((1 − a_k) / temp), a_k arrivals of a Poisson process.

    The process has rate λ per timestep; s is a soft indicator of an arrival within the timestep.
    The derivative is pathwise, through a_k = (sum of k unit exponentials) / λ. With ``"cubic"``,
    s(v) = 3w² − 2w³, w = clip((v+1)/2, 0, 1), the mean is exactly λ for every temp ≤ 1. With
    ``"sigmoid"``, the form of the original P-VAE program, it is too high (by 6% at temp 0.5,
    λ = 1). Memory grows with the number of arrivals. Source: the authors' exponential-arrival
    relaxation.

    Args:
        temp: temperature in (0, 1]; the count becomes exact as it goes to 0.
        indicator: ``"cubic"`` or ``"sigmoid"``.
        generator: source of randomness; ``None`` for torch's global one.

    Raises:
        ValueError: ``temp`` or ``indicator`` is invalid.
    """

    temp: float = 0.1
    indicator: str = "cubic"

    def checked(self, name: str, value: Any) -> Any:
        if name == "indicator" and not (isinstance(value, str) and value in _INDICATORS):
            raise ValueError(f"indicator must be 'cubic' or 'sigmoid', got {value!r}")
        return super().checked(name, value)

    def soften(self, log_rate: Tensor) -> Tensor:
        reach, indicator = _INDICATORS[self.indicator]
        arrivals = _max_count(log_rate.detach().exp() * (1 + reach * self.temp))
        gaps = log_rate.new_empty(*log_rate.shape, arrivals)
        gaps = gaps.exponential_(generator=source(self.generator, gaps.device))
        times = gaps.cumsum(-1) * torch.exp(-log_rate).unsqueeze(-1)
        return indicator((1 - times) / self.temp).sum(-1)


@ESTIMATORS.register("gumbel")
@dataclass
class gumbel(Relaxed):
    """Soft choice among counts: z = Σ_k k · softmax((log p_k + g_k) / temp), g_k standard Gumbel.

    p_k is the Poisson distribution, truncated far above the largest rate; the derivative is
    pathwise. Smoother than ``eat``, and applicable to other count distributions. Source:
    Gumbel-softmax on a truncated count.

    Args:
        temp: temperature in (0, 1]; the count becomes exact as it goes to 0.
        generator: source of randomness; ``None`` for torch's global one.

    Raises:
        ValueError: ``temp`` is not in (0, 1].
    """

    temp: float = 0.1

    def soften(self, log_rate: Tensor) -> Tensor:
        counts = torch.arange(
            _max_count(log_rate.detach().exp()) + 1, dtype=log_rate.dtype, device=log_rate.device
        )
        # The normaliser −λ is the same for all counts and cancels in the softmax.
        log_p = counts * log_rate.unsqueeze(-1) - torch.lgamma(counts + 1)
        # An exponential variable may round to 0; its logarithm would turn the softmax into NaN.
        generator = source(self.generator, log_p.device)
        exponential = torch.empty_like(log_p).exponential_(generator=generator)
        noise = -exponential.clamp(min=torch.finfo(log_p.dtype).tiny).log()
        return torch.softmax((log_p + noise) / self.temp, dim=-1) @ counts
