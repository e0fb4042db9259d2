"""Which axis of an array counts the images: unambiguous, or to be said by whoever knows."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipvae_snn.data.images import StoredArray
from ipvae_snn.data.pixels import CHANNELS

ELONGATED = 8
"""Images are hardly ever more times as long as wide."""
ROUGH = 3
"""How much more values change along an axis than along two others, if it counts images."""
PAIRS = 8
MIN_SIDE = 32
"""Of what may be a single image."""


def image_axis(array: StoredArray, name: str, axis: int | None = None) -> int:
    """The axis that counts the images, from 0.

    The first, unless the shape says otherwise: (512, 512, 10) holds ten square images, and
    (32, 32, 3, 500) five hundred of three colours.

    Args:
        array: pixels, of two or more axes.
        name: what messages call it.
        axis: what the user said, which counts.

    Raises:
        ValueError: there is no such axis, or several may be meant.
    """
    shape = array.shape
    if axis is not None:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"{name} has shape {shape}: it has no axis {axis}")
        return axis % len(shape)
    if len(shape) == 4:
        return _axis_of_colours(shape, name)
    if len(shape) == 3:
        return _axis_of_stack(array, name)
    if len(shape) == 2 and _is_turned(*shape):
        side = math.isqrt(shape[0])
        raise _doubt(name, shape, f"{shape[1]} samples of {side}×{side} pixels, one a column")
    if len(shape) == 2 and _is_one_image(array):
        raise ValueError(
            f"{name} has shape {shape}, and looks like one image: save it as (1, H, W), "
            "several as (N, H, W), or say axis=0 (--axis 0) if its rows are samples"
        )
    return 0


def _is_one_image(array: StoredArray) -> bool:
    """Whether rows are far more like their neighbours than like rows elsewhere, as samples are not.

    Rows that are square images themselves may be a film.
    """
    rows, columns = array.shape
    film = math.isqrt(columns) ** 2 == columns and rows != columns
    if film or min(rows, columns) < MIN_SIDE or array.dtype.kind not in "biuf":
        return False
    starts = np.arange(0, rows - 1, max(rows // 64, 1))
    first, second = (_finite(array[places]) for places in (starts, starts + 1))
    with np.errstate(over="ignore", invalid="ignore"):  # of values that are refused later
        near, far = (
            np.abs(first - other).mean() for other in (second, np.roll(first, len(first) // 2, 0))
        )
        return bool(0 < near < far / ROUGH)


def _is_turned(rows: int, columns: int) -> bool:
    """Whether flat samples may be columns: of square images, and far more than there are rows."""
    square = math.isqrt(rows) ** 2 == rows and math.isqrt(columns) ** 2 != columns
    return square and columns > ELONGATED * rows


def _axis_of_colours(shape: tuple[int, ...], name: str) -> int:
    """Of an array of four axes."""
    first, height, width, last = shape
    if width in CHANNELS and not {height, last} & set(CHANNELS):
        return 3
    stacked = _is_elongated(height, width) and not _is_elongated(first, height)
    if last in CHANNELS and height not in CHANNELS and (stacked or first == height != width):
        axis, colours = (-1, width) if width in CHANNELS else (-2, last)
        other = f"{shape[axis]} images of {first}×{height} in {colours} colour(s)"
        raise _doubt(name, shape, other, axis)
    return 0


def _axis_of_stack(array: StoredArray, name: str) -> int:
    """Of an array of three axes."""
    shape = (height, width, last) = array.shape
    if _is_elongated(width, last) and not _is_elongated(height, width):
        if last in CHANNELS:
            raise _doubt(name, shape, f"one image of {last} colour(s), or {last} images")
        if height == width:
            return 2
        raise _doubt(name, shape, f"{last} images of {height}×{width}")
    if height == width != last:
        raise _doubt(name, shape, f"{last} images of {height}×{width}")
    if _is_rough_along_last(array):
        raise _doubt(name, shape, f"{last} images of {height}×{width}, as their smoothness says")
    return 0


def _is_rough_along_last(array: StoredArray) -> bool:
    """Whether neighbours along the last axis differ far more than along both others."""
    count = len(array)
    if count < 2 or 0 in array.shape or array.dtype.kind not in "biuf":
        return False
    starts = np.unique(np.linspace(0, count - 2, PAIRS).astype(int))
    first, second = (_finite(array[rows]) for rows in (starts, starts + 1))
    with np.errstate(over="ignore", invalid="ignore"):  # of values that are refused later
        changes = second - first, np.diff(first, axis=1), np.diff(first, axis=2)
        steps = [float(np.abs(change).mean()) if change.size else 0.0 for change in changes]
    return steps[0] > 0 and steps[2] > ROUGH * max(steps[0], steps[1])


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)


def _is_elongated(height: int, width: int) -> bool:
    return max(height, width) > ELONGATED * max(min(height, width), 1)


def _doubt(name: str, shape: tuple[int, ...], other: str, axis: int = -1) -> ValueError:
    sizes = "×".join(map(str, shape[1:])) + (" values" if len(shape) == 2 else "")
    return ValueError(
        f"{name} has shape {shape}, which could be {shape[0]} images of {sizes}, or {other}: say "
        f"which axis counts the images, axis=0 or axis={axis} (--axis 0, --axis {axis})"
    )
