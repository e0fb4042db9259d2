"""What physiologists show: moving bars and gratings, as whitened patches.

Angles are in degrees: the direction of motion, or of a grating's normal; 0 is to the right, 90 up.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.checks import require_integer, require_number
from ipvae_snn.data.natural import whiten

SURROUND = 3
"""A stimulus is drawn on a canvas so many times as large, and the middle cut out."""


def moving_bar(
    angle: float,
    *,
    size: int = 16,
    steps: int = 96,
    width: float = 2.0,
    length: float = 64.0,
    contrast: float = 1.0,
    dark: bool = False,
    f0: float | None = 0.4,
) -> Tensor:
    """A bar that sweeps over a patch, at right angles to its long side; frames (steps, size²).

    It starts and ends three quarters of a patch from the middle. The scale is such that with
    ``contrast=1`` the bar in the middle has unit variance, as the patches have that models learn.

    Args:
        angle: direction of motion.
        size: side of the patch in pixels.
        steps: frames.
        width, length: of the bar, in pixels.
        contrast: factor on the result.
        dark: a dark bar.
        f0: cut-off of the whitening filter (:func:`~ipvae_snn.data.natural.whiten`); ``None`` for
            the bar as it is.

    >>> frames = moving_bar(90, size=8, steps=5)
    >>> frames.shape, round(frames[2].var(unbiased=False).item(), 3)
    (torch.Size([5, 64]), 1.0)
    """
    require_integer(steps, "steps")
    for name, value in (("width", width), ("length", length)):
        require_number(value, name, least=0.1)
    along, across = _axes(angle, size)
    reach = 0.75 * size

    def frame(at: float) -> NDArray[np.floating]:
        bar = _edge(width / 2 - np.abs(along - at)) * _edge(length / 2 - np.abs(across))
        return -bar if dark else bar

    places = np.linspace(-reach, reach, steps)
    return _patches([frame(at) for at in places], frame(0.0), size, contrast, f0)


def grating(
    angle: float,
    *,
    size: int = 16,
    frequency: float = 0.125,
    phase: float = 0.0,
    contrast: float = 1.0,
) -> Tensor:
    """A grating that fills a patch, shape (size²,); unit variance where ``contrast`` is 1.

    A grating passes a whitening filter unchanged but for its strength, so there is none.

    Args:
        angle: of its normal: 0 for vertical stripes.
        frequency: cycles per pixel.
        phase: degrees.

    >>> stripes = grating(0, size=8, frequency=0.25)
    >>> round(stripes.var(unbiased=False).item(), 3)
    1.0
    """
    require_number(frequency, "frequency", least=0, most=0.5)
    along, _ = _axes(angle, size)
    wave = np.cos(2 * np.pi * frequency * along + np.deg2rad(phase))
    return _patches([wave], wave, size, contrast, None)[0]


def _axes(angle: float, size: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Coordinates along a direction and across it, in pixels from the middle of a large canvas."""
    require_integer(size, "size", least=4)
    require_number(angle, "angle")
    side = np.arange(SURROUND * size) - (SURROUND * size - 1) / 2
    right, up = np.meshgrid(side, -side)
    turn = np.deg2rad(angle)
    return right * np.cos(turn) + up * np.sin(turn), up * np.cos(turn) - right * np.sin(turn)


def _edge(inside: NDArray[np.floating]) -> NDArray[np.floating]:
    """1 inside, 0 outside, with a soft edge a pixel wide."""
    return np.clip(inside + 0.5, 0, 1)


def _patches(
    frames: list[NDArray[np.floating]],
    reference: NDArray[np.floating],
    size: int,
    contrast: float,
    f0: float | None,
) -> Tensor:
    require_number(contrast, "contrast", least=0)
    middle = slice((SURROUND - 1) * size // 2, (SURROUND + 1) * size // 2)

    def patch(frame: NDArray[np.floating]) -> NDArray[np.floating]:
        seen = frame if f0 is None else whiten(frame, f0)
        cut = seen[middle, middle].ravel()
        return cut - cut.mean()

    scale = contrast / max(float(patch(reference).std()), 1e-12)
    return torch.from_numpy(scale * np.stack([patch(frame) for frame in frames])).float()
