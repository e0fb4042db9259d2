"""Competition: the Gram matrix, and the strongest competitors of one neuron."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from numpy.typing import NDArray

from ipvae_snn.plotting.frame import BLUE, ORANGE, array, axes, diverging, indices, text_colour


def gram(matrix: Any, *, order: Any = None, ax: Axes | None = None) -> Axes:
    """The lateral weights G as colours: orange inhibits, blue excites.

    Args:
        matrix: G, shape (K, K), in nats per spike, such as ``model.neuron.gram()``.
        order: indices (N,) of the neurons to draw, in this order. Default: all, by index.
        ax: where to draw.
    """
    weights = array(matrix, "gram", "K", "K")
    if order is not None:
        chosen = indices(order, len(weights), "order")
        weights = weights[np.ix_(chosen, chosen)]
    ax = axes(ax, (5, 4.2))
    colour = text_colour(ax)
    off = weights[~np.eye(len(weights), dtype=bool)]
    # The diagonal exceeds everything else, so the colour range follows the off-diagonal weights.
    peak = float(np.quantile(np.abs(off), 0.995)) if off.size else float(np.abs(weights).max())
    peak = peak or 1.0
    shown = ax.imshow(weights, cmap=diverging(ax), vmin=-peak, vmax=peak, interpolation="nearest")
    figure = ax.get_figure()
    assert figure is not None
    bar = figure.colorbar(shown, ax=ax, shrink=0.85, extend="both")
    bar.set_label("inhibition, or below zero excitation (nats per spike)", color=colour)
    bar.ax.tick_params(colors=colour)
    ax.set_xlabel("neuron that is inhibited")
    ax.set_ylabel("neuron that spikes")
    return ax


def competition(
    matrix: Any,
    neuron: int,
    *,
    weight: Any = None,
    shape: tuple[int, int] | None = None,
    neighbours: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """One neuron, surrounded by its strongest competitors; line widths show the lateral weights.

    Orange lines inhibit (the two features overlap), blue ones excite (they oppose each other).

    Args:
        matrix: G, shape (K, K).
        neuron: index of the neuron in the middle.
        weight: Φ, shape (M, K), to draw the features; default the indices of the neurons.
        shape: (H, W) of a feature, H · W = M.
        neighbours: how many competitors to draw.
        ax: where to draw.
    """
    weights = array(matrix, "gram", "K", "K")
    (centre,) = indices([neuron], len(weights), "neuron")
    if (weight is None) != (shape is None):
        raise ValueError("weight and shape come together: the features, and their (H, W)")
    if not 1 <= neighbours < len(weights):
        raise ValueError(f"neighbours must be from 1 to {len(weights) - 1}, got {neighbours}")
    features = None
    if shape is not None:
        phi = array(weight, "weight", shape[0] * shape[1], len(weights))
        features = phi.T.reshape(-1, *shape)
    row = weights[centre].copy()
    row[centre] = 0
    chosen = np.argsort(-np.abs(row))[:neighbours]
    chosen = chosen[np.argsort(-row[chosen])]  # strongest inhibition first, excitation last
    ax = axes(ax, (5, 5))
    peak = max(float(np.abs(row[chosen]).max()), 1e-12)
    angles = np.pi / 2 - 2 * np.pi * np.arange(neighbours) / neighbours
    size = min(0.2, 0.75 * np.pi / max(neighbours, 4))
    _draw_node(ax, centre, (0.0, 0.0), 1.25 * size, features)
    for other, x, y in zip(chosen.tolist(), np.cos(angles), np.sin(angles), strict=True):
        _draw_link(ax, row[other], row[other] / peak, (x, y))
        _draw_node(ax, other, (x, y), size, features)
    ax.set_xlim(-1.3, 1.3)
    ax.set_ylim(-1.3, 1.3)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_title(f"Neuron {centre}: nats per spike given to its competitors", color=text_colour(ax))
    return ax


def _draw_link(ax: Axes, weight: float, strength: float, end: tuple[float, float]) -> None:
    """A line from the centre, with its weight; ``strength`` is relative to the largest one."""
    (x, y), width, colour = end, 0.3 + 5 * abs(strength), ORANGE if strength > 0 else BLUE
    ax.plot([0, x], [0, y], color=colour, lw=width, solid_capstyle="butt", zorder=1)
    box = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.8}
    style: Any = {"fontsize": "x-small", "color": text_colour(ax), "ha": "center", "va": "center"}
    ax.text(0.56 * x, 0.56 * y, f"{weight:.2g}".replace("-", "−"), bbox=box, zorder=2, **style)


def _draw_node(
    ax: Axes, index: int, centre: tuple[float, float], half: float, features: NDArray[Any] | None
) -> None:
    """A neuron: its feature, or a circle with its index."""
    (x, y), colour = centre, text_colour(ax)
    if features is None:
        fill = ax.get_facecolor()
        ax.add_patch(Circle(centre, half * 0.8, facecolor=fill, edgecolor=colour, zorder=3))
        ax.text(x, y, str(index), ha="center", va="center", color=colour, zorder=4)
        return
    tile = features[index]
    peak = max(float(np.abs(tile).max()), 1e-12)
    extent = (x - half, x + half, y - half, y + half)
    ax.imshow(tile, cmap="gray", vmin=-peak, vmax=peak, extent=extent, zorder=3)
    if x == y == 0:  # the title names the neuron in the middle
        return
    above = y > 0.01  # the index stands on the side away from the line
    edge, side = (y + half + 0.02, "bottom") if above else (y - half - 0.02, "top")
    style: Any = {"ha": "center", "va": side, "color": colour, "fontsize": "x-small"}
    ax.text(x, edge, str(index), zorder=4, **style)
