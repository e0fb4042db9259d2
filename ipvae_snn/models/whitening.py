"""Whitening of whole images, and its inverse: reconstructions come back as photographs."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import (
    require_finite,
    require_float,
    require_number,
)
from ipvae_snn._utils.registry import Recorded, Registry

LOWEST = 0.004
"""Cycles per pixel below which the gain stays the same: a mean is kept, much reduced."""
LEAST = 0.05
"""Least gain of the low-pass part, so that there is an inverse."""
FITTED = 64
"""How many images are looked at, at most, evenly spaced among all."""
TRIED_SLOPES = 0.02, 0.3
"""Range of frequencies, in cycles per pixel, whose amplitudes decide the slope."""


class Whitening(Recorded):
    r"""A filter that flattens the spectrum of images, and a matrix that makes colours independent.

    .. math:: g(f) = (f^2 + f_l^2)^{a/2} · \max(e^{−(f / f_0)^4}, 0.05)

    with f in cycles per pixel; a is the slope of the amplitudes of natural images, about 1. Images
    are mirrored at their borders, so that the filter multiplies the coefficients of their cosine
    transform, and the inverse is exact for images of any size. Values of the result have about
    unit variance and are uncorrelated between channels.

    Args:
        matrix: C × C, applied to the channels after the filter, as rows.
        mean: of each channel in pixels, length C, subtracted first.
        slope: a.
        cutoff: f_0; frequencies above hold little of an image but the noise of its camera.

    Raises:
        TypeError, ValueError: wrong shapes or numbers; a matrix without an inverse.

    Source: the filter of Olshausen & Field 1997, with a least gain.

    >>> images = torch.rand(4, 1, 32, 48)
    >>> whitening = Whitening.fit(images)
    >>> torch.allclose(whitening.inverse(whitening(images)), images, atol=1e-4)
    True
    """

    def __init__(
        self,
        matrix: Sequence[Sequence[float]],
        mean: Sequence[float],
        slope: float = 1.0,
        cutoff: float = 0.4,
    ) -> None:
        self.slope = require_number(slope, "slope", least=0, most=3)
        self.cutoff = require_number(cutoff, "cutoff", least=0.01)
        values = torch.tensor([[float(v) for v in row] for row in matrix], dtype=torch.float64)
        means = torch.tensor([float(v) for v in mean], dtype=torch.float64)
        if values.ndim != 2 or not len(values) or values.shape != (len(means), len(means)):
            raise ValueError(
                f"matrix must have as many rows and columns as mean has values, got "
                f"{tuple(values.shape)} and {tuple(means.shape)}"
            )
        require_finite(values, "matrix")
        require_finite(means, "mean")
        if float(torch.linalg.cond(values)) > 1e8:
            raise ValueError("matrix must have an inverse: its rows are hardly independent")
        self._matrix, self._mean = values, means

    @property
    def channels(self) -> int:
        """C."""
        return len(self._mean)

    @classmethod
    def fit(cls, images: Tensor | Iterable[Tensor], cutoff: float = 0.4) -> "Whitening":
        """The whitening for images like these.

        Args:
            images: (N, C, H, W), or images (C, H, W) of any sizes, in pixels; of many, some.
            cutoff: see the class.

        Raises:
            TypeError, ValueError: no images, of different channels, or without any contrast.
        """
        given = [_checked(image) for image in images]
        if not given:
            raise ValueError("whitening needs at least one image")
        channels = {len(image) for image in given}
        found = [image.cpu().double() for image in given[:: -(-len(given) // FITTED)]]
        if len(channels) > 1:
            raise ValueError(f"all images must have the same channels, got {sorted(channels)}")
        mean = torch.stack([image.mean((1, 2)) for image in found]).mean(0)
        slope = _slope([image - mean[:, None, None] for image in found])
        plain = cls(torch.eye(len(mean)).tolist(), mean.tolist(), slope, cutoff)
        rows = torch.cat([plain(image).flatten(1) for image in found], 1)
        covariance = rows @ rows.mT / rows.shape[1]
        variances, directions = torch.linalg.eigh(covariance)
        if float(variances[-1]) < 1e-12:
            raise ValueError("the images have no contrast: there is nothing to whiten")
        bounded = variances.clamp(min=1e-6 * float(variances[-1]))
        matrix = directions @ (bounded.rsqrt()[:, None] * directions.mT)
        return cls(matrix.tolist(), mean.tolist(), slope, cutoff)

    def gain(self, height: int, width: int) -> Tensor:
        """g of the cosine transform of an image, (height, width)."""
        f = _frequencies(height, width)
        rising = (f.square() + LOWEST**2) ** (self.slope / 2)
        falling = torch.exp(-((f / self.cutoff) ** 4)).clamp(min=LEAST)
        gain: Tensor = rising * falling
        return gain

    def __call__(self, images: Tensor) -> Tensor:
        """Whitened images, (..., C, H, W) each."""
        self._check(images)
        centred = images - self._mean.to(images)[:, None, None]
        filtered = _filtered(centred, self.gain(*images.shape[-2:]))
        return _mixed(filtered, self._matrix)

    def inverse(self, whitened: Tensor) -> Tensor:
        """Images in pixels, (..., C, H, W) each."""
        self._check(whitened)
        mixed = _mixed(whitened, torch.linalg.inv(self._matrix))
        filtered = _filtered(mixed, 1 / self.gain(*whitened.shape[-2:]))
        return filtered + self._mean.to(whitened)[:, None, None]

    def _check(self, images: Any) -> None:
        require_float(images, "images")
        if images.ndim < 3 or images.shape[-3] != self.channels or not images.numel():
            raise ValueError(
                f"images must have shape (..., {self.channels}, H, W), got {tuple(images.shape)}"
            )
        require_finite(images, "images")

    def __repr__(self) -> str:
        return f"Whitening({self.channels} channel(s), slope={self.slope:.3g})"


WHITENINGS: Registry[Whitening] = Registry("whitening", Whitening)
"""Whitenings that files can name."""
WHITENINGS.register("spectrum")(Whitening)


def _checked(image: Any) -> Tensor:
    require_float(image, "an image")
    if image.ndim != 3 or not image.numel():
        raise ValueError(f"an image must have shape (C, H, W), got {tuple(image.shape)}")
    require_finite(image, "an image")
    found: Tensor = image.detach()
    return found


def _frequencies(height: int, width: int) -> Tensor:
    """Of the coefficients of a cosine transform, in cycles per pixel, (height, width)."""
    rows, columns = (torch.arange(n, dtype=torch.float64) / (2 * n) for n in (height, width))
    frequencies: Tensor = (rows.square()[:, None] + columns.square()).sqrt()
    return frequencies


def _filtered(images: Tensor, gain: Tensor) -> Tensor:
    spectrum = _dct(_dct(images).mT).mT * gain.to(images)
    return _inverse_dct(_inverse_dct(spectrum).mT).mT


def _turns(count: int, like: Tensor) -> Tensor:
    angle = torch.arange(count, dtype=torch.float64) * (math.pi / (2 * count))
    return torch.polar(torch.ones_like(angle), angle).to(like.device, _complex(like))


def _complex(like: Tensor) -> torch.dtype:
    return torch.complex128 if like.dtype == torch.float64 else torch.complex64


def _dct(values: Tensor) -> Tensor:
    """The cosine transform (II) of the last dimension, by a Fourier transform of its length.

    Source: Makhoul 1980.
    """
    folded = torch.cat([values[..., ::2], values[..., 1::2].flip(-1)], -1)
    transformed = torch.fft.fft(folded.to(_complex(values)))
    spectrum: Tensor = (transformed * _turns(values.shape[-1], values).conj()).real
    return spectrum


def _inverse_dct(spectrum: Tensor) -> Tensor:
    count = spectrum.shape[-1]
    mirrored = torch.cat([torch.zeros_like(spectrum[..., :1]), spectrum[..., 1:].flip(-1)], -1)
    folded = torch.fft.ifft(torch.complex(spectrum, -mirrored) * _turns(count, spectrum)).real
    values = torch.empty_like(spectrum)
    even = (count + 1) // 2
    values[..., ::2], values[..., 1::2] = folded[..., :even], folded[..., even:].flip(-1)
    return values


def _mixed(images: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("dc,...chw->...dhw", matrix.to(images), images)


def _slope(images: list[Tensor]) -> float:
    """a, by a line through the mean log amplitudes of octaves of frequencies."""
    low, high = map(math.log2, TRIED_SLOPES)
    edges = torch.logspace(low, high, 9, base=2.0)
    power, count = torch.zeros(8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    for image in images:
        height, width = image.shape[1:]
        spectrum = _dct(_dct(image).mT).mT.square().mean(0) / (height * width)
        band = torch.bucketize(_frequencies(height, width), edges) - 1
        inside = (band >= 0) & (band < 8)
        power.index_add_(0, band[inside], spectrum[inside])
        count.index_add_(0, band[inside], torch.ones_like(spectrum[inside]))
    known = (count > 0) & (power > 0)
    if int(known.sum()) < 2:
        return 1.0  # too small, or blank
    x = (edges[:-1] * edges[1:]).log().double()[known] / 2
    y = (power / count)[known].log() / 2
    x = x - x.mean()
    return float((-(x * (y - y.mean())).sum() / x.square().sum()).clamp(0, 3))
