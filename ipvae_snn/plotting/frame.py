"""What every picture shares: checked arrays, axes, colours that suit light and dark ground."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#808080"
SKY, PINK, YELLOW = "#56B4E9", "#CC79A7", "#E69F00"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, YELLOW)
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""
DARK_GROUND = "#111418"


def canvas(size: tuple[float, float] = (8.0, 4.0), *, dark: bool = False) -> Axes:
    """Axes of a new figure, light or dark, that pyplot does not know of.

    Every function of :mod:`ipvae_snn.plotting` draws what can be read on the ground it is given.

    Args:
        size: width and height in inches.
        dark: light ink on dark ground.

    >>> ax = canvas(dark=True)
    >>> ax.figure.savefig  # doctest: +ELLIPSIS
    <bound method Figure.savefig ...
    """
    ax = Figure(figsize=size, layout="constrained").subplots()
    if dark:
        darken(ax)
    return ax


def darken(ax: Axes) -> Axes:
    """Give Axes, and the figure around them, dark ground and light ink."""
    figure = ax.get_figure()
    if figure is not None:
        figure.set_facecolor(DARK_GROUND)
    ax.set_facecolor(DARK_GROUND)
    colour = ink(ax)
    ax.tick_params(colors=colour, which="both")
    for spine in ax.spines.values():
        spine.set_edgecolor(colour)
    for text in (ax.xaxis.label, ax.yaxis.label, ax.title):
        text.set_color(colour)
    return ax


def is_dark(ax: Axes) -> bool:
    """Whether the ground of these Axes is nearer to black than to white."""
    figure = ax.get_figure()
    red, green, blue, opaque = to_rgba(ax.get_facecolor())
    if not opaque and figure is not None:
        red, green, blue, _ = to_rgba(figure.get_facecolor())
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5


def ink(ax: Axes) -> str:
    """The colour of text on these Axes."""
    return "#D8DEE4" if is_dark(ax) else "#202428"


def distinct(count: int, ax: Axes) -> list[Any]:
    """So many colours for lines: the palette, or where it is too short, shades of viridis."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    low, high = (0.25, 1.0) if is_dark(ax) else (0.0, 0.9)
    return list(plt.get_cmap("viridis")(np.linspace(low, high, count)))


def diverging(ax: Axes) -> Colormap:
    """From blue through the ground of the Axes to orange."""
    ground = DARK_GROUND if is_dark(ax) else "#FFFFFF"
    ends = ("#7CC7F2", "#FF9D57") if is_dark(ax) else ("#003F66", "#7F3300")
    colours = [ends[0], BLUE, ground, ORANGE, ends[1]]
    return LinearSegmentedColormap.from_list("diverging", colours)


def magnitudes(ax: Axes) -> Colormap:
    """Colours from little to much, the little ones still seen on this ground."""
    colours = plt.get_cmap("viridis")(np.linspace(0.25, 1.0, 256))
    if not is_dark(ax):
        colours = plt.get_cmap("viridis_r")(np.linspace(0.2, 1.0, 256))
    return LinearSegmentedColormap.from_list("magnitudes", colours)


def legend(ax: Axes, **options: Any) -> None:
    """A legend without a frame, in the ink of the Axes."""
    drawn = ax.legend(**{"frameon": False, "labelcolor": ink(ax), **options})
    drawn.get_title().set_color(ink(ax))


def beside(ax: Axes, offset: float = 1.0, **options: Any) -> None:
    """A legend to the right of the Axes."""
    legend(ax, loc="center left", bbox_to_anchor=(offset, 0.5), **options)


def array(tensor: Any, name: str, *shape: str) -> NDArray:
    """A finite numpy array with as many dimensions as ``shape`` names, or an error that says so."""
    values = tensor.detach().cpu().float().numpy() if isinstance(tensor, Tensor) else tensor
    values = np.asarray(values, dtype=float)
    if values.ndim != len(shape) or 0 in values.shape:
        raise ValueError(
            f"{name} must have shape ({', '.join(shape)}) and not be empty, got {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite, it holds NaN or infinite values")
    return values


def counts(spk: Any, *shape: str) -> NDArray:
    """Like :func:`array`, and refuses negative counts."""
    values = array(spk, "spk", *shape)
    if values.min() < 0:
        raise ValueError(f"spk must hold counts, got {values.min():g}")
    return values


def indices(values: Any, count: int, name: str) -> list[int]:
    """Whole numbers from 0 to ``count`` − 1, or an error that says so."""
    listed = values.detach().cpu() if isinstance(values, Tensor) else values
    chosen = np.asarray(listed, dtype=int).reshape(-1).tolist()
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise ValueError(f"{name} must hold numbers from 0 to {count - 1}, got {chosen}")
    return chosen


def axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The Axes given, or those of a new pyplot figure."""
    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be a Matplotlib Axes, got {type(ax).__name__}")
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax
