"""Whole images: photographs, and maps of the neurons that code them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from numpy.typing import NDArray

from ipvae_snn.plotting.frame import array, axes, counts, text_colour


def photograph(image: Any, *, ax: Axes | None = None) -> Axes:
    """An image of pixels in [0, 1], grey or in colour; others are clipped.

    Args:
        image: (C, H, W), C = 1 or 3.
        ax: where to draw.
    """
    pixels = np.clip(_of_channels(image), 0, 1)
    ax = axes(ax, (6, 6 * pixels.shape[1] / pixels.shape[2]))
    shown = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
    ax.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def activity(spk: Any, *, ax: Axes | None = None) -> Axes:
    """A map of the spikes at each place, of all features together.

    The scale ends where one place in 200 has more.

    Args:
        spk: counts of one timestep, (K, h, w).
        ax: where to draw.
    """
    spikes = counts(spk, "K", "h", "w").sum(0)
    ax = axes(ax, (6, 6 * spikes.shape[0] / spikes.shape[1]))
    top = max(1.0, float(np.quantile(spikes, 0.995)))
    drawn = ax.imshow(spikes, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
    ax.set_axis_off()
    more = "max" if spikes.max() > top else "neither"
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.02, extend=more)
    bar.ax.tick_params(colors=text_colour(ax))
    bar.outline.set_edgecolor(text_colour(ax))
    return ax


def orientations(spk: Any, angles: Any, *, ax: Axes | None = None) -> Axes:
    """The orientation that wins at each place as a hue, as bright as it fires.

    Orientations are averaged at twice their angle, weighted by the counts: places where several of
    them fire alike are pale.

    Args:
        spk: counts of one timestep, (K, h, w).
        angles: of the features in degrees, (K,): :func:`ipvae_snn.metrics.feature_tuning` gives
            them.
        ax: where to draw.
    """
    fired = counts(spk, "K", "h", "w")
    twice = 2j * np.deg2rad(array(angles, "angles", len(fired)))
    total = fired.sum(0)
    mean = np.einsum("k,khw->hw", np.exp(twice), fired)
    hue = np.angle(mean) / (2 * np.pi) % 1
    saturation = np.abs(mean) / np.maximum(total, 1e-12)
    value = np.minimum(total / max(float(np.quantile(total, 0.99)), 1e-12), 1)
    ax = axes(ax, (6, 6 * total.shape[0] / total.shape[1]))
    ax.imshow(
        hsv_to_rgb(np.stack([hue, saturation.clip(0, 1), value], -1)).clip(0, 1),
        interpolation="nearest",
    )
    ax.set_axis_off()
    _draw_wheel(ax)
    return ax


def tiling(angles: Any, frequencies: Any, phases: Any, *, ax: Axes | None = None) -> Axes:
    """Which orientations, frequencies and phases features have: a dot for each of them.

    Args:
        angles: of the features in degrees, (K,), and
        frequencies: in cycles per pixel, (K,), of :func:`ipvae_snn.metrics.feature_tuning`;
        phases: in degrees, (K,), of :func:`ipvae_snn.metrics.feature_phase`, as colours.
        ax: where to draw.
    """
    across = array(angles, "angles", "K")
    up = array(frequencies, "frequencies", len(across))
    hues = array(phases, "phases", len(across)) % 360
    ax = axes(ax, (5, 4))
    drawn = ax.scatter(across % 180, up, c=hues, cmap="twilight", vmin=0, vmax=360, s=28,
                       edgecolors=text_colour(ax), linewidths=0.4)  # fmt: skip
    ax.set_xlim(0, 180)
    ax.set_xticks(range(0, 181, 45))
    ax.set_xlabel("orientation (degrees)")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("cycles per pixel")
    bar = ax.figure.colorbar(drawn, ax=ax, ticks=range(0, 361, 90), label="phase (degrees)")
    bar.ax.tick_params(colors=text_colour(ax))
    bar.ax.yaxis.label.set_color(text_colour(ax))
    return ax


def _draw_wheel(ax: Axes) -> None:
    """The hues of stripes, as lines in a corner."""
    inset = ax.inset_axes((0.86, 0.02, 0.12, 0.12 * _ratio(ax)))
    for angle in np.arange(0, 180, 22.5):
        across, up = np.cos(np.deg2rad(angle + 90)), np.sin(np.deg2rad(angle + 90))
        colour = hsv_to_rgb((angle / 180, 1, 1))
        inset.plot([-across, across], [up, -up], color=colour, lw=1.6)
    inset.set_facecolor("black")
    inset.set(xticks=[], yticks=[], xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")


def _ratio(ax: Axes) -> float:
    low, high = ax.get_ylim()
    left, right = ax.get_xlim()
    return abs((right - left) / (high - low))


def _of_channels(image: Any) -> NDArray[Any]:
    pixels = array(image, "image", "C", "H", "W")
    if len(pixels) not in (1, 3):
        raise ValueError(f"image must have 1 or 3 channels, got {len(pixels)}")
    return pixels
