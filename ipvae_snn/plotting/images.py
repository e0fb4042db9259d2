"""Images: mosaics, the features of a decoder, reconstructions."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ipvae_snn.plotting.frame import array, axes, indices, text_colour


def mosaic(
    images: Any, *, columns: int | None = None, ax: Axes | None = None, scale: str = "each"
) -> Axes:
    """A grid of small images; zero is mid grey, except with ``scale="unit"``.

    Args:
        images: shape (N, H, W), or in colour (N, 3, H, W).
        columns: images per row; default about as many as rows.
        scale: what white stands for: ``"each"``: the largest magnitude of that image; ``"all"``:
            the largest of all images; ``"unit"``: 1, and black for 0.
        ax: where to draw.
    """
    tiles = _with_colours(images)
    if scale not in ("each", "all", "unit"):
        raise ValueError(f"scale must be 'each', 'all' or 'unit', got {scale!r}")
    count, height, width, colours = tiles.shape
    columns = int(np.ceil(np.sqrt(count))) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    rows = -(-count // columns)
    if scale != "unit":
        peak = np.abs(tiles).max((1, 2, 3), keepdims=True)
        tiles = tiles / np.maximum(peak if scale == "each" else peak.max(), 1e-12)
    low = 0 if scale == "unit" else -1
    border = np.nan if colours == 1 else 1.0  # colours cannot be left out: white
    sheet = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1, colours), border)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = 1 + row * (height + 1), 1 + column * (width + 1)
        sheet[top : top + height, left : left + width] = tile
    ax = axes(ax, (8, 8 * sheet.shape[0] / sheet.shape[1]))
    shown = sheet[..., 0] if colours == 1 else ((sheet - low) / (1 - low)).clip(0, 1)
    ax.imshow(shown, cmap="gray", vmin=low, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def _with_colours(images: Any) -> NDArray[Any]:
    """Images (N, H, W) or (N, 3, H, W) as (N, H, W, 1 or 3)."""
    if getattr(images, "ndim", 3) == 4:
        return np.moveaxis(array(images, "images", "N", 3, "H", "W"), 1, -1)
    return array(images, "images", "N", "H", "W")[..., None]


def _as_tiles(rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Rows (N, M) as images (N, H, W), or (N, 3, H, W); a single channel is left out."""
    return rows.reshape(-1, *(shape[1:] if len(shape) == 3 and shape[0] == 1 else shape))


def dictionary(
    weight: Any,
    shape: tuple[int, ...],
    *,
    order: Any = None,
    columns: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The decoder's features, a tile per neuron, each scaled by its own largest magnitude.

    Args:
        weight: Φ, shape (M, K), such as ``model.decoder.weight``.
        shape: (H, W) of a feature, or (C, H, W), whose product is M.
        order: indices (N,) of the neurons to draw, in this order, such as
            :func:`ipvae_snn.metrics.by_use` and :func:`~ipvae_snn.metrics.by_tuning` return.
            Default: all, largest norm first.
        columns: tiles per row.
        ax: where to draw.
    """
    phi = array(weight, "weight", prod(shape), "K")
    if order is None:
        order = np.argsort(-np.square(phi).sum(0))
    chosen = phi.T[indices(order, phi.shape[1], "order")]
    ax = mosaic(_as_tiles(chosen, shape), columns=columns, ax=ax)
    ax.set_title(f"Features of {len(chosen)} neurons")
    return ax


def reconstructions(
    x: Any,
    x_hat: Mapping[str, Any],
    shape: tuple[int, ...],
    *,
    scale: str = "each",
    ax: Axes | None = None,
) -> Axes:
    """A row per sample: the input in the first column, its reconstructions in the others.

    Args:
        x: inputs, shape (N, M).
        x_hat: column title to reconstructions (N, M), such as ``{"step 16": ...}``.
        shape: (H, W) of a sample, or (C, H, W), whose product is M.
        scale: ``"each"``: a row by the largest magnitude of its input, so that strengths compare;
            otherwise as in :func:`mosaic`; ``"unit"`` for images in [0, 1].
        ax: where to draw.
    """
    if "input" in x_hat:
        raise ValueError('x_hat must not have a column "input": that is x')
    inputs = array(x, "x", "N", prod(shape))
    others = (array(values, name, *inputs.shape) for name, values in x_hat.items())
    columns = [inputs, *others]
    if scale == "each":
        peak = np.maximum(np.abs(inputs).max(1, keepdims=True), 1e-12)
        columns, scale = [np.clip(column / peak, -1, 1) for column in columns], "all"
    elif scale == "unit":
        columns = [np.clip(column, 0, 1) for column in columns]
    tiles = _as_tiles(np.stack(columns, axis=1), shape)
    height, width = shape[-2:]
    if ax is None:
        ax = axes(None, (1.0 * len(columns), 1.0 * len(inputs) * height / width + 0.4))
    ax = mosaic(tiles, columns=len(columns), ax=ax, scale=scale)
    for index, name in enumerate(("input", *x_hat)):
        middle, colour = 1 + index * (width + 1) + width / 2, text_colour(ax)
        ax.text(middle, -1, name, ha="center", va="bottom", fontsize="small", color=colour)
    return ax
