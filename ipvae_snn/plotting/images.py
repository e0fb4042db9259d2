"""Images: mosaics, the features of a decoder, reconstructions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ipvae_snn.plotting.frame import array, axes, indices, ink


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
    tiles = array(images, "images", "N", "H", "W")
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
    ax = axes(ax, (8, 8 * sheet.shape[0] / sheet.shape[1]))
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
        order: which neurons, in which order: indices (N,), such as
            :func:`ipvae_snn.metrics.by_use` and :func:`~ipvae_snn.metrics.by_tuning` return.
            Default: all, strongest norm first.
        columns: tiles per row.
        ax: where to draw.
    """
    phi = array(weight, "weight", "M", "K")
    if shape[0] * shape[1] != phi.shape[0]:
        raise ValueError(f"shape must hold the {phi.shape[0]} pixels of a feature, got {shape}")
    if order is None:
        order = np.argsort(-np.square(phi).sum(0))
    chosen = phi.T[indices(order, phi.shape[1], "order")]
    ax = mosaic(chosen.reshape(-1, *shape), columns=columns, ax=ax)
    ax.set_title(f"Features of {len(chosen)} neurons")
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
    arrays = [array(values, name, "N", "M") for name, values in columns.items()]
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
        ax = axes(None, (1.0 * len(arrays), 1.0 * rows * shape[0] / shape[1] + 0.4))
    ax = mosaic(np.clip(tiles, 0, 1) if scale == "unit" else tiles, columns=len(arrays), ax=ax,
                scale=scale)  # fmt: skip
    for index, name in enumerate(columns):
        ax.text(
            1 + index * (shape[1] + 1) + shape[1] / 2, -1, name, ha="center", va="bottom",
            fontsize="small", color=ink(ax),
        )  # fmt: skip
    return ax
