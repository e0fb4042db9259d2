"""Competition: the Gram matrix, and the neighbours of a neuron in it."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle
from numpy.typing import NDArray

from ipvae_snn.plotting.frame import BLUE, ORANGE, array, axes, diverging, indices, ink


def gram(matrix: Any, *, order: Any = None, ax: Axes | None = None) -> Axes:
    """The lateral weights G as colours: orange inhibits, blue excites.

    Args:
        matrix: G, shape (K, K), in nats per spike, such as ``model.neuron.gram()``.
        order: which neurons, in which order: indices (N,). Default: all, as they are.
        ax: where to draw.
    """
    weights = _square(matrix)
    if order is not None:
        chosen = indices(order, len(weights), "order")
        weights = weights[np.ix_(chosen, chosen)]
    ax = axes(ax, (5, 4.2))
    off = weights[~np.eye(len(weights), dtype=bool)]
    # The diagonal is larger than all else: colours follow the rest.
    peak = float(np.quantile(np.abs(off), 0.995)) if off.size else float(np.abs(weights).max())
    peak = peak or 1.0
    shown = ax.imshow(weights, cmap=diverging(ax), vmin=-peak, vmax=peak, interpolation="nearest")
    figure = ax.get_figure()
    assert figure is not None
    bar = figure.colorbar(shown, ax=ax, shrink=0.85, extend="both")
    bar.set_label("inhibition, or below zero excitation (nats per spike)", color=ink(ax))
    bar.ax.tick_params(colors=ink(ax))
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
    """One neuron, and around it those it competes with most; lines as thick as their weight.

    Orange lines inhibit (the two features overlap), blue ones excite (they oppose each other).

    Args:
        matrix: G, shape (K, K).
        neuron: the one in the middle.
        weight: Φ, shape (M, K), to show the features; otherwise numbers.
        shape: (H, W) of a feature.
        neighbours: how many to draw.
        ax: where to draw.
    """
    weights = _square(matrix)
    (centre,) = indices([neuron], len(weights), "neuron")
    if (weight is None) != (shape is None):
        raise ValueError("weight and shape come together: the features, and their (H, W)")
    if not 1 <= neighbours < len(weights):
        raise ValueError(f"neighbours must be from 1 to {len(weights) - 1}, got {neighbours}")
    features = _features(weight, shape, len(weights))
    row = weights[centre].copy()
    row[centre] = 0
    chosen = np.argsort(-np.abs(row))[:neighbours]
    chosen = chosen[np.argsort(-row[chosen])]  # strongest inhibition first, excitation last
    ax = axes(ax, (5, 5))
    peak = max(float(np.abs(row[chosen]).max()), 1e-12)
    angles = np.pi / 2 - 2 * np.pi * np.arange(neighbours) / neighbours
    places = np.stack([np.cos(angles), np.sin(angles)], 1)
    size = min(0.2, 0.75 * np.pi / max(neighbours, 4))
    for other, place in zip(chosen, places, strict=True):
        strength = row[other] / peak
        ax.plot(
            [0, place[0]], [0, place[1]], color=ORANGE if strength > 0 else BLUE, zorder=1,
            lw=0.3 + 5 * abs(strength), solid_capstyle="butt",
        )  # fmt: skip
        number = f"{row[other]:.2g}".replace("-", "−")
        ax.text(
            0.56 * place[0], 0.56 * place[1], number, fontsize="x-small", color=ink(ax),
            ha="center", va="center", zorder=2,
            bbox={"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    for index, place in ((centre, np.zeros(2)), *zip(chosen, places, strict=True)):
        _node(ax, int(index), place, size * (1.25 if index == centre else 1), features)
    ax.set_xlim(-1.3, 1.3)
    ax.set_ylim(-1.3, 1.3)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_title(f"Neuron {centre}: nats per spike given to its competitors", color=ink(ax))
    return ax


def _node(ax: Axes, index: int, place: NDArray, half: float, features: NDArray | None) -> None:
    if features is None:
        ax.add_patch(
            Circle((place[0], place[1]), half * 0.8, facecolor=ax.get_facecolor(),
                   edgecolor=ink(ax), zorder=3)
        )  # fmt: skip
        ax.text(place[0], place[1], str(index), ha="center", va="center", color=ink(ax), zorder=4)
        return
    tile = features[index]
    top = max(float(np.abs(tile).max()), 1e-12)
    left, right, bottom, up = (place[0] - half, place[0] + half, place[1] - half, place[1] + half)
    ax.imshow(tile, cmap="gray", vmin=-top, vmax=top, extent=(left, right, bottom, up), zorder=3)
    if not place.any():  # the title says who is in the middle
        return
    above = place[1] > 0.01  # on the side that no line comes from
    ax.text(
        place[0], up + 0.02 if above else bottom - 0.02, str(index), ha="center", color=ink(ax),
        va="bottom" if above else "top", fontsize="x-small", zorder=4,
    )  # fmt: skip


def _features(weight: Any, shape: tuple[int, int] | None, count: int) -> NDArray | None:
    if weight is None or shape is None:
        return None
    phi = array(weight, "weight", "M", "K")
    if phi.shape != (shape[0] * shape[1], count):
        raise ValueError(
            f"weight must have shape ({shape[0] * shape[1]}, {count}), got {phi.shape}"
        )
    return phi.T.reshape(-1, *shape)


def _square(matrix: Any) -> NDArray:
    weights = array(matrix, "gram", "K", "K")
    if weights.shape[0] != weights.shape[1]:
        raise ValueError(f"gram must have shape (K, K), got {weights.shape}")
    return weights
