"""Statistics of recordings: power spectra of images, averages around spikes."""

from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import (
    require_finite,
    require_float,
    require_image_shape,
    require_integer,
    require_not_negative,
)
from ipvae_snn.metrics.quality import require_result


def radial_spectrum(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Mean power of images by spatial frequency; pairs (cycles per pixel, power), shape (F, 2).

    Rings of frequencies one cycle per image wide, from one cycle to the Nyquist frequency of the
    shorter side. Each image is centred on zero and tapered by a Hann window, since its edges would
    leak into all frequencies.

    Args:
        images: shape (N, M).
        shape: (H, W) of an image, H · W = M, both at least 4.

    >>> stripes = torch.tensor([1.0, -1.0]).repeat(8).repeat(16, 1).reshape(1, 256)
    >>> spectrum = radial_spectrum(stripes, (16, 16))
    >>> spectrum[spectrum[:, 1].argmax(), 0].item()
    0.5
    """
    require_float(images, "images")
    height, width = shape = require_image_shape(shape, least=4)
    if images.ndim != 2 or not len(images) or images.shape[1] != height * width:
        raise ValueError(
            f"images must have shape (N, {height * width}) with N ≥ 1, got {tuple(images.shape)}"
        )
    require_finite(images, "images")
    pictures = images.detach().double().reshape(-1, height, width)
    pictures = pictures - pictures.mean((1, 2), keepdim=True)
    taper = torch.outer(*(torch.hann_window(side, dtype=torch.float64) for side in shape))
    taper = taper.to(images.device)
    power = torch.fft.fft2(pictures * taper).abs().square().mean(0) / taper.square().sum()
    options: Any = {"device": images.device, "dtype": torch.float64}
    down = torch.fft.fftfreq(height, **options)[:, None]
    across = torch.fft.fftfreq(width, **options)[None]
    rings = (torch.hypot(down, across) * min(shape)).round().long().flatten()
    count = min(shape) // 2 + 1
    inside = rings < count
    total, members = (
        torch.zeros(count, **options).index_add_(0, rings[inside], values.flatten()[inside])
        for values in (power, torch.ones_like(power))
    )
    frequency = torch.arange(count, **options) / min(shape)
    return require_result(torch.stack([frequency, total / members], 1)[1:], "images")


def spike_triggered(spk: Tensor, signal: Tensor, *, before: int = 0, after: int = 0) -> Tensor:
    """Average of a signal around the spikes of one neuron; a count of 2 weighs twice.

    Args:
        spk: counts of the neuron, shape (T,) or (T, B).
        signal: such as frames or membranes, shape (T, ...) or (T, B, ...), with the T (and B) of
            ``spk``.
        before, after: timesteps before and after the spike. Spikes nearer to an end of the
            recording are left out.

    Returns:
        Shape (before + 1 + after, ...): lags −before ... after.

    Raises:
        ValueError: no spike far enough from the ends.

    >>> spk = torch.tensor([0.0, 2.0, 0.0, 0.0])
    >>> spike_triggered(spk, torch.tensor([5.0, 6.0, 7.0, 8.0]), before=1, after=2).tolist()
    [5.0, 6.0, 7.0, 8.0]
    """
    require_float(spk, "spk")
    require_float(signal, "signal")
    before = require_integer(before, "before", least=0)
    after = require_integer(after, "after", least=0)
    if spk.ndim not in (1, 2) or signal.shape[: spk.ndim] != spk.shape:
        raise ValueError(
            f"spk must have shape (T,) or (T, B) and signal begin with it, got "
            f"{tuple(spk.shape)} and {tuple(signal.shape)}"
        )
    require_finite(spk, "spk")
    require_finite(signal, "signal")
    require_not_negative(spk, "spk must hold counts, which are not negative")
    dtype = spk.dtype
    spk, signal, length = spk.detach().double(), signal.detach(), len(spk)
    centred = spk[before : max(length - after, 0)].flatten()
    if not len(centred) or not float(centred.sum()):
        raise ValueError(
            f"spk must hold a spike at least {before} timesteps after the start and {after} before "
            f"the end of the {length} recorded"
        )
    rows = []
    for lag in range(-before, after + 1):
        around = signal[before + lag : length - after + lag]
        around = around.reshape(len(centred), -1).double()
        rows.append((centred @ around / centred.sum()).reshape(signal.shape[spk.ndim :]))
    return require_result(torch.stack(rows).to(dtype), "spk and signal")
