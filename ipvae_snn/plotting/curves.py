"""Curves: convergence, training, rate and distortion, what spikes buy, power spectra."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from ipvae_snn.plotting.frame import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    PINK,
    SKY,
    array,
    arrays,
    axes,
    legend,
    text_colour,
)


def convergence(
    curves: Mapping[str, Sequence[float]], *, mark: int | None = None, ax: Axes | None = None
) -> Axes:
    """Metrics between 0 and 1 against timesteps, on a logarithmic axis.

    Args:
        curves: label to values at timesteps 1, 2, 3, ..., such as R² and the portion of zeros.
        mark: a timestep to mark: the number of timesteps in training.
        ax: where to draw.
    """
    lines = arrays(curves, "curves", "T")
    ax = axes(ax, (6.5, 4))
    styles = ((BLUE, "-"), (ORANGE, "-"), (GREEN, "--"), (GREY, ":"))
    for index, (label, line) in enumerate(lines.items()):
        colour, dash = styles[index % len(styles)]
        ax.plot(np.arange(1, len(line) + 1), line, color=colour, ls=dash, lw=1.8, label=label)
    if mark is not None:
        ax.axvline(mark, color=GREY, lw=1, ls="--")
        units: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        style: Any = {"color": GREY, "fontsize": "small"}
        ax.annotate(f"trained with {mark} steps", (mark, 0.02), xytext=(4, 0), **units, **style)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
    return _bounded(ax, "timestep")


def training(history: Sequence[Mapping[str, float]], *, ax: Axes | None = None) -> Axes:
    """R² and portion of zeros at the last timestep of each training batch, against iterations.

    Where validation samples were measured, their R² is the strong line.

    Args:
        history: the rows that ``fit`` returns.
        ax: where to draw.
    """
    columns = _columns(history, "r2", "zeros")
    ax = axes(ax, (6.5, 4))
    measured = [row for row in history if "r2_val" in row]
    batch: Any = {"color": SKY, "lw": 0.8} if measured else {"color": BLUE, "lw": 1.5}
    ax.plot(columns["iteration"], columns["r2"], label="R², training batches", **batch)
    zeros: Any = {"color": ORANGE, "lw": 1.5, "label": "portion of zeros"}
    ax.plot(columns["iteration"], columns["zeros"], **zeros)
    if measured:
        x, y = ([row[name] for row in measured] for name in ("iteration", "r2_val"))
        ax.plot(x, y, color=BLUE, lw=1.8, marker="o", ms=2.5, label="R², validation samples")
    return _bounded(ax, "iteration")


def loss(history: Sequence[Mapping[str, float]], *, ax: Axes | None = None) -> Axes:
    """NLL and NLL + β KL of each training batch, mean over timesteps, against iterations.

    The band between the two lines is β KL. Values above the 98th percentile, such as the first
    ones, may lie outside the Axes.

    Args:
        history: the rows that ``fit`` returns.
        ax: where to draw.
    """
    columns = _columns(history, "nll", "kl", "beta")
    ax = axes(ax, (6.5, 3))
    iterations, nll = columns["iteration"], columns["nll"]
    total = nll + columns["beta"] * columns["kl"]
    ax.fill_between(iterations, nll, total, color=ORANGE, alpha=0.25, lw=0, label="β KL")
    ax.plot(iterations, total, color=ORANGE, lw=1.2, label="NLL + β KL")
    ax.plot(iterations, nll, color=BLUE, lw=1.2, label="NLL")
    low, high = float(nll.min()), float(np.quantile(total, 0.98))
    margin = max(0.05 * (high - low), 0.5)
    ax.set_ylim(low - margin, high + margin)
    ax.ticklabel_format(useOffset=False)
    ax.set_xlabel("iteration")
    ax.set_ylabel("nats per timestep")
    ax.grid(alpha=0.25)
    legend(ax, loc="upper right")
    return ax


def schedules(history: Sequence[Mapping[str, float]], *, ax: Axes | None = None) -> Axes:
    """Learning rate (left axis) and β (right axis) against iterations.

    Args:
        history: the rows that ``fit`` returns.
        ax: where to draw.
    """
    columns = _columns(history, "lr", "beta")
    ax = axes(ax, (6.5, 2))
    for side, name, label, colour in (
        (ax, "lr", "learning rate", GREEN),
        (ax.twinx(), "beta", "β", ORANGE),
    ):
        side.plot(columns["iteration"], columns[name], color=colour, lw=1)
        side.set_ylim(0, 1.1 * float(columns[name].max()) or 1)
        side.set_ylabel(label, color=colour)
        side.tick_params(axis="y", colors=colour)
        side.yaxis.set_major_locator(MaxNLocator(3))
        side.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_xlabel("iteration")
    ax.grid(alpha=0.25)
    return ax


def _columns(history: Sequence[Mapping[str, float]], *names: str) -> dict[str, NDArray[Any]]:
    """``iteration`` and other columns of a history; ``ValueError`` if a row lacks one."""
    needed = ("iteration", *names)
    if not history or any(set(needed) - set(row) for row in history):
        raise ValueError(f"history must hold at least one row, each with {', '.join(needed)}")
    return {name: array([row[name] for row in history], name, "N") for name in needed}


def _bounded(ax: Axes, label: str) -> Axes:
    """Finish Axes whose values lie between 0 and 1."""
    ax.set_ylim(0, 1)
    ax.set_xlabel(label)
    ax.grid(alpha=0.25)
    legend(ax, loc="lower right")
    return ax


def rate_distortion(
    points: Mapping[str, Any], *, radii: Sequence[float] = (0.2, 0.4, 0.6), ax: Axes | None = None
) -> Axes:
    """R² against the portion of zeros, with circles of equal distance from the perfect code.

    Args:
        points: label to pairs (zeros, R²), shape (N, 2).
        radii: of the circles, as :func:`ipvae_snn.metrics.rate_distortion_distance` measures them.
        ax: where to draw.
    """
    pairs = arrays(points, "points", "N", 2)
    ax = axes(ax, (5, 4.2))
    lowest = min(1 - max(radii, default=0), 1.0, *(float(xy[:, 1].min()) for xy in pairs.values()))
    for index, (label, xy) in enumerate(pairs.items()):
        colour = PALETTE[index % len(PALETTE)]
        ax.plot(xy[:, 0], xy[:, 1], "o", ms=5, color=colour, label=label)
    angle = np.linspace(np.pi, 1.5 * np.pi, 60)
    for radius in radii:
        x, y = 1 + radius * np.cos(angle), 1 + radius * np.sin(angle)
        ax.plot(x, y, color=GREY, ls=":", lw=0.8)
        ax.annotate(
            f"{radius:g}", (x[8], y[8]), fontsize="x-small", color=text_colour(ax), ha="right"
        )
    ax.set_xlim(-0.03, 1.03)
    ax.set_ylim(lowest - 0.03, 1.02)
    ax.set_xlabel("portion of zeros")
    ax.set_ylabel("R²")
    legend(ax, loc="lower left")
    return ax


def trade_off(
    candidates: Any,
    *,
    marks: Mapping[str, tuple[float, float]],
    budget: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Distance from a perfect code against spikes, and the Pareto front of what was tried.

    Args:
        candidates: pairs (spikes per sample and timestep, distance), shape (N, 2).
        marks: label to a pair to mark, such as the code before and after; the view keeps to them.
        budget: spikes per sample and timestep, drawn as a line.
        ax: where to draw.
    """
    pairs = array(candidates, "candidates", "N", 2)
    if not marks:
        raise ValueError("marks must hold at least one pair (spikes, distance), got none")
    marked = {label: array(pair, label, 2) for label, pair in marks.items()}
    ax = axes(ax, (6.5, 4.2))
    front = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    front = front[front[:, 1] < np.minimum.accumulate(np.r_[np.inf, front[:-1, 1]])]
    ax.plot(*pairs.T, "o", ms=3.5, color=GREY, alpha=0.6, mew=0, label="tried")
    ax.plot(*front.T, drawstyle="steps-post", color=GREEN, lw=1.5, label="best for the spikes")
    for index, (label, pair) in enumerate(marked.items()):
        colour = (ORANGE, BLUE, PINK)[index % 3]
        ax.plot(pair[:1], pair[1:], "D", ms=8, color=colour, mec="white", zorder=3, label=label)
    if budget is not None:
        ax.axvline(budget, color=GREY, lw=1.2, ls="--", label=f"budget, {budget:.4g} spikes")
    x, y = np.stack(list(marked.values())).T
    ax.set_xlim(0.6 * x.min(), 1.25 * max(budget or 0, x.max()))
    seen = front[(front[:, 0] >= 0.6 * x.min()) & (front[:, 1] <= y.max())]
    low = min(y.min(), *seen[:, 1])
    ax.set_ylim(0.9 * low, y.max() + 0.6 * (y.max() - low) + 0.02)
    ax.set_xlabel("spikes per sample and timestep")
    ax.set_ylabel("distance from a perfect code without spikes")
    ax.grid(alpha=0.25)
    legend(ax, loc="best", fontsize="small")
    return ax


def spectra(curves: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """Power against spatial frequency, on logarithmic axes.

    Args:
        curves: label to pairs (cycles per pixel, power), shape (F, 2), as
            :func:`ipvae_snn.metrics.radial_spectrum` returns.
        ax: where to draw.
    """
    pairs = arrays(curves, "curves", "F", 2)
    for label, xy in pairs.items():
        if not (xy[:, 1] > 0).any():
            raise ValueError(f"{label} must have some power above 0: its images are blank")
    ax = axes(ax, (5, 3.6))
    for index, (label, xy) in enumerate(pairs.items()):
        dash = "-" if index == 0 else "--"
        colour = PALETTE[index % len(PALETTE)]
        ax.plot(xy[:, 0], xy[:, 1], color=colour, ls=dash, lw=1.8, label=label)
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
