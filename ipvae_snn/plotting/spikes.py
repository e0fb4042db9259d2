"""Spikes: rasters of counts, and what goes on around a spike."""

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
    beside,
    counts,
    indices,
    ink,
    legend,
    magnitudes,
)

DOTS = ("both", "size", "colour")


def raster(
    spk: Any,
    *,
    order: Any = None,
    dots: str = "both",
    ax: Axes | None = None,
    first_step: int = 1,
) -> Axes:
    """Spike counts of one trial: a dot for each neuron and timestep that spiked.

    Args:
        spk: counts, shape (T, K).
        order: which neurons, from the bottom up: indices (N,), such as
            :func:`ipvae_snn.metrics.by_use` or :func:`~ipvae_snn.metrics.by_selectivity` return.
            Default: all, as they are.
        dots: how a dot shows its count: by its ``"size"``, its ``"colour"``, or ``"both"``.
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
    """Spike counts of many trials: a row for each trial, a block of rows for each neuron.

    Args:
        spk: counts, shape (T, N, K), as :meth:`ipvae_snn.IPVAE.run` records N trials.
        neurons: which, from the bottom up; default the four with most spikes.
        dots, first_step, ax: as in :func:`raster`.
    """
    z = counts(spk, "T", "N", "K")
    chosen = np.argsort(-z.sum((0, 1)))[:4] if neurons is None else neurons
    shown = indices(chosen, z.shape[2], "neurons")
    count = z.shape[1]
    ax = _draw_dots(
        np.concatenate([z[:, :, k] for k in shown], axis=1), dots, axes(ax, (8, 4)), first_step
    )
    for block in range(1, len(shown)):
        ax.axhline(block * count - 0.5, color=GREY, lw=0.6)
    ax.set_yticks(
        [(block + 0.5) * count - 0.5 for block in range(len(shown))], [str(k) for k in shown]
    )
    ax.tick_params(axis="y", length=0)
    ax.set_ylabel(f"neuron, {count} trials each")
    return ax


def _draw_dots(z: NDArray, dots: str, ax: Axes, first_step: int) -> Axes:
    if dots not in DOTS:
        raise ValueError(f"dots must be one of {DOTS}, got {dots!r}")
    time, row = np.nonzero(z)
    values = z[time, row]
    top = int(np.ceil(values.max())) if values.size else 1
    shades, by_size = LogNorm(vmin=1, vmax=max(top, 2)), dots != "colour"
    cell = _cell(ax, z.shape)
    drawn = ax.scatter(
        time + first_step, row, c=values, cmap=magnitudes(ax), norm=shades, linewidths=0,
        s=_dot_size(values, top, cell, by_size),
    )  # fmt: skip
    if dots == "size":  # the count stays in the array, the colour is one
        drawn.set_cmap(ListedColormap([ink(ax)]))
    ax.set_xlim(first_step - 1, first_step + len(z))
    ax.set_ylim(-1, z.shape[1])
    ax.set_xlabel("timestep")
    _count_legend(ax, drawn, top, cell, by_size)
    return ax


def _cell(ax: Axes, shape: tuple[int, ...]) -> float:
    """The room of one dot in points: the shorter side of its rectangle, 2.5 to 7."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    place = ax.get_position()
    width, height = 72 * figure.get_size_inches() * (place.width, place.height)
    return float(np.clip(min(width / (shape[0] + 1), height / (shape[1] + 1)), 2.5, 7.0))


def _dot_size(count: NDArray | int, top: int, cell: float, by_size: bool) -> NDArray:
    """Area in points²; by size, growing evenly from a single spike to the largest count."""
    least, most = (0.6 * cell) ** 2, (2.0 * cell) ** 2
    share = (np.maximum(count, 1.0) - 1) / max(top - 1, 6)
    return least + (most - least) * (share if by_size else np.full_like(share, 0.2))


def _count_legend(ax: Axes, dots: PathCollection, top: int, cell: float, by_size: bool) -> None:
    shown = sorted({1, 2, max(1, round(top / 2)), top} & set(range(1, top + 1)))
    handles = []
    for n in shown:
        colour = dots.to_rgba(np.array(n))
        size = _dot_size(n, top, cell, by_size)
        handles.append(ax.scatter([], [], s=size, color=colour, label=str(n)))
    beside(ax, handles=handles, title="spikes")


def spike_triggered(
    average: Any,
    *,
    first_lag: int,
    labels: Any = None,
    chance: Any = None,
    quantity: str = "membrane (nats)",
    ax: Axes | None = None,
) -> Axes:
    """Averages around the spikes of a neuron, against the time from the spike.

    Args:
        average: shape (L, N): N quantities at lags first_lag, first_lag + 1, ..., as
            :func:`ipvae_snn.metrics.spike_triggered` returns.
        first_lag: timesteps from the spike to the first row; negative before it.
        labels: N names.
        chance: shape (N,): the same quantities at all times, drawn dotted.
        quantity: what is averaged, with its unit.
        ax: where to draw.
    """
    lines = array(average, "average", "L", "N")
    names = [str(n) for n in (range(lines.shape[1]) if labels is None else labels)]
    if len(names) != lines.shape[1]:
        raise ValueError(f"labels must name {lines.shape[1]} lines, got {len(names)}")
    ax = axes(ax, (6, 3.5))
    lags = np.arange(len(lines)) + first_lag
    level = None if chance is None else array(chance, "chance", "N")
    if level is not None and len(level) != lines.shape[1]:
        raise ValueError(f"chance must have shape ({lines.shape[1]},), got {level.shape}")
    for index, name in enumerate(names):
        colour = PALETTE[index % len(PALETTE)]
        ax.plot(lags, lines[:, index], color=colour, lw=1.6, marker="o", ms=3, label=name)
        if level is not None:
            ax.axhline(level[index], color=colour, lw=0.8, ls=":")
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set_xlabel("timesteps after the spike" + ("; dotted: at all times" if chance is not None
                                                 else ""))  # fmt: skip
    ax.set_ylabel(quantity)
    if len(names) > 1 or labels is not None:
        beside(ax)
    return ax


def tuning(angles: Any, responses: Mapping[str, Any] | Any, *, ax: Axes | None = None) -> Axes:
    """Responses against the direction of a stimulus, in degrees.

    Args:
        angles: shape (A,), degrees.
        responses: shape (A,), or label to (A,): mean spikes per timestep.
        ax: where to draw.
    """
    at = array(angles, "angles", "A")
    curves = responses if isinstance(responses, Mapping) else {"": responses}
    ax = axes(ax, (6, 3.5))
    for index, (label, values) in enumerate(curves.items()):
        line = array(values, label or "responses", "A")
        if len(line) != len(at):
            raise ValueError(f"responses must have shape ({len(at)},), got {line.shape}")
        colour = PALETTE[index % len(PALETTE)] if len(curves) > 1 else BLUE
        ax.plot(at, line, color=colour, lw=1.6, marker="o", ms=3.5, label=label)
    ax.set_xlabel("direction of motion (degrees)")
    ax.set_ylabel("spikes per timestep")
    ax.set_ylim(bottom=0)
    if len(curves) > 1:
        legend(ax)
    return ax
