"""Stimuli of visual physiology, as patches: moving bars and gratings, and events of them.

Angles are in degrees: the direction of motion, or of a grating's normal; 0 is to the right, 90 up.
"""

import numpy as np
import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_integer, require_number
from ipvae_snn.data.natural import Image, whiten

CANVAS = 3
"""Side of the canvas a stimulus is drawn on, in patches; the patch is cut from its middle."""


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

    It starts and ends three quarters of a patch from the middle. With ``contrast=1`` the frame with
    the bar in the middle has unit variance, like patches of a data set.

    Args:
        angle: direction of motion.
        size: side of the patch in pixels.
        steps: number of frames.
        width, length: of the bar, in pixels.
        contrast: factor on all frames.
        dark: make the bar dark instead of bright.
        f0: cut-off of the whitening filter (:func:`~ipvae_snn.data.natural.whiten`); ``None``
            skips whitening.

    >>> frames = moving_bar(90, size=8, steps=5)
    >>> frames.shape, round(frames[2].var(unbiased=False).item(), 3)
    (torch.Size([5, 64]), 1.0)
    """
    require_integer(steps, "steps")
    require_number(width, "width", least=0.1)
    require_number(length, "length", least=0.1)
    along, across = _axes(angle, size)
    reach = 0.75 * size

    def frame(position: float) -> Image:
        bar = _soft_edge(width / 2 - np.abs(along - position))
        bar = bar * _soft_edge(length / 2 - np.abs(across))
        return -bar if dark else bar

    positions = np.linspace(-reach, reach, steps)
    return _cut_patches([frame(p) for p in positions], frame(0.0), size, contrast, f0)


def grating(
    angle: float,
    *,
    size: int = 16,
    frequency: float = 0.125,
    phase: float = 0.0,
    contrast: float = 1.0,
) -> Tensor:
    """A grating that fills a patch, shape (size²,), of unit variance with ``contrast=1``.

    It is not whitened: the filter changes only the amplitude of a grating.

    Args:
        angle: direction of its normal; 0 gives vertical stripes.
        size: side of the patch in pixels.
        frequency: cycles per pixel.
        phase: degrees.
        contrast: factor on the patch.

    >>> stripes = grating(0, size=8, frequency=0.25)
    >>> round(stripes.var(unbiased=False).item(), 3)
    1.0
    """
    require_number(frequency, "frequency", least=0, most=0.5)
    along, _ = _axes(angle, size)
    wave = np.cos(2 * np.pi * frequency * along + np.deg2rad(phase))
    return _cut_patches([wave], wave, size, contrast, None)[0]


def events(frames: Tensor, threshold: float = 0.2) -> Tensor:
    """What an event camera counts of frames: steps up and down of each pixel, (T, ..., 2 M).

    A pixel keeps the level at which it last fired. It fires once for each ``threshold`` that its
    value has moved from there: ON, the first M numbers, where it rose, OFF where it fell. Nothing
    is counted in the first frame, and ON minus OFF times the threshold follows the frames to
    within one threshold.

    Args:
        frames: (T, ..., M), log intensity, such as ``moving_bar(90, f0=None)``.
        threshold: > 0, of the same unit.

    Source: Lichtsteiner, Posch & Delbruck 2008, without noise, dead time and latency.

    >>> events(torch.tensor([[0.0, 1.0], [0.5, 0.9], [0.5, 0.3]]), threshold=0.25)
    tensor([[0., 0., 0., 0.],
            [2., 0., 0., 0.],
            [0., 0., 0., 2.]])
    """
    require_number(threshold, "threshold", least=1e-6)
    if not isinstance(frames, Tensor) or not frames.is_floating_point() or frames.ndim < 2:
        raise TypeError("frames must be a floating tensor (T, ..., M)")
    require_finite(frames, "frames")
    level, counted = frames[0].double(), []
    for frame in frames.double():
        moved = ((frame - level) / threshold).trunc()
        level = level + threshold * moved
        counts = moved.abs()
        counted.append(torch.cat([counts * (moved > 0), counts * (moved < 0)], -1))
    return torch.stack(counted).to(frames.dtype)


def _axes(angle: float, size: int) -> tuple[Image, Image]:
    """Coordinates along a direction and across it, in pixels from the middle of the canvas."""
    require_integer(size, "size", least=4)
    require_number(angle, "angle")
    side = np.arange(CANVAS * size) - (CANVAS * size - 1) / 2
    right, up = np.meshgrid(side, -side)
    angle = np.deg2rad(angle)
    return right * np.cos(angle) + up * np.sin(angle), up * np.cos(angle) - right * np.sin(angle)


def _soft_edge(distance: Image) -> Image:
    """1 inside, 0 outside, with a ramp one pixel wide; distances to the edge, positive inside."""
    return np.asarray(np.clip(distance + 0.5, 0, 1))


def _cut_patches(
    frames: list[Image], reference: Image, size: int, contrast: float, f0: float | None
) -> Tensor:
    """Middles of whitened canvases, each of mean 0, divided by the deviation of ``reference``."""
    require_number(contrast, "contrast", least=0)
    middle = slice((CANVAS - 1) * size // 2, (CANVAS + 1) * size // 2)

    def patch(frame: Image) -> Image:
        canvas = frame if f0 is None else whiten(frame, f0)
        cut = canvas[middle, middle].ravel()
        return np.asarray(cut - cut.mean())

    factor = contrast / max(float(patch(reference).std()), 1e-12)
    return torch.from_numpy(factor * np.stack([patch(frame) for frame in frames])).float()
