"""Pictures: tensors and an optional Axes in, Axes out.

Nothing here changes Matplotlib's global settings. Without ``ax`` a new pyplot figure is made.
Colours are the Okabe–Ito palette and viridis, which colour-blind readers can tell apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray
from torch import Tensor

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#808080"


def _array(tensor: Any, name: str, *shape: str) -> NDArray:
    """A finite numpy array with as many dimensions as ``shape`` names, or an error that says so."""
    array = tensor.detach().cpu().float().numpy() if isinstance(tensor, Tensor) else tensor
    array = np.asarray(array, dtype=float)
    if array.ndim != len(shape) or 0 in array.shape:
        raise ValueError(
            f"{name} must have shape ({', '.join(shape)}) and not be empty, got {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, it holds NaN or infinite values")
    return array


def _indices(values: Any, count: int, name: str) -> list[int]:
    indices = np.asarray(values, dtype=int).reshape(-1).tolist()
    if not indices or min(indices) < 0 or max(indices) >= count:
        raise ValueError(f"{name} must hold numbers from 0 to {count - 1}, got {indices}")
    return indices


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be a Matplotlib Axes, got {type(ax).__name__}")
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def mosaic(
    images: Any, *, columns: int | None = None, ax: Axes | None = None, scale: str = "each"
) -> Axes:
    """Small grey images side by side, zero in mid grey.

    Args:
        images: shape (N, H, W).
        columns: images per row; default about as many as rows.
        scale: ``"each"``: every image by its own largest magnitude; ``"all"``: by the largest of
            all; ``"unit"``: from 0, black, to 1, white.
        ax: where to draw.
    """
    tiles = _array(images, "images", "N", "H", "W")
    if scale not in ("each", "all", "unit"):
        raise ValueError(f"scale must be 'each', 'all' or 'unit', got {scale!r}")
    count, height, width = tiles.shape
    columns = int(np.ceil(np.sqrt(count))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    rows = -(-count // columns)
    if scale != "unit":
        peak = np.abs(tiles).max((1, 2), keepdims=True)
        tiles = tiles / np.maximum(peak if scale == "each" else peak.max(), 1e-12)
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), np.nan)
    for index, tile in enumerate(tiles):
        top, left = (
            1 + n * (s + 1) for n, s in zip(divmod(index, columns), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = tile
    ax = _axes(ax, (8, 8 * sheet.shape[0] / sheet.shape[1]))
    low = 0 if scale == "unit" else -1
    ax.imshow(sheet, cmap="gray", vmin=low, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def dictionary(
    weight: Any,
    shape: tuple[int, int],
    *,
    order: Any = None,
    columns: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The decoder's features, one tile a neuron, each scaled by its own largest magnitude.

    Args:
        weight: Φ, shape (M, K), such as ``model.decoder.weight``.
        shape: (H, W) of a feature, H · W = M.
        order: which neurons, in which order: indices (N,). Default: all, strongest norm first.
        columns: tiles per row.
        ax: where to draw.
    """
    phi = _array(weight, "weight", "M", "K")
    if shape[0] * shape[1] != phi.shape[0]:
        raise ValueError(f"shape must hold the {phi.shape[0]} pixels of a feature, got {shape}")
    if order is None:
        order = np.argsort(-np.square(phi).sum(0))
    chosen = phi.T[_indices(order, phi.shape[1], "order")]
    ax = mosaic(chosen.reshape(-1, *shape), columns=columns, ax=ax)
    ax.set_title(f"Features of {len(chosen)} neurons")
    return ax


def raster(spk: Any, *, ax: Axes | None = None, first_step: int = 1) -> Axes:
    """Spike counts of one trial: a dot per neuron and timestep that spiked, sized by its count.

    Args:
        spk: counts, shape (T, K).
        first_step: number of the first timestep.
        ax: where to draw.
    """
    counts = _array(spk, "spk", "T", "K")
    if counts.min() < 0:
        raise ValueError(f"spk must hold counts, got {counts.min():g}")
    ax = _axes(ax, (8, 4))
    time, neuron = np.nonzero(counts)
    values = counts[time, neuron]
    top = int(values.max()) if values.size else 1
    # From within the colour map: its lightest yellow would vanish on white paper.
    shades = LogNorm(vmin=0.4, vmax=max(top, 2))
    dots = ax.scatter(
        time + first_step, neuron, s=_dot_size(values, top), c=values, cmap="viridis_r",
        norm=shades, linewidths=0,
    )  # fmt: skip
    ax.set_xlim(first_step - 1, first_step + len(counts))
    ax.set_ylim(-1, counts.shape[1])
    ax.set_xlabel("timestep")
    ax.set_ylabel("neuron")
    _count_legend(ax, dots, top)
    return ax


def _dot_size(count: NDArray | int, top: int) -> NDArray:
    """Area in points², growing evenly from a single spike to the largest count."""
    return 4 + 56 * (np.asarray(count, dtype=float) - 1) / max(top - 1, 6)


def _count_legend(ax: Axes, dots: PathCollection, top: int) -> None:
    shown = sorted({1, 2, max(1, round(top / 2)), top} & set(range(1, top + 1)))
    handles = []
    for n in shown:
        colour = dots.to_rgba(np.array(n))
        handles.append(ax.scatter([], [], s=_dot_size(n, top), color=colour, label=str(n)))
    ax.legend(
        handles=handles, title="spikes", loc="center left", bbox_to_anchor=(1.0, 0.5),
        frameon=False,
    )  # fmt: skip


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
    traces = _array(mem, "mem", "T", "K")
    chosen = np.argsort(-traces.max(0))[:6] if neurons is None else neurons
    shown = _indices(chosen, traces.shape[1], "neurons")
    ax = _axes(ax, (8, 3.5))
    time = np.arange(len(traces)) + first_step
    palette = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(shown)))
    for index, colour in zip(shown, palette, strict=True):
        ax.plot(time, traces[:, index], color=colour, lw=1.2, label=str(index))
    ax.set_xlabel("timestep")
    ax.set_ylabel("membrane (nats)")
    ax.set_xlim(first_step, first_step + max(len(traces) - 1, 1))
    rates = ax.secondary_yaxis("right")
    rates.yaxis.set_major_formatter(FuncFormatter(lambda u, _: f"{np.exp(u):.2g}"))
    rates.set_ylabel("rate (spikes per timestep)")
    ax.legend(title="neuron", loc="center left", bbox_to_anchor=(1.14, 0.5), frameon=False)
    return ax


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
    ax = _axes(ax, (6.5, 4))
    styles = ((BLUE, "-"), (ORANGE, "-"), (GREEN, "--"), (GREY, ":"))
    for index, (label, values) in enumerate(curves.items()):
        line = _array(values, label, "T")
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
    ax.legend(frameon=False, loc="lower right")
    return ax


def reconstructions(
    x: Any,
    x_hat: Mapping[str, Any],
    shape: tuple[int, int],
    *,
    scale: str = "each",
    ax: Axes | None = None,
) -> Axes:
    """Inputs in the first column, their reconstructions in the next.

    Args:
        x: inputs, shape (N, M).
        x_hat: column title to reconstructions (N, M), such as ``{"step 16": ...}``.
        shape: (H, W) of a sample.
        scale: see :func:`mosaic`; ``"unit"`` for images in [0, 1].
        ax: where to draw.
    """
    if "input" in x_hat:
        raise ValueError('x_hat must not have a column "input": that is x')
    columns = {"input": x, **x_hat}
    arrays = [_array(values, name, "N", "M") for name, values in columns.items()]
    if len({a.shape for a in arrays}) > 1 or arrays[0].shape[1] != shape[0] * shape[1]:
        raise ValueError(
            f"x and every x_hat must have shape (N, {shape[0] * shape[1]}), got "
            f"{[a.shape for a in arrays]}"
        )
    if scale == "each":  # a row by one scale, so that strength can be compared
        peak = np.abs(arrays[0]).max(1, keepdims=True)
        arrays, scale = [np.clip(a / np.maximum(peak, 1e-12), -1, 1) for a in arrays], "all"
    tiles = np.stack(arrays, axis=1).reshape(-1, *shape)
    rows = len(arrays[0])
    if ax is None:
        ax = _axes(None, (1.0 * len(arrays), 1.0 * rows * shape[0] / shape[1] + 0.4))
    ax = mosaic(np.clip(tiles, 0, 1) if scale == "unit" else tiles, columns=len(arrays), ax=ax,
                scale=scale)  # fmt: skip
    for index, name in enumerate(columns):
        ax.text(
            1 + index * (shape[1] + 1) + shape[1] / 2, -1, name, ha="center", va="bottom",
            fontsize="small",
        )  # fmt: skip
    return ax


def training(history: Sequence[Mapping[str, float]], *, ax: Axes | None = None) -> Axes:
    """R² and portion of zeros of the batch at the last timestep, against iterations.

    Args:
        history: what ``fit`` returns.
        ax: where to draw.
    """
    if not history or any({"iteration", "r2", "zeros"} - set(row) for row in history):
        raise ValueError("history must hold at least one row, each with iteration, r2 and zeros")
    ax = _axes(ax, (6.5, 4))
    iterations = [row["iteration"] for row in history]
    for name, label, colour in (("r2", "R²", BLUE), ("zeros", "portion of zeros", ORANGE)):
        ax.plot(iterations, [row[name] for row in history], color=colour, lw=1.5, label=label)
    ax.set_ylim(0, 1)
    ax.set_xlabel("iteration")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, loc="lower right")
    return ax
