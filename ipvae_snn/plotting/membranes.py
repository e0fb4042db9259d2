"""Membranes: traces, and the currents that made them."""

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
    axes,
    beside,
    distinct,
    indices,
    ink,
)

PART_COLOURS = {
    "drive": BLUE, "lateral": ORANGE, "self": PINK, "tonic": YELLOW, "leak": GREEN, "clamp": GREY,
}  # fmt: skip


def membranes(
    mem: Any, *, neurons: Sequence[int] | None = None, ax: Axes | None = None, first_step: int = 1
) -> Axes:
    """Membrane traces of one trial; the right-hand scale gives the rates.

    Args:
        mem: membranes in nats, shape (T, K).
        neurons: which to draw; default the six that reach highest.
        first_step: number of the first timestep.
        ax: where to draw.
    """
    traces = array(mem, "mem", "T", "K")
    chosen = np.argsort(-traces.max(0))[:6] if neurons is None else neurons
    shown = indices(chosen, traces.shape[1], "neurons")
    ax = axes(ax, (8, 3.5))
    time = np.arange(len(traces)) + first_step
    for index, colour in zip(shown, distinct(len(shown), ax), strict=True):
        ax.plot(time, traces[:, index], color=colour, lw=1.2, label=str(index))
    ax.set_xlabel("timestep")
    ax.set_ylabel("membrane (nats)")
    ax.set_xlim(first_step, first_step + max(len(traces) - 1, 1))
    _rate_scale(ax)
    beside(ax, 1.14, title="neuron")
    return ax


def _rate_scale(ax: Axes) -> None:
    rates = ax.secondary_yaxis("right")
    rates.yaxis.set_major_formatter(FuncFormatter(lambda u, _: f"{np.exp(u):.2g}"))
    rates.set_ylabel("rate (spikes per timestep)", color=ink(ax))
    rates.tick_params(colors=ink(ax))


def currents(
    parts: Mapping[str, Any],
    *,
    smooth: int = 1,
    ax: Axes | None = None,
    first_step: int = 1,
) -> Axes:
    """The parts of one neuron's membrane step, stacked up from zero and down from it.

    What pushes the membrane up stands above zero and what holds it down below; the line is their
    sum, the step the membrane made.

    Args:
        parts: name to nats per timestep, shape (T,) each: ``"drive"``, ``"lateral"``, ``"self"``,
            ``"tonic"``, ``"leak"``, ``"clamp"``, as :func:`ipvae_snn.currents.parts` returns them
            for all neurons. Parts that are zero throughout are left out.
        smooth: mean over so many timesteps, for long runs.
        first_step: number of the first timestep.
        ax: where to draw.
    """
    if not isinstance(parts, Mapping) or not parts:
        raise ValueError("parts must map at least one name to its values")
    unknown = set(parts) - set(PART_COLOURS)
    if unknown:
        raise ValueError(f"parts may be {tuple(PART_COLOURS)}, got {sorted(unknown)}")
    values = {name: array(part, name, "T") for name, part in parts.items()}
    length = len(next(iter(values.values())))
    if {len(v) for v in values.values()} != {length}:
        raise ValueError("all parts must have the same number of timesteps")
    if not 1 <= smooth <= length:
        raise ValueError(f"smooth must be from 1 to the {length} timesteps, got {smooth}")
    kept = length // smooth * smooth
    values = {n: v[:kept].reshape(-1, smooth).mean(1) for n, v in values.items() if v.any()}
    ax = axes(ax, (8, 3.5))
    time = first_step + (smooth - 1) / 2 + smooth * np.arange(kept // smooth)
    above, below = np.zeros(len(time)), np.zeros(len(time))
    for name, part in values.items():
        up, down = part.clip(min=0), part.clip(max=0)
        bottom = np.where(part > 0, above, below)
        ax.bar(time, part, bottom=bottom, width=smooth, color=PART_COLOURS[name], lw=0, label=name)
        above, below = above + up, below + down
    step = np.sum(list(values.values()), axis=0) if values else np.zeros(len(time))
    ax.plot(time, step, color=ink(ax), lw=1.2, label="their sum")
    ax.axhline(0, color=GREY, lw=0.6)
    ax.set_xlim(time[0] - smooth / 2, time[-1] + smooth / 2)
    ax.set_xlabel("timestep" + (f" (means of {smooth})" if smooth > 1 else ""))
    ax.set_ylabel("step of the membrane (nats)")
    beside(ax)
    return ax
