"""Membranes: traces, and the currents that moved them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ipvae_snn.plotting.frame import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    YELLOW,
    array,
    arrays,
    axes,
    indices,
    legend_outside,
    line_colours,
    text_colour,
)

PART_COLOURS = {
    "drive": BLUE,
    "lateral": ORANGE,
    "self": PINK,
    "tonic": YELLOW,
    "leak": GREEN,
    "clamp": GREY,
}


def membranes(
    mem: Any, *, neurons: Sequence[int] | None = None, ax: Axes | None = None, first_step: int = 1
) -> Axes:
    """Membrane traces of one trial; the axis on the right gives the rates.

    Args:
        mem: membranes in nats, shape (T, K).
        neurons: indices of the neurons to draw; default the six with the highest peaks.
        first_step: number of the first timestep.
        ax: where to draw.
    """
    traces = array(mem, "mem", "T", "K")
    chosen = np.argsort(-traces.max(0))[:6] if neurons is None else neurons
    shown = indices(chosen, traces.shape[1], "neurons")
    ax = axes(ax, (8, 3.5))
    time = np.arange(len(traces)) + first_step
    for index, colour in zip(shown, line_colours(len(shown), ax), strict=True):
        ax.plot(time, traces[:, index], color=colour, lw=1.2, label=str(index))
    ax.set_xlabel("timestep")
    ax.set_ylabel("membrane (nats)")
    ax.set_xlim(first_step, first_step + max(len(traces) - 1, 1))
    rates = ax.secondary_yaxis("right")
    rates.yaxis.set_major_formatter(FuncFormatter(lambda u, _: f"{np.exp(u):.2g}"))
    rates.set_ylabel("rate (spikes per timestep)", color=text_colour(ax))
    rates.tick_params(colors=text_colour(ax))
    legend_outside(ax, 1.14, title="neuron")
    return ax


def currents(
    parts: Mapping[str, Any], *, smooth: int = 1, ax: Axes | None = None, first_step: int = 1
) -> Axes:
    """The currents into one membrane, stacked: positive ones upwards, negative ones downwards.

    The line is their sum, by which the membrane changed in that timestep.

    Args:
        parts: name to nats per timestep, shape (T,) each: ``"drive"``, ``"lateral"``, ``"self"``,
            ``"tonic"``, ``"leak"``, ``"clamp"``, as :func:`ipvae_snn.currents.parts` returns them
            for all neurons. Parts that are zero throughout are left out.
        smooth: timesteps to average over, for long runs.
        first_step: number of the first timestep.
        ax: where to draw.
    """
    series = arrays(parts, "parts", "T")
    unknown = set(series) - set(PART_COLOURS)
    if unknown:
        raise ValueError(f"parts may be {tuple(PART_COLOURS)}, got {sorted(unknown)}")
    length = len(next(iter(series.values())))
    if {len(v) for v in series.values()} != {length}:
        raise ValueError("all parts must have the same number of timesteps")
    if not 1 <= smooth <= length:
        raise ValueError(f"smooth must be from 1 to the {length} timesteps, got {smooth}")
    used = length // smooth * smooth
    means = {n: v[:used].reshape(-1, smooth).mean(1) for n, v in series.items() if v.any()}
    ax = axes(ax, (8, 3.5))
    time = first_step + (smooth - 1) / 2 + smooth * np.arange(used // smooth)
    above, below, total = np.zeros((3, len(time)))
    for name, part in means.items():
        bottom = np.where(part > 0, above, below)
        ax.bar(time, part, bottom=bottom, width=smooth, color=PART_COLOURS[name], lw=0, label=name)
        above, below, total = above + part.clip(min=0), below + part.clip(max=0), total + part
    ax.plot(time, total, color=text_colour(ax), lw=1.2, label="their sum")
    ax.axhline(0, color=GREY, lw=0.6)
    ax.set_xlim(time[0] - smooth / 2, time[-1] + smooth / 2)
    ax.set_xlabel("timestep" + (f" (means of {smooth})" if smooth > 1 else ""))
    ax.set_ylabel("change of the membrane (nats)")
    legend_outside(ax)
    return ax
