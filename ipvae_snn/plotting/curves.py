"""Curves: convergence, training, rate and distortion, spectra."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from ipvae_snn.plotting.frame import BLUE, GREEN, GREY, ORANGE, PALETTE, array, axes, ink, legend


def convergence(
    curves: Mapping[str, Sequence[float]], *, mark: int | None = None, ax: Axes | None = None
) -> Axes:
    """Metrics between 0 and 1 against timesteps, on a logarithmic axis.

    Args:
        curves: label to values at steps 1, 2, 3, ...; such as R² and portion of zeros.
        mark: a timestep to mark, such as the length of training.
        ax: where to draw.
    """
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError("curves must map at least one label to its values")
    ax = axes(ax, (6.5, 4))
    styles = ((BLUE, "-"), (ORANGE, "-"), (GREEN, "--"), (GREY, ":"))
    for index, (label, values) in enumerate(curves.items()):
        line = array(values, label, "T")
        colour, dash = styles[index % len(styles)]
        ax.plot(np.arange(1, len(line) + 1), line, color=colour, ls=dash, lw=1.8, label=label)
    if mark is not None:
        ax.axvline(mark, color=GREY, lw=1, ls="--")
        ax.annotate(
            f"trained with {mark} steps", (mark, 0.02), xycoords=("data", "axes fraction"),
            xytext=(4, 0), textcoords="offset points", color=GREY, fontsize="small",
        )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
    ax.set_ylim(0, 1)
    ax.set_xlabel("timestep")
    ax.grid(alpha=0.25)
    legend(ax, loc="lower right")
    return ax


def training(history: Sequence[Mapping[str, float]], *, ax: Axes | None = None) -> Axes:
    """R² and portion of zeros of the batch at the last timestep, against iterations.

    Args:
        history: what ``fit`` returns.
        ax: where to draw.
    """
    if not history or any({"iteration", "r2", "zeros"} - set(row) for row in history):
        raise ValueError("history must hold at least one row, each with iteration, r2 and zeros")
    ax = axes(ax, (6.5, 4))
    iterations = [row["iteration"] for row in history]
    for name, label, colour in (("r2", "R²", BLUE), ("zeros", "portion of zeros", ORANGE)):
        ax.plot(iterations, [row[name] for row in history], color=colour, lw=1.5, label=label)
    ax.set_ylim(0, 1)
    ax.set_xlabel("iteration")
    ax.grid(alpha=0.25)
    legend(ax, loc="lower right")
    return ax


def rate_distortion(
    points: Mapping[str, Any], *, radii: Sequence[float] = (0.2, 0.4, 0.6), ax: Axes | None = None
) -> Axes:
    """R² against the portion of zeros, with circles of equal distance from the perfect code.

    Args:
        points: label to pairs (zeros, R²), shape (N, 2).
        radii: distances whose circles are drawn (:func:`ipvae_snn.metrics.
            rate_distortion_distance`).
        ax: where to draw.
    """
    if not isinstance(points, Mapping) or not points:
        raise ValueError("points must map at least one label to pairs (zeros, R²)")
    ax = axes(ax, (5, 4.2))
    lowest = 1.0
    for index, (label, pairs) in enumerate(points.items()):
        at = array(pairs, label, "N", "2")
        if at.shape[1] != 2:
            raise ValueError(f"{label} must hold pairs (zeros, R²), got shape {at.shape}")
        colour = PALETTE[index % len(PALETTE)]
        ax.plot(at[:, 0], at[:, 1], "o", ms=5, color=colour, label=label)
        lowest = min(lowest, float(at[:, 1].min()))
    for radius in radii:
        angle = np.linspace(np.pi, 1.5 * np.pi, 60)
        across, up = 1 + radius * np.cos(angle), 1 + radius * np.sin(angle)
        ax.plot(across, up, color=GREY, ls=":", lw=0.8)
        ax.annotate(f"{radius:g}", (across[8], up[8]), fontsize="x-small", color=ink(ax),
                    ha="right")  # fmt: skip
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(min(lowest, 1 - max(radii, default=0)) - 0.03, 1.02)
    ax.set_xlabel("portion of zeros")
    ax.set_ylabel("R²")
    legend(ax, loc="lower left")
    return ax


def spectra(curves: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Power against spatial frequency, both logarithmic.

    Args:
        curves: label to pairs (cycles per pixel, power), shape (F, 2), as
            :func:`ipvae_snn.metrics.radial_spectrum` returns.
        ax: where to draw.
    """
    if not isinstance(curves, Mapping) or not curves:
        raise ValueError("curves must map at least one label to pairs (frequency, power)")
    ax = axes(ax, (5, 3.6))
    for index, (label, pairs) in enumerate(curves.items()):
        at = array(pairs, label, "F", "2")
        if at.shape[1] != 2:
            raise ValueError(f"{label} must hold pairs (frequency, power), got shape {at.shape}")
        if not (at[:, 1] > 0).any():
            raise ValueError(f"{label} must have some power above 0: its images are blank")
        dash = "-" if index == 0 else "--"
        colour = PALETTE[index % len(PALETTE)]
        ax.plot(at[:, 0], at[:, 1], color=colour, ls=dash, lw=1.8, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(LogLocator(base=2))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda f, _: f"{f:.2g}"))
    ax.set_xlabel("cycles per pixel")
    ax.set_ylabel("power")
    ax.grid(alpha=0.25)
    legend(ax)
    return ax
