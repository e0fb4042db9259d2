"""Relaxed estimators: soft counts with a pathwise derivative, integers in evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_number
from ipvae_snn.surrogate.estimator import (
    ESTIMATORS,
    Estimator,
    bounded_log_rate,
    require_membrane,
)
from ipvae_snn.surrogate.exact import midpoint

RELAXED_RATE = 50.0
"""At most this many expected spikes are relaxed; see :meth:`Relaxed.__call__`."""


class Relaxed(Estimator):
    """Soft counts in training, integer Poisson counts from ``sample`` in evaluation."""

    temp: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.temp = require_number(self.temp, "temp", least=1e-6, most=1)

    def soften(self, log_rate: Tensor) -> Tensor:
        """Soft counts for log rates that are bounded on both sides."""
        raise NotImplementedError

    def __call__(self, mem: Tensor) -> Tensor:
        """Soft counts; of a rate above RELAXED_RATE only that many expected spikes are relaxed.

        A Poisson splits into independent ones of any shares of its rate: the share above the limit
        is drawn exactly, with the backward of ``midpoint``, and keeps memory bounded.
        """
        require_membrane(mem)
        log_rate = bounded_log_rate(mem)
        rate = log_rate.detach().exp()
        if rate.numel() == 0 or rate.max() <= RELAXED_RATE:
            return self.soften(log_rate).to(mem.dtype)
        share = (RELAXED_RATE / rate).clamp(max=1)
        surplus = midpoint(generator=self.generator)(log_rate + torch.log1p(-share).clamp(min=-60))
        return (self.soften(log_rate + share.log()) + surplus).to(mem.dtype)


def _most_events(mean: Tensor) -> int:
    """A count that a Poisson of the largest of these means exceeds once in about 10⁹ draws."""
    top = float(mean.max()) if mean.numel() else 0.0
    return int(top + 6 * top**0.5 + 9)


_INDICATORS = {
    # reach: the |v| beyond which the indicator is 0 or 1 (sigmoid: to within 5e-5)
    "cubic": (1.0, lambda v: (w := ((v + 1) / 2).clamp(0, 1)).square() * (3 - 2 * w)),
    "sigmoid": (10.0, torch.sigmoid),
}


@ESTIMATORS.register("eat")
@dataclass
class eat(Relaxed):
    """Exponential arrival times: z = Σ_k s((1 − a_k) / temp), a_k arrivals of a Poisson process.

    The process has rate λ per timestep, s is a soft indicator of "arrived within the timestep";
    the derivative is pathwise, through a_k = (sum of k unit exponentials) / λ. With ``"cubic"``,
    s(v) = 3w² − 2w³, w = clip((v+1)/2, 0, 1), the mean is exactly λ for every temp ≤ 1; with
    ``"sigmoid"``, the form of the original P-VAE program, it is too high (by 6% at temp 0.5,
    λ = 1). Costs memory for every arrival. Source: the authors' exponential-arrival relaxation.

    Args:
        temp: temperature in (0, 1]; the count becomes exact as it goes to 0.
        indicator: ``"cubic"`` or ``"sigmoid"``.
        generator: source of randomness; ``None`` for torch's global one.

    Raises:
        ValueError: if ``temp`` or ``indicator`` is none of these.
    """

    temp: float = 0.1
    indicator: str = "cubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.indicator, str) or self.indicator not in _INDICATORS:
            raise ValueError(f"indicator must be 'cubic' or 'sigmoid', got {self.indicator!r}")

    def soften(self, log_rate: Tensor) -> Tensor:
        reach, indicator = _INDICATORS[self.indicator]
        arrivals = _most_events(log_rate.detach().exp() * (1 + reach * self.temp))
        gaps = log_rate.new_empty(*log_rate.shape, arrivals).exponential_(generator=self.generator)
        times = gaps.cumsum(-1) * torch.exp(-log_rate).unsqueeze(-1)
        return indicator((1 - times) / self.temp).sum(-1)


@ESTIMATORS.register("gumbel")
@dataclass
class gumbel(Relaxed):
    """Soft choice among counts: z = Σ_k k · softmax((log p_k + g_k) / temp), g_k standard Gumbel.

    p_k is the Poisson law, cut off far above the largest rate present; the derivative is pathwise.
    Smoother than ``eat``, and the form that carries over to counts that are not Poisson. Source:
    Gumbel-softmax on a truncated count.

    Args:
        temp: temperature in (0, 1]; the count becomes exact as it goes to 0.
        generator: source of randomness; ``None`` for torch's global one.

    Raises:
        ValueError: if ``temp`` is not in (0, 1].
    """

    temp: float = 0.1

    def soften(self, log_rate: Tensor) -> Tensor:
        counts = torch.arange(
            _most_events(log_rate.detach().exp()) + 1, dtype=log_rate.dtype, device=log_rate.device
        )
        # The law's normaliser −λ is the same for all counts and drops out of the softmax.
        log_p = counts * log_rate.unsqueeze(-1) - torch.lgamma(counts + 1)
        # An exponential may round to 0, whose logarithm would make the softmax NaN.
        waits = torch.empty_like(log_p).exponential_(generator=self.generator)
        noise = -waits.clamp(min=torch.finfo(waits.dtype).tiny).log()
        return torch.softmax((log_p + noise) / self.temp, dim=-1) @ counts
