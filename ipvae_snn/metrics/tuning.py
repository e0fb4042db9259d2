"""Tuning of neurons: selectivity and orientation, and orders of neurons for figures."""

import math

import torch
from torch import Tensor

from ipvae_snn._utils.checks import (
    require_finite,
    require_float,
    require_image_shape,
    require_not_negative,
)
from ipvae_snn._utils.dtypes import wide
from ipvae_snn.metrics.quality import require_matrix, require_result, treves_rolls


def by_use(spk: Tensor) -> Tensor:
    """Indices (K,) of neurons by their number of spikes, most first.

    Args:
        spk: counts, shape (..., K).

    >>> by_use(torch.tensor([[0.0, 3.0, 1.0], [0.0, 1.0, 1.0]])).tolist()
    [1, 2, 0]
    """
    require_float(spk, "spk")
    if not spk.ndim or not spk.shape[-1]:
        raise ValueError(f"spk must have shape (..., K), K ≥ 1, got {tuple(spk.shape)}")
    require_finite(spk, "spk")
    return (
        spk.reshape(-1, spk.shape[-1])
        .sum(0, dtype=torch.float64)
        .argsort(descending=True, stable=True)
    )


def selectivity(responses: Tensor) -> Tensor:
    """How few of the stimuli each neuron responds to, from 0 to 1, shape (K,).

    The lifetime sparsity of each neuron (Vinje & Gallant 2000), except that a silent one counts 0.

    Args:
        responses: mean counts or rates, shape (N, K), N ≥ 2 stimuli.

    >>> selectivity(torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.0, 0.0]])).tolist()
    [0.0, 1.0, 0.0]
    """
    require_matrix(responses, "responses")
    responses = wide(responses)
    total = responses.sum(0)
    sparsity = treves_rolls(total, responses.square().sum(0), len(responses))
    sparsity = torch.where(total > 0, sparsity, torch.zeros_like(sparsity))
    return require_result(sparsity, "responses")


def by_selectivity(responses: Tensor) -> Tensor:
    """Indices (K,) of neurons by :func:`selectivity`, most selective first."""
    return selectivity(responses).argsort(descending=True, stable=True)


def orientation_tuning(responses: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    r"""Preferred orientation and selectivity index of neurons, from responses to directions.

    The index is the length of the mean response vector at twice the angle, one minus the circular
    variance:

    .. math:: OSI = |Σ_a r_a e^{2iθ_a}| / Σ_a r_a

    0 for equal responses to all orientations, 1 for a response to a single one; opposite directions
    of motion are the same orientation. The angles should be evenly spaced over 180 or 360 degrees.
    A silent neuron has index 0.

    Args:
        responses: spikes or rates ≥ 0, shape (A, K).
        angles: directions in degrees, shape (A,).

    Returns:
        Preferred direction modulo 180 in degrees, and index, shape (K,) each.

    Source: Ringach, Shapley & Hawken 2002 (circular variance).

    >>> angles = torch.arange(0.0, 360.0, 90.0)
    >>> responses = torch.tensor([[1.0, 0.0], [1.0, 2.0], [1.0, 0.0], [1.0, 2.0]])
    >>> preferred, index = orientation_tuning(responses, angles)
    >>> preferred[1].item(), index[1].item(), round(index[0].item(), 6)
    (90.0, 1.0, 0.0)
    """
    require_matrix(responses, "responses", rows="A")
    require_float(angles, "angles")
    if angles.shape != responses.shape[:1]:
        raise ValueError(f"angles must have shape ({len(responses)},), got {tuple(angles.shape)}")
    require_finite(angles, "angles")
    require_not_negative(responses, "responses must not be negative")
    preferred, index = _orientation_of(wide(responses), angles)
    return preferred, require_result(index, "responses")


def _orientation_of(responses: Tensor, angles: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`orientation_tuning` without checks, in the dtype of ``responses``."""
    twice = 2 * angles.to(responses) * (math.pi / 180)
    real, imaginary = twice.cos() @ responses, twice.sin() @ responses
    total = responses.sum(0)
    index = torch.hypot(real, imaginary) / total.clamp(min=torch.finfo(responses.dtype).tiny)
    preferred = torch.atan2(imaginary, real).mul(90 / math.pi).remainder(180)
    return preferred, torch.where(total > 0, index, torch.zeros_like(index))


def feature_tuning(weight: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Orientation, spatial frequency and orientation selectivity of features, by power spectrum.

    Args:
        weight: Φ, shape (M, K).
        shape: (H, W) of a feature, H · W = M.

    Returns:
        Direction across the stripes in degrees, modulo 180 (0: vertical stripes); mean frequency
        in cycles per pixel, weighted by power; and the index of :func:`orientation_tuning` over
        the power spectrum, shape (K,) each.

    >>> row = torch.tensor([1.0, 0.0, -1.0, 0.0]).repeat(4, 1)
    >>> angle, frequency, index = feature_tuning(row.reshape(16, 1), (4, 4))
    >>> round(angle.item()) % 180, frequency.item(), round(index.item(), 3)
    (0, 0.25, 1.0)
    """
    require_float(weight, "weight")
    height, width = require_image_shape(shape)
    if weight.ndim != 2 or height * width != len(weight):
        raise ValueError(f"weight must have shape ({height * width}, K), got {tuple(weight.shape)}")
    require_finite(weight, "weight")
    images = wide(weight.detach()).T.reshape(-1, height, width)
    power = torch.fft.fft2(images - images.mean((1, 2), keepdim=True)).abs().square().flatten(1)
    down = torch.fft.fftfreq(height, dtype=images.dtype, device=weight.device)[:, None]
    across = torch.fft.fftfreq(width, dtype=images.dtype, device=weight.device)[None]
    angles = torch.atan2(down, across).expand(height, width).flatten() * (180 / math.pi)
    preferred, index = _orientation_of(power.T.contiguous(), angles)
    radius = torch.hypot(down, across).flatten()
    total = power.sum(1).clamp(min=torch.finfo(power.dtype).tiny)
    frequency = require_result((power @ radius) / total, "weight")
    return preferred, frequency, require_result(index, "weight")


def feature_phase(weight: Tensor, shape: tuple[int, int]) -> Tensor:
    r"""Phase of features about their middle, in degrees from 0 to 360, shape (K,).

    Of the frequency f at which a feature has most power, about the centre c of its squares:

    .. math:: arg Σ_r φ(r) e^{−2πi f·(r − c)}

    0 is symmetric and bright in the middle, 180 dark, 90 and 270 are antisymmetric. Of f and −f the
    one to the right is taken, or down.

    Args:
        weight: Φ, shape (M, K).
        shape: (H, W) of a feature, H · W = M.

    >>> r = torch.arange(16.0) - 7.5
    >>> wave, window = r * torch.pi / 3, torch.exp(-r.square() / 18)
    >>> even, odd = window * wave.cos(), window * wave.sin()
    >>> feature_phase(torch.stack([even, -even, odd], 1), (1, 16)).round().tolist()
    [0.0, 180.0, 270.0]
    """
    height, width = require_image_shape(shape)
    require_float(weight, "weight")
    if weight.ndim != 2 or height * width != len(weight):
        raise ValueError(f"weight must have shape ({height * width}, K), got {tuple(weight.shape)}")
    require_finite(weight, "weight")
    images = wide(weight.detach()).T.reshape(-1, height, width)
    images = images - images.mean((1, 2), keepdim=True)
    size = (4 * height if height > 1 else 1, 4 * width if width > 1 else 1)
    spectrum = torch.fft.fft2(images, s=size)
    down = torch.fft.fftfreq(size[0], dtype=images.dtype, device=weight.device)[:, None]
    across = torch.fft.fftfreq(size[1], dtype=images.dtype, device=weight.device)[None]
    right = ((across > 0) | ((across == 0) & (down >= 0))).expand(size).flatten()
    power = spectrum.abs().square().flatten(1) * right
    peak = power.argmax(1)
    down, across = (f.expand(size).flatten()[peak] for f in (down, across))
    energy = images.square()
    energy = energy / energy.sum((1, 2), keepdim=True).clamp(min=torch.finfo(energy.dtype).tiny)
    rows, columns = (torch.arange(n).to(energy) for n in (height, width))
    centre = down * (energy.sum(2) @ rows) + across * (energy.sum(1) @ columns)
    phase = spectrum.flatten(1).gather(1, peak[:, None])[:, 0].angle() + 2 * math.pi * centre
    degrees: Tensor = (phase * (180 / math.pi)).remainder(360)
    return degrees


def by_tuning(weight: Tensor, shape: tuple[int, int]) -> Tensor:
    """Indices (K,) of neurons by the orientation of their features, from 0 to 180 degrees."""
    return feature_tuning(weight, shape)[0].argsort(stable=True)
