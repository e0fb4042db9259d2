"""Fill in what was not seen of an input: its mean, and an interval, from draws of the spikes."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_flag, require_integer, require_number
from ipvae_snn._utils.modes import eval_mode
from ipvae_snn.models.convolutional import ConvIPVAE
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.models.residual import pixel_noise, seen

BETWEEN = 4
"""Timesteps from one draw to the next; those of successive ones are much alike."""
TOGETHER = 2**24
"""Values of all draws of the samples that are inferred together, at most."""


class Imputed(NamedTuple):
    """Inputs filled in, and what is known of each value; all in the shape of x.

    Attributes:
        x: as it was where it was seen, else the mean.
        mean: reconstruction by the mean rates.
        low, high: bounds that a value not seen lies between with the asked probability.
    """

    x: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor


@torch.no_grad()
def impute(
    model: IPVAE | ConvIPVAE,
    x: Tensor,
    mask: Tensor | Literal["nan"] = "nan",
    *,
    num_steps: int = 256,
    draws: int = 64,
    level: float = 0.9,
    noise: bool = True,
    seed: int | None = None,
) -> Imputed:
    r"""Infer from what was seen, and reconstruct the rest.

    After ``num_steps`` the spikes of ``draws`` timesteps, four apart, are samples z of the
    posterior; x = Φ z + σ ε are samples of what was not seen. The interval lies between their
    quantiles, the mean is Φ E[z].

    Args:
        model: linear and Gaussian, flat or convolutional.
        x: (B, M), or images (B, C, H, W).
        mask: as in :meth:`ipvae_snn.IPVAE.run`; default: NaN were not seen.
        num_steps: timesteps of inference before the first draw.
        draws: number of draws, at least 2.
        level: probability of the interval, in (0, 1).
        noise: whether draws have the noise σ ε of pixels; without it the interval is that of the
            reconstruction.
        seed: of the draws.

    Raises:
        TypeError, ValueError: another model, bad options, or what :meth:`ipvae_snn.IPVAE.run`
            raises for x and mask.

    >>> x = torch.rand(3, 16)
    >>> x[0, :8] = float("nan")
    >>> filled = impute(IPVAE(16, 8), x, num_steps=8, draws=8, seed=0)
    >>> bool(filled.x.isfinite().all()), bool((filled.low <= filled.high).all())
    (True, True)
    """
    if not getattr(model, "linear_gaussian", False):
        raise TypeError(
            "model must be an IPVAE with its linear decoder, or a ConvIPVAE, got "
            f"{type(model).__name__}"
        )
    require_integer(num_steps, "num_steps")
    require_integer(draws, "draws", least=2)
    require_number(level, "level", least=1e-6, most=1 - 1e-6)
    require_flag(noise, "noise")
    dimensions = model.dimensions + 1 if isinstance(model, ConvIPVAE) else 1
    filled, precision = seen(x, mask, dimensions, model.like)
    if x.ndim != dimensions + 1:
        raise ValueError(f"x must hold samples that stay, got shape {tuple(x.shape)}")
    rows = max(1, TOGETHER // (draws * x[:1].numel()))
    parts = []
    with eval_mode(model), model.seeded(seed):
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            of_part = precision if len(precision) == 1 else precision[part]
            parts.append(_drawn(model, filled[part], of_part, num_steps, draws, level, noise))
    mean, low, high = (torch.cat(values) for values in zip(*parts, strict=True))
    return Imputed(torch.where(precision > 0, filled, mean), mean, low, high)


def _drawn(
    model: Any, x: Tensor, precision: Tensor, num_steps: int, draws: int, level: float, noise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and interval of some samples."""
    settled = model.run(x, num_steps, record=(), mask=precision).state
    out = model.run(
        x, BETWEEN * draws, record=("spk", "mem"), every=BETWEEN, state=settled, mask=precision
    )
    mean = model.reconstruct(out.mem.exp().mean(0), x)
    values = model.reconstruct(out.spk, x)
    if noise:
        values = values + pixel_noise(values, model.log_scale, channel_dim=1 - x.ndim)
    ordered = values.sort(0).values  # torch.quantile refuses large tensors
    low, high = (_between(ordered, share) for share in ((1 - level) / 2, (1 + level) / 2))
    return mean, low, high


def _between(ordered: Tensor, share: float) -> Tensor:
    """The quantile of sorted values (N, ...), linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)
