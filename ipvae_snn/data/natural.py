"""Whitened patches of photographs, as input of a visual cortex: pure functions on numpy arrays.

Whitening flattens the spectrum of natural images. Local contrast normalisation evens out their
contrast: most natural patches are nearly blank, and R² on those means nothing. Each patch then gets
zero mean and unit variance.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ipvae_snn._utils.extras import require_extra

Image = NDArray[np.floating]
EDGE = 4
"""Pixels cropped at each border before whitening: borders of JPEG photographs are unreliable."""
MARGIN = 4
"""Pixels cropped at each border after whitening, where the filter has seen mirrored pixels."""


def whiten(image: Image, f0: float = 0.4) -> Image:
    """Olshausen–Field whitening, R(f) = f · exp(−(f/f0)⁴), f in cycles per pixel.

    Args:
        image: shape (H, W).
        f0: cut-off of the low-pass part, in cycles per pixel; 0.5 is the finest grating.

    Returns:
        Same shape, mean 0. The image is mirrored at its borders first.

    Source: Olshausen & Field 1997.

    >>> grating = np.cos(np.arange(64) * np.pi / 2)[None].repeat(64, 0)  # 0.25 cycles per pixel
    >>> gain = 0.25 * np.exp(-((0.25 / 0.4) ** 4))
    >>> bool(np.allclose(whiten(grating)[:, 16:48], gain * grating[:, 16:48], atol=0.01))
    True
    """
    height, width = image.shape
    pad = min(height, width, 32)
    padded = np.pad(image - image.mean(), pad, mode="symmetric")
    fy = np.fft.fftfreq(padded.shape[0])[:, None]
    fx = np.fft.rfftfreq(padded.shape[1])[None, :]
    f = np.hypot(fy, fx)
    spectrum = np.fft.rfft2(padded) * f * np.exp(-((f / f0) ** 4))
    whitened: Image = np.fft.irfft2(spectrum, padded.shape)
    return whitened[pad : pad + height, pad : pad + width]


def normalise_contrast(image: Image, sigma: float = 4.0, floor: float = 0.1) -> Image:
    """Divide by the local standard deviation, in a Gaussian window.

    Args:
        image: shape (H, W).
        sigma: width of the window, in pixels.
        floor: smallest divisor, as a fraction of the whole image's standard deviation, so that
            noise in flat regions is not amplified.

    Returns:
        Same shape.
    """
    ndimage = require_extra("scipy.ndimage", extra="data")
    centred = image - ndimage.gaussian_filter(image, sigma)
    local = np.sqrt(ndimage.gaussian_filter(centred**2, sigma))
    normalised: Image = centred / np.maximum(local, max(floor * float(centred.std()), 1e-12))
    return normalised


def standardise(patches: Image, least_std: float = 0.1) -> Image:
    """Bring each row to zero mean and unit variance; drop rows of deviation below ``least_std``.

    Args:
        patches: shape (N, M), contrast-normalised, so that standard deviations are around 1.
    """
    centred = patches - patches.mean(1, keepdims=True)
    std = centred.std(1, keepdims=True)
    kept = std[:, 0] >= least_std
    standardised: Image = centred[kept] / std[kept]
    return standardised


def natural_patches(
    images: Sequence[Image],
    count: int,
    *,
    size: int = 16,
    seed: int = 0,
    f0: float = 0.4,
    sigma: float = 4.0,
) -> Image:
    """Whitened, contrast-normalised, standardised patches from random places of photographs.

    Args:
        images: photographs in [0, 1], each (H, W), of any sizes; read one at a time.
        count: how many patches, divided evenly among the photographs.
        size: side of a patch in pixels.
        seed: draws the places.
        f0, sigma: see :func:`whiten` and :func:`normalise_contrast`.

    Returns:
        Shape (count, size²), float32, in random order.

    Raises:
        ValueError: a photograph is too small, or all are blank.
    """
    rng = np.random.default_rng(seed)
    shares = np.diff(np.linspace(0, count, len(images) + 1).round().astype(int))
    cut = [
        _cut_patches(image, int(share), size, rng, f0, sigma).astype(np.float32)
        for image, share in zip(images, shares, strict=True)
    ]
    patches = np.concatenate([np.empty((0, size * size), np.float32), *cut])
    if count and not len(patches):
        raise ValueError(f"all {len(images)} image(s) are blank: no patch has any contrast")
    missing = count - len(patches)
    if missing > 0:  # blank regions were dropped: repeat some of the others
        patches = np.concatenate([patches, rng.choice(patches, missing)])
    return rng.permutation(patches)


def is_large_enough(shape: Sequence[int], size: int) -> bool:
    """Whether patches of size×size fit into an image of a shape, without its borders."""
    return min(shape) >= size + 2 * (MARGIN + EDGE)


def too_small(name: str, shape: Sequence[int], size: int, more: str = "") -> ValueError:
    """The error about an image that is too small for patches of size×size."""
    least = size + 2 * (MARGIN + EDGE)
    return ValueError(
        f"{name} of {shape[0]}×{shape[1]} pixels is too small for patches of {size}×{size}, which "
        f"need {least}×{least}{more}: leave it out, or for whole images pass treat='samples' "
        "(--as samples)"
    )


def _cut_patches(
    image: Image, count: int, size: int, rng: np.random.Generator, f0: float, sigma: float
) -> Image:
    if not is_large_enough(image.shape, size):
        raise too_small("an image", image.shape, size)
    cut = image[EDGE:-EDGE, EDGE:-EDGE]
    if not count or float(cut.std()) < 1e-6:
        return np.empty((0, size * size))
    whitened = normalise_contrast(whiten(cut, f0), sigma)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    windows = np.lib.stride_tricks.sliding_window_view(whitened, (size, size))
    draws = int(count * 1.2) + 8  # blank ones will be dropped
    rows = rng.integers(windows.shape[0], size=draws)
    columns = rng.integers(windows.shape[1], size=draws)
    return standardise(windows[rows, columns].reshape(draws, -1))[:count]
