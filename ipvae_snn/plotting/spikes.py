"""Spikes: rasters of counts, averages around a spike, tuning curves."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap, LogNorm
from numpy.typing import NDArray

from ipvae_snn.plotting.frame import (
    BLUE,
    GREY,
    PALETTE,
    array,
    axes,
    counts,
    indices,
    legend,
    legend_outside,
    sequential,
    text_colour,
)

DOTS = ("both", "size", "colour")


def raster(
    spk: Any, *, order: Any = None, dots: str = "both", ax: Axes | None = None, first_step: int = 1
) -> Axes:
    """Spike counts of one trial: a dot for each neuron and timestep with spikes.

    Args:
        spk: counts, shape (T, K).
        order: indices (N,) of the neurons to draw, from the bottom up, such as
            :func:`ipvae_snn.metrics.by_use` or :func:`~ipvae_snn.metrics.by_selectivity` return.
            Default: all, by index.
        dots: what shows the count: the ``"size"`` of a dot, its ``"colour"``, or ``"both"``.
        first_step: number of the first timestep.
        ax: where to draw.
    """
    z = counts(spk, "T", "K")
    if order is not None:
        z = z[:, indices(order, z.shape[1], "order")]
    ax = _draw_dots(z, dots, axes(ax, (8, 4)), first_step)
    ax.set_ylabel("neuron" if order is None else "neuron, sorted")
    return ax


def trials(
    spk: Any,
    *,
    neurons: Any = None,
    dots: str = "both",
    ax: Axes | None = None,
    first_step: int = 1,
) -> Axes:
    """Spike counts of many trials: a block of rows for each neuron, a row for each trial.

    Args:
        spk: counts, shape (T, N, K), as :meth:`ipvae_snn.IPVAE.run` records N trials.
        neurons: indices of the neurons to draw, from the bottom up; default the four with most
            spikes.
        dots, first_step, ax: as in :func:`raster`.
    """
    z = counts(spk, "T", "N", "K")
    chosen = np.argsort(-z.sum((0, 1)))[:4] if neurons is None else neurons
    shown = indices(chosen, z.shape[2], "neurons")
    count = z.shape[1]
    rows = np.concatenate([z[:, :, k] for k in shown], axis=1)
    ax = _draw_dots(rows, dots, axes(ax, (8, 4)), first_step)
    for block in range(1, len(shown)):
        ax.axhline(block * count - 0.5, color=GREY, lw=0.6)
    middles = [(block + 0.5) * count - 0.5 for block in range(len(shown))]
    ax.set_yticks(middles, [str(k) for k in shown])
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel(f"neuron, {count} trials each")
    return ax


def places(
    spk: Any,
    *,
    shown: Any = None,
    dots: str = "both",
    ax: Axes | None = None,
    first_step: int = 1,
) -> Axes:
    """Spike counts of a map of neurons: a block of rows for each place, a row for each channel.

    Args:
        spk: counts of one image, shape (T, K, h, w).
        shown: numbers of the places to draw, from the bottom up, counted row by row; default the
            four with most spikes.
        dots, first_step, ax: as in :func:`raster`.
    """
    z = counts(spk, "T", "K", "h", "w")
    width = z.shape[3]
    by_place = z.reshape(*z.shape[:2], -1)
    chosen = np.argsort(-by_place.sum((0, 1)))[:4] if shown is None else shown
    drawn = indices(chosen, by_place.shape[2], "shown")
    ax = trials(by_place, neurons=drawn, dots=dots, ax=ax, first_step=first_step)
    ax.set_yticks(ax.get_yticks(), ["{}, {}".format(*divmod(n, width)) for n in drawn])
    ax.set_ylabel(f"place (row, column), {z.shape[1]} channels each")
    return ax


def _draw_dots(z: NDArray[Any], dots: str, ax: Axes, first_step: int) -> Axes:
    if dots not in DOTS:
        raise ValueError(f"dots must be one of {DOTS}, got {dots!r}")
    time, row = np.nonzero(z)
    values = z[time, row]
    top = int(np.ceil(values.max())) if values.size else 1
    by_size, cell = dots != "colour", _cell_size(ax, z.shape)
    colours: Any = {"c": values, "cmap": sequential(ax), "norm": LogNorm(1, max(top, 2))}
    sizes = _dot_size(values, top, cell, by_size)
    drawn = ax.scatter(time + first_step, row, s=sizes, linewidths=0, **colours)
    if dots == "size":  # the counts stay in the collection, drawn in a single colour
        drawn.set_cmap(ListedColormap([text_colour(ax)]))
    ax.set_xlim(first_step - 1, first_step + len(z))
    ax.set_ylim(-1, z.shape[1])
    ax.set_xlabel("timestep")
    _count_legend(ax, drawn, top, cell, by_size)
    return ax


def _cell_size(ax: Axes, shape: tuple[int, ...]) -> float:
    """The shorter side of the rectangle of one dot, in points, clipped to [2.5, 7]."""
    figure = ax.get_figure()
    assert figure is not None
    box = ax.get_window_extent()
    width, height = 72 * box.width / figure.dpi, 72 * box.height / figure.dpi
    return float(np.clip(min(width / (shape[0] + 1), height / (shape[1] + 1)), 2.5, 7.0))


def _dot_size(count: NDArray[Any] | int, top: int, cell: float, by_size: bool) -> NDArray[Any]:
    """Area in points²; ``by_size``, it grows linearly from one spike to ``top``."""
    smallest, largest = (0.6 * cell) ** 2, (2.0 * cell) ** 2
    share = (np.maximum(count, 1.0) - 1) / max(top - 1, 6)
    return smallest + (largest - smallest) * (share if by_size else np.full_like(share, 0.2))


def _count_legend(ax: Axes, dots: PathCollection, top: int, cell: float, by_size: bool) -> None:
    shown = sorted({1, 2, max(1, round(top / 2)), top} & set(range(1, top + 1)))
    handles = []
    for n in shown:
        size, colour = _dot_size(n, top, cell, by_size), dots.to_rgba(np.array(n))
        handles.append(ax.scatter([], [], s=size, color=colour, label=str(n)))
    legend_outside(ax, handles=handles, title="spikes")


def spike_triggered(
    average: Any,
    *,
    first_lag: int,
    labels: Any = None,
    chance: Any = None,
    quantity: str = "membrane (nats)",
    ax: Axes | None = None,
) -> Axes:
    """Averages around the spikes of a neuron, against the lag from the spike.

    Args:
        average: shape (L, N): N quantities at lags first_lag, first_lag + 1, ..., as
            :func:`ipvae_snn.metrics.spike_triggered` returns.
        first_lag: lag of the first row in timesteps, negative before the spike.
        labels: N names.
        chance: shape (N,): the same quantities averaged over all timesteps, drawn dotted.
        quantity: what is averaged, with its unit.
        ax: where to draw.
    """
    lines = array(average, "average", "L", "N")
    count = lines.shape[1]
    names = [str(name) for name in (range(count) if labels is None else labels)]
    if len(names) != count:
        raise ValueError(f"labels must name {count} lines, got {len(names)}")
    levels = [None] * count if chance is None else array(chance, "chance", count)
    ax = axes(ax, (6, 3.5))
    lags = np.arange(len(lines)) + first_lag
    for index, (name, level) in enumerate(zip(names, levels, strict=True)):
        colour = PALETTE[index % len(PALETTE)]
        ax.plot(lags, lines[:, index], color=colour, lw=1.6, marker="o", ms=3, label=name)
        if level is not None:
            ax.axhline(level, color=colour, lw=0.8, ls=":")
    ax.axvline(0, color=GREY, lw=0.8)
    dotted = "" if chance is None else "; dotted: at all times"
    ax.set_xlabel(f"timesteps after the spike{dotted}")
    ax.set_ylabel(quantity)
    if count > 1 or labels is not None:
        legend_outside(ax)
    return ax


def tuning(angles: Any, responses: Mapping[str, Any] | Any, *, ax: Axes | None = None) -> Axes:
    """Responses against the direction of a stimulus, in degrees.

    Args:
        angles: shape (A,), degrees.
        responses: mean spikes per timestep, shape (A,), or a mapping of labels to them.
        ax: where to draw.
    """
    x = array(angles, "angles", "A")
    curves = responses if isinstance(responses, Mapping) else {"": responses}
    lines = {n: array(values, n or "responses", len(x)) for n, values in curves.items()}
    ax = axes(ax, (6, 3.5))
    for index, (label, line) in enumerate(lines.items()):
        colour = PALETTE[index % len(PALETTE)] if len(lines) > 1 else BLUE
        ax.plot(x, line, color=colour, lw=1.6, marker="o", ms=3.5, label=label)
    ax.set_xlabel("direction of motion (degrees)")
    ax.set_ylabel("spikes per timestep")
    ax.set_ylim(bottom=0)
    if len(lines) > 1:
        legend(ax)
    return ax
