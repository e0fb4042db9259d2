"""What all figures share: array checks, Axes, legends, colours for light and dark backgrounds."""

from collections.abc import Mapping
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
"""The palette of Okabe and Ito, safe for colour-blind readers."""
DARK_BACKGROUND = "#111418"


def canvas(size: tuple[float, float] = (8.0, 4.0), *, dark: bool = False) -> Axes:
    """Axes of a new figure outside pyplot, light or dark.

    Args:
        size: width and height in inches.
        dark: light text on a dark background.

    >>> ax = canvas(dark=True)
    >>> ax.figure.savefig  # doctest: +ELLIPSIS
    <bound method Figure.savefig ...
    """
    ax = Figure(figsize=size, layout="constrained").subplots()
    return darken(ax) if dark else ax


def darken(ax: Axes) -> Axes:
    """Give Axes and their figure a dark background and light text."""
    figure = ax.get_figure()
    if figure is not None:
        figure.set_facecolor(DARK_BACKGROUND)
    ax.set_facecolor(DARK_BACKGROUND)
    colour = text_colour(ax)
    ax.tick_params(colors=colour, which="both")
    for spine in ax.spines.values():
        spine.set_edgecolor(colour)
    for text in (ax.xaxis.label, ax.yaxis.label, ax.title):
        text.set_color(colour)
    return ax


def is_dark(ax: Axes) -> bool:
    """Whether the background of these Axes is nearer to black than to white."""
    figure = ax.get_figure()
    red, green, blue, alpha = to_rgba(ax.get_facecolor())
    if not alpha and figure is not None:
        red, green, blue, _ = to_rgba(figure.get_facecolor())
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5


def text_colour(ax: Axes) -> str:
    """A colour of text that is legible on these Axes."""
    return "#D8DEE4" if is_dark(ax) else "#202428"


def line_colours(count: int, ax: Axes) -> list[Any]:
    """``count`` different colours: the palette if it suffices, otherwise shades of viridis."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    low, high = (0.25, 1.0) if is_dark(ax) else (0.0, 0.9)
    return list(plt.get_cmap("viridis")(np.linspace(low, high, count)))


def diverging(ax: Axes) -> Colormap:
    """A diverging colormap: from blue through the background of the Axes to orange."""
    dark = is_dark(ax)
    low, high = ("#7CC7F2", "#FF9D57") if dark else ("#003F66", "#7F3300")
    colours = [low, BLUE, DARK_BACKGROUND if dark else "#FFFFFF", ORANGE, high]
    return LinearSegmentedColormap.from_list("diverging", colours)


def sequential(ax: Axes) -> Colormap:
    """A sequential colormap whose low end is still visible on the background of the Axes."""
    name, low = ("viridis", 0.25) if is_dark(ax) else ("viridis_r", 0.2)
    colours = plt.get_cmap(name)(np.linspace(low, 1.0, 256))
    return LinearSegmentedColormap.from_list("magnitudes", colours)


def legend(ax: Axes, **options: Any) -> None:
    """A legend without a frame, in the text colour of the Axes."""
    drawn = ax.legend(**{"frameon": False, "labelcolor": text_colour(ax), **options})
    drawn.get_title().set_color(text_colour(ax))


def legend_outside(ax: Axes, offset: float = 1.0, **options: Any) -> None:
    """A legend to the right of the Axes, ``offset`` of their width from their left edge."""
    legend(ax, loc="center left", bbox_to_anchor=(offset, 0.5), **options)


def array(values: Any, name: str, *shape: str | int) -> NDArray[Any]:
    """A finite, non-empty NumPy array of the given shape.

    Args:
        values: a tensor, or what ``np.asarray`` takes.
        name: of the argument, for the message.
        shape: a size for each dimension, or a letter for any size; equal letters, equal sizes.

    Raises:
        ValueError: another shape, nothing in it, NaN or infinity.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().float().numpy()
    checked = np.asarray(values, dtype=float)
    sizes = dict(zip(shape, checked.shape, strict=False))
    expected = tuple(size if isinstance(size, int) else sizes.get(size) for size in shape)
    if checked.shape != expected or not checked.size:
        raise ValueError(
            f"{name} must have shape {_shown(shape)} and not be empty, got {checked.shape}"
        )
    if not np.isfinite(checked).all():
        raise ValueError(f"{name} must be finite, it holds NaN or infinite values")
    return checked


def arrays(values: Any, name: str, *shape: str | int) -> dict[str, NDArray[Any]]:
    """:func:`array` of every value of a mapping, which must not be empty."""
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"{name} must map at least one label to values of shape {_shown(shape)}")
    return {label: array(value, label, *shape) for label, value in values.items()}


def counts(spk: Any, *shape: str) -> NDArray[Any]:
    """:func:`array` of spike counts, which must not be negative."""
    values = array(spk, "spk", *shape)
    if values.min() < 0:
        raise ValueError(f"spk must hold counts, got {values.min():g}")
    return values


def indices(values: Any, count: int, name: str) -> list[int]:
    """Integers from 0 to ``count`` − 1, at least one; ``ValueError`` otherwise."""
    listed = values.detach().cpu() if isinstance(values, Tensor) else values
    chosen: list[int] = np.asarray(listed, dtype=int).reshape(-1).tolist()
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise ValueError(f"{name} must hold numbers from 0 to {count - 1}, got {chosen}")
    return chosen


def axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The Axes passed in, or those of a new pyplot figure of this size in inches."""
    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be a Matplotlib Axes, got {type(ax).__name__}")
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _shown(shape: tuple[str | int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
