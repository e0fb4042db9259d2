"""Fill in what was not seen of an input: its mean, and an interval, from draws of the spikes."""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import (
    require_finite,
    require_flag,
    require_float,
    require_integer,
    require_number,
)
from ipvae_snn._utils.modes import eval_mode
from ipvae_snn._utils.seeding import source
from ipvae_snn.models.base import BaseModel
from ipvae_snn.models.map_model import MapModel
from ipvae_snn.models.residual import seen

BETWEEN = 4
"""Timesteps from one draw to the next; those of successive ones are much alike."""
TOGETHER = 2**24
"""Values of all draws of the samples that are inferred together, at most."""
HIDDEN, MOST_HIDDEN = 0.05, 0.2
"""Share of the seen values that calibration hides, and the most of few values."""
HALVINGS = 4
"""How often the step of a sample that diverged is halved, at most."""
NARROWEST = 0.1
"""Each side of an interval that is stretched, as a share of the mean over all."""


class Imputed(NamedTuple):
    """Inputs filled in, and what is known of each value; all in the shape of x.

    Attributes:
        x: as it was where it was seen, else the mean.
        mean: reconstruction by the mean rates.
        low, high: bounds that a value not seen lies between with the asked probability.
        stretch: what calibration multiplied both sides of all intervals with; 1 without.
    """

    x: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor
    stretch: float = 1.0


@torch.no_grad()
def impute(
    model: BaseModel,
    x: Tensor,
    mask: Tensor | Literal["nan"] = "nan",
    *,
    num_steps: int = 256,
    draws: int = 64,
    level: float = 0.9,
    noise: bool = True,
    calibrate: bool | Tensor = True,
    seed: int | None = None,
) -> Imputed:
    r"""Infer from what was seen, and reconstruct the rest.

    After ``num_steps`` the spikes of ``draws`` timesteps, four apart, are samples z of the
    posterior; x = Φ z + σ ε are samples of what was not seen. The interval lies between their
    quantiles, the mean is Φ E[z]; of another decoder, the mean of f(z). How wide the interval is
    depends on the training: σ is what was left over of values that were all seen. So calibration
    first hides a twentieth of the seen values, at random, and finds the factor for all intervals
    with which they hold the asked share of these. It is right, on average over all values, where
    others are missing in the same way: for blocks, far from what was seen, intervals are too
    narrow. Few seen values only make intervals wider. Where there are complete samples, calibration
    hides of these what is missing of x, which is right for blocks, too.

    Near the edge of stability, what is missing may tip the balance: membranes swing up and down
    without end. Samples whose mean explains what was seen worse than silence does are inferred
    once more with half the step α, up to four times.

    Args:
        model: flat or convolutional. With a likelihood of one's own x are draws of it, where it
            has independent pixels and a method ``draw``.
        x: (B, M), or images (B, C, H, W).
        mask: as in :meth:`ipvae_snn.IPVAE.run`; default: NaN were not seen.
        num_steps: timesteps of inference before the first draw.
        draws: number of draws, at least 2.
        level: probability of the interval, in (0, 1).
        noise: whether draws have the noise σ ε of pixels; without it the interval is that of the
            reconstruction, and is not calibrated.
        calibrate: whether to do so; or complete samples (R, M) or (R, C, H, W) to do so on, of the
            kind of x, best such that the model has not learned. It doubles the time.
        seed: of the draws, and of what is hidden.

    Raises:
        TypeError, ValueError: another model, bad options, or what :meth:`ipvae_snn.IPVAE.run`
            raises for x and mask.

    Source: the factor is that of split conformal prediction, Lei et al. 2018.

    >>> x = torch.rand(3, 16)
    >>> x[0, :8] = float("nan")
    >>> from ipvae_snn import IPVAE
    >>> filled = impute(IPVAE(16, 8), x, num_steps=8, draws=8, seed=0)
    >>> bool(filled.x.isfinite().all()), bool((filled.low <= filled.high).all())
    (True, True)
    """
    if not getattr(model, "takes_mask", False):
        raise TypeError(f"model must be an IPVAE or a ConvIPVAE, got {type(model).__name__}")
    require_integer(num_steps, "num_steps")
    require_integer(draws, "draws", least=2)
    require_number(level, "level", least=1e-6, most=1 - 1e-6)
    require_flag(noise, "noise")
    complete = calibrate if isinstance(calibrate, Tensor) else None
    calibrate = complete is not None or require_flag(calibrate, "calibrate")
    dimensions = model.dimensions + 1 if isinstance(model, MapModel) else 1
    filled, precision = seen(x, mask, dimensions, model.like)
    if x.ndim != dimensions + 1 or not len(x):
        expected = "(N, M)" if dimensions == 1 else "(N, C, H, W)"
        raise ValueError(
            f"x must hold samples that stay, of shape {expected}, got {tuple(x.shape)}"
        )
    if complete is not None:
        _require_like(complete, filled)
    rows, stretch = max(1, TOGETHER // (draws * x[:1].numel())), 1.0
    options = num_steps, draws, level, noise

    def drawn(x: Tensor, precision: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = []
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            of_part = precision if len(precision) == 1 else precision[part]
            parts.append(_drawn_stably(model, x[part], of_part, options, HALVINGS))
        mean, low, high = (torch.cat(values) for values in zip(*parts, strict=True))
        return mean, low, high

    with eval_mode(model), model.seeded(seed):
        if calibrate and noise:
            known, weight = filled, precision.expand_as(filled)
            if complete is None:
                hidden = _some_of(weight > 0, level)
                weight = weight * ~hidden
            else:
                known = complete.to(filled)
                weight = weight[torch.arange(len(known), device=weight.device) % len(weight)]
                hidden = weight == 0
            stretch = _stretch(known, *drawn(known, weight), hidden, level)
        mean, low, high = drawn(filled, precision)
    if calibrate and noise:
        below, above = _sides(mean, low, high)
        low, high = mean - stretch * below, mean + stretch * above
    return Imputed(torch.where(precision > 0, filled, mean), mean, low, high, stretch)


def _require_like(complete: Tensor, x: Tensor) -> None:
    """Raise unless the samples to calibrate on are finite and like x."""
    require_float(complete, "calibrate")
    if complete.shape[1:] != x.shape[1:] or not len(complete):
        raise ValueError(
            f"calibrate must hold samples of shape {tuple(x.shape[1:])}, as x does, got "
            f"{tuple(complete.shape)}"
        )
    require_finite(complete, "calibrate")


def _some_of(shown: Tensor, level: float) -> Tensor:
    """A twentieth of the values that were seen; of few more, as far as the level asks for it."""
    places = shown.flatten().nonzero().squeeze(1)
    # A permutation: plain random numbers may be those that a caller made the mask of.
    order = torch.randperm(len(places), generator=source(None, shown.device), device=shown.device)
    hidden = torch.zeros_like(shown).flatten()
    few = min(math.ceil(level / (1 - level)), int(MOST_HIDDEN * len(places)))
    hidden[places[order[: max(round(HIDDEN * len(places)), few)]]] = True
    return hidden.view_as(shown)


def _stretch(
    x: Tensor, mean: Tensor, low: Tensor, high: Tensor, hidden: Tensor, level: float
) -> float:
    """The factor with which intervals about the mean hold the share ``level`` of hidden values.

    Of too few values to tell that share, intervals are made no narrower.
    """
    below, above = _sides(mean, low, high)
    side = torch.where(x > mean, above, below)[hidden]
    needed = ((x - mean)[hidden].abs() / side).sort().values
    rank = math.ceil((len(needed) + 1) * level)
    if rank > len(needed):
        return max(1.0, float(needed[-1])) if len(needed) else 1.0
    return float(needed[rank - 1])


def _sides(mean: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Of intervals, below and above the mean, neither next to nothing: few draws may agree."""
    least = max(NARROWEST * float((high - low).mean()) / 2, torch.finfo(mean.dtype).tiny)
    return (mean - low).clamp(min=least), (high - mean).clamp(min=least)


def _drawn_stably(
    model: Any, x: Tensor, precision: Tensor, options: tuple[Any, ...], halvings: int
) -> tuple[Tensor, ...]:
    """:func:`_drawn`, once more with half the step where it diverged."""
    found = _drawn(model, x, precision, *options)
    if not model.linear_gaussian:
        return found
    weight = precision.expand_as(x)
    left, silent = ((weight * values.square()).flatten(1).sum(1) for values in (x - found[0], x))
    rows = (left > silent).nonzero().squeeze(1)
    if not halvings or not len(rows):
        return found
    log_step = model.neuron.log_step
    before = log_step.detach().clone()
    try:
        log_step.data.sub_(math.log(2))
        again = _drawn_stably(model, x[rows], weight[rows], options, halvings - 1)
    finally:
        log_step.data.copy_(before)
    for values, better in zip(found, again, strict=True):
        values[rows] = better
    return found


def _drawn(
    model: Any, x: Tensor, precision: Tensor, num_steps: int, draws: int, level: float, noise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and interval of some samples."""
    settled = model.run(x, num_steps, record=(), mask=precision).state
    out = model.run(
        x, BETWEEN * draws, record=("spk", "mem"), every=BETWEEN, state=settled, mask=precision
    )
    if model.linear_gaussian:
        mean = model.reconstruct(out.mem.exp().mean(0), x)
    else:
        mean = model.decode(out.spk).mean(0)
    values = model.observed(out.spk, x) if noise else model.reconstruct(out.spk, x)
    ordered = values.sort(0).values  # torch.quantile refuses large tensors
    low, high = (_between(ordered, share) for share in ((1 - level) / 2, (1 + level) / 2))
    return mean, low.minimum(mean), high.maximum(mean)


def _between(ordered: Tensor, share: float) -> Tensor:
    """The quantile of sorted values (N, ...), linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)
