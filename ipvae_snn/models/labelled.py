r"""Labels as inputs: a model of images and their labels together tells either from the other.

An input is the image and, behind it, ``strength`` at the place of its label and 0 at the others.
Learned in this way, features hold how things look and what they are called; where the label was not
seen, its place has no precision, and inference fills it in like any pixel.

>>> x, labels = torch.rand(6, 16), torch.tensor([0, 1, 2, 0, 1, -1])
>>> joined = join_labels(x, labels, 3)  # the last has none: NaN, for TrainConfig(missing=True)
>>> model = IPVAE(16 + 3, 8)
>>> fill_in_labels(model, x, 3, num_steps=8, draws=4).label.shape
torch.Size([6])
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_float, require_instance, require_integer, require_number
from ipvae_snn._utils.modes import eval_mode
from ipvae_snn.models.imputation import BETWEEN
from ipvae_snn.models.ipvae import IPVAE

STRENGTH = 2.0
"""Of a label; that of a bright pixel is 1."""
MOST = 1e4
"""Strength, at most: half precision holds it."""


class FilledLabels(NamedTuple):
    """Labels that were not seen.

    Attributes:
        label: int64 (N,), the most likely.
        score: what was filled in at each label's place by the mean rates, over strength, (N, C).
        share: of draws of the spikes that fill in most at this label's place, (N, C); those without
            a spike count for all alike.
    """

    label: Tensor
    score: Tensor
    share: Tensor


def join_labels(x: Tensor, labels: Tensor, count: int, strength: float = STRENGTH) -> Tensor:
    """Inputs and labels as one, (N, M + C).

    Args:
        x: (N, M).
        labels: integers (N,), from 0; −1 for none, which becomes NaN.
        count: C.
        strength: what stands at a label's place; more makes it count more beside the pixels.

    Raises:
        TypeError, ValueError: wrong shapes or types, or labels beyond C.
    """
    _require_images(x)
    require_integer(count, "count")
    require_number(strength, "strength", least=1e-6, most=MOST)
    integers = isinstance(labels, Tensor) and not labels.is_floating_point()
    if not integers or labels.dtype == torch.bool or labels.is_complex():
        raise TypeError(f"labels must be a tensor of integers, got {labels!r}")
    labels = labels.to(x.device, torch.int64)
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must have shape ({len(x)},), got {tuple(labels.shape)}")
    if len(labels) and not (int(labels.min()) >= -1 and int(labels.max()) < count):
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels must be 0 to {count - 1}, or -1 for none, got {found}")
    known = labels.unsqueeze(-1)
    places = strength * (known == torch.arange(count, device=x.device)).to(x.dtype)
    return torch.cat([x, places.masked_fill(known < 0, math.nan)], -1)


@torch.no_grad()
def fill_in_labels(
    model: IPVAE,
    x: Tensor,
    count: int,
    *,
    strength: float = STRENGTH,
    num_steps: int = 64,
    draws: int = 64,
    seed: int | None = None,
) -> FilledLabels:
    """The labels of inputs, from a model that learned them joined (:func:`join_labels`).

    Args:
        model: linear and Gaussian, of M + C inputs.
        x: (N, M); NaN were not seen.
        count: C.
        strength: as in training.
        num_steps: timesteps of inference before the first draw.
        draws: of the spikes, four timesteps apart.
        seed: of the spikes.

    Raises:
        TypeError, ValueError: another model, or one of another size; wrong x.
    """
    require_instance(model, "model", IPVAE)
    if model.decoded is not None:
        raise TypeError("model must have its linear decoder and Gaussian likelihood")
    _require_images(x)
    require_integer(count, "count")
    require_number(strength, "strength", least=1e-6, most=MOST)
    require_integer(num_steps, "num_steps")
    require_integer(draws, "draws")
    pixels = x.shape[1]
    if model.in_features != pixels + count:
        raise ValueError(
            f"the model takes {model.in_features} values, {pixels} of x and {count} labels are "
            f"{pixels + count}: it must have learned from join_labels(x, labels, {count})"
        )
    unknown = x.new_full((len(x), count), math.nan)
    joined, weight = torch.cat([x, unknown], -1), model.weight[pixels:]
    with eval_mode(model), model.seeded(seed):
        settled = model.run(joined, num_steps, record=(), mask="nan").state
        out = model.run(
            joined, BETWEEN * draws, record=("spk", "mem"), every=BETWEEN, state=settled, mask="nan"
        )
    score = out.mem.exp().mean(0) @ weight.mT / strength
    values = out.spk @ weight.mT
    most = (values == values.amax(-1, keepdim=True)).to(values.dtype)
    share = (most / most.sum(-1, keepdim=True)).mean(0)
    return FilledLabels(score.argmax(-1), score, share)


def _require_images(x: Tensor) -> None:
    require_float(x, "x")
    if x.ndim != 2:
        raise ValueError(f"x must have shape (N, M), got {tuple(x.shape)}")
