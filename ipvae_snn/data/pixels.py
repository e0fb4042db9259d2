"""Conversion of stored pixels to values in [0, 1]: pure functions on stacks of images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

LUMA = np.array([0.2125, 0.7154, 0.0721], dtype=np.float32)  # ITU-R BT.709, as scikit-image
CHANNELS = (1, 3, 4)
"""Numbers of colour channels: grey, RGB, RGB and opacity."""
DEPTHS = (255, 1023, 4095, 16383, 65535)
"""Largest values of 8, 10, 12, 14 and 16 bits."""
ROUNDING = 1e-6
"""How far beyond the ends of a scale, as a part of it, rounding brings values."""
NEAR = 0.99
"""How near to −1 and 1 signed pixels must come, to be taken as all from −1 to 1."""
WHITE, BLACK = 1.0, 0.0


class Scale(NamedTuple):
    """The stored values that become 0 and 1."""

    low: float = 0.0
    high: float = 1.0

    def __str__(self) -> str:
        return f"{self.low:g}…{self.high:g}"


def find_scale(dtype: DTypeLike, low: float, high: float) -> Scale | None:
    """The scale of pixels of a type, from the smallest and largest value of a whole set.

    0…1 and −1…1 are taken as such, integers as the fewest bits that hold them, floats above 1 as
    0…255 or 0…65535.

    Returns:
        ``None`` if the values fit no scale, or use less than a quarter of it (half, of floats): a
        map of labels, percentages, an image that is divided already.

    >>> [find_scale("uint8", 0, high) for high in (1, 20, 200)]
    [Scale(low=0.0, high=1.0), None, Scale(low=0.0, high=255)]
    """
    dtype = np.dtype(dtype)
    integers = dtype.kind in "iu"
    slack = 0.0 if integers else ROUNDING
    if low >= -slack and high <= 1 + slack:
        return Scale()
    if low < -slack * high:
        within = -1 - slack <= low <= -NEAR and NEAR <= high <= 1 + slack
        return Scale(-1.0, 1.0) if within else None
    largest = np.iinfo(dtype).max if integers else np.inf
    depths = DEPTHS if integers else (DEPTHS[0], DEPTHS[-1])
    top = next((d for d in depths if high <= d * (1 + slack) and d <= largest), None)
    return None if top is None or high < top * (0.25 if integers else 0.5) else Scale(0.0, top)


def is_settled(dtype: DTypeLike, low: float, high: float) -> bool:
    """Whether more values of integers cannot change the scale, unless by being refused."""
    scale, dtype = find_scale(dtype, low, high), np.dtype(dtype)
    return dtype.kind not in "iu" or (
        scale is not None and scale.high == (255 if dtype.itemsize == 1 else DEPTHS[-1])
    )


def extremes(pixels: NDArray[Any]) -> tuple[float, float]:
    """The smallest and largest finite value; (0, 0) if there is none."""
    if pixels.dtype.kind == "f":
        pixels = pixels[np.isfinite(pixels)]
    return (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)


def require_pixels(dtype: np.dtype[Any], name: str) -> None:
    """Raise ``ValueError`` unless the type is bool, integer or floating point."""
    if dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {dtype}: expected integers or floats, such as uint8")


def unfitting(low: float, high: float) -> str:
    """What is wrong with values of no scale, and what to do."""
    return (
        f"holds values from {low:g} to {high:g}: rescale them to [0, 1] first, as they fill none "
        "of the ranges 0…1, −1…1, 0…255, 0…65535"
    )


def to_unit(
    stack: NDArray[Any], name_of: Callable[[int], str], scale: Scale | None = None
) -> NDArray[Any]:
    """Convert pixels to float32 in [0, 1].

    Args:
        stack: images, shape (N, ...).
        name_of: what messages call the image of an index.
        scale: of the set that the images belong to; by default that of these images.

    Raises:
        ValueError: no pixels of numbers; NaN or infinity; values beyond the scale.

    >>> to_unit(np.array([[0, 255]], dtype=np.uint8), "image {}".format)
    array([[0., 1.]], dtype=float32)
    >>> to_unit(np.array([[0.5], [2.0]]), "image {}".format)
    Traceback (most recent call last):
    ValueError: image 1 holds values from 2 to 2: rescale them to [0, 1] first...
    """
    dtype = stack.dtype
    require_pixels(dtype, name_of(0))
    if scale is None:
        scale = find_scale(dtype, *extremes(stack)) or Scale()
    with np.errstate(over="ignore", invalid="ignore"):  # overflow gives infinity, rejected below
        values = stack.astype(np.float32)
    if not (_holds_all(scale, dtype) or _holds(scale, values)):
        problems = {i: p for i, image in enumerate(values) if (p := _problem(image, scale))}
        if problems:
            more = also(len(problems) - 1, len(values))
            raise ValueError(f"{name_of(min(problems))} {problems[min(problems)]}{more}")
        values = values.clip(scale.low, scale.high)  # they are beyond by no more than rounding
    if scale == Scale():
        return values
    return (values if scale.low == 0 else values - scale.low) / (scale.high - scale.low)


def _holds_all(scale: Scale, dtype: np.dtype[Any]) -> bool:
    """Whether a type has no values beyond the scale, so that none need be looked at."""
    return dtype.kind == "b" or (dtype.kind == "u" and np.iinfo(dtype).max <= scale.high)


def _holds(scale: Scale, values: NDArray[Any]) -> bool:
    """Whether all values are on the scale, and none is NaN."""
    return not values.size or bool(values.min() >= scale.low and values.max() <= scale.high)


def _problem(image: NDArray[Any], scale: Scale) -> str:
    if not np.isfinite(image).all():
        return "holds NaN or infinite values: remove them first"
    slack = ROUNDING * (scale.high - scale.low)
    if _holds(Scale(scale.low - slack, scale.high + slack), image):
        return ""
    others = "" if scale == Scale() else f"; other images here are {scale}"
    return unfitting(float(image.min()), float(image.max())) + others


def also(more: int, total: int) -> str:
    """How many others were refused like the one that a message names."""
    return f" (and {more:,} more like it, of {total:,} read)" if more else ""


def channel_axis(shape: tuple[int, ...], name: str) -> int:
    """The axis of the colours of images (N, H, W, C) or (N, C, H, W).

    If both could be it, images are taken to be square.

    Raises:
        ValueError: none, or still both.

    >>> channel_axis((10, 1, 28, 28), "x"), channel_axis((10, 4, 4, 3), "x")
    (1, 3)
    """
    square = {1: shape[2:3] == shape[3:4], 3: shape[1:2] == shape[2:3]} if len(shape) == 4 else {}
    axes = [axis for axis in square if shape[axis] in CHANNELS]
    if len(axes) == 2:
        axes = [axis for axis in axes if square[axis]]
    if len(axes) == 1:
        return axes[0]
    raise ValueError(
        f"{name} has shape {shape}: expected images (N, H, W) or (N, H, W, colours), or flat "
        "samples (N, M); if another axis counts the images, name it: axis=-1 (--axis -1)"
    )


def to_grey(array: NDArray[Any], name: str, ground: float = WHITE) -> NDArray[Any]:
    """Images (N, H, W, C) or (N, C, H, W), C = 1, 3 or 4, as grey (N, H, W); others (N, ...) as is.

    A fourth channel is opacity: what it leaves of the colours stands on the ground.

    Args:
        array: values in [0, 1].
        name: what messages call the array.
        ground: grey value behind transparent pixels.

    Raises:
        ValueError: another shape.
    """
    if array.ndim in (2, 3):
        return array
    colours, opacity = _colours(array, name)
    grey = colours[..., 0] if colours.shape[-1] == 1 else _luma(colours)
    if opacity is not None:
        grey = grey * opacity + np.float32(ground) * (1 - opacity)
    return grey


def to_colour(array: NDArray[Any], name: str, ground: float = WHITE) -> NDArray[Any]:
    """The same images in red, green and blue, (N, 3, H, W); grey ones have three equal values.

    Raises:
        ValueError: flat samples (N, M), or another shape.
    """
    if array.ndim == 2:
        raise ValueError(f"{name} holds flat samples, which have no colours")
    array = array[..., None] if array.ndim == 3 else array
    colours, opacity = _colours(array, name)
    if opacity is not None:
        opacity = opacity[..., None]
        colours = colours * opacity + np.float32(ground) * (1 - opacity)
    return np.moveaxis(np.broadcast_to(colours, (*colours.shape[:3], 3)), -1, 1)


def _luma(colours: NDArray[Any]) -> NDArray[Any]:
    """Grey of (..., 3 or more), to the same bits for every order in memory, unlike a product."""
    red, green, blue = (colours[..., i] * LUMA[i] for i in range(3))
    grey: NDArray[Any] = red + green + blue
    return grey


def _colours(array: NDArray[Any], name: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Colours (N, H, W, 1 or 3), and opacity (N, H, W) where it is given."""
    if channel_axis(array.shape, name) == 1:
        array = np.moveaxis(array, 1, -1)
    return (array[..., :3], array[..., 3]) if array.shape[-1] == 4 else (array, None)


class Ground:
    """The ground for transparent pixels: white, or black where what is seen is bright."""

    def __init__(self) -> None:
        self.seen, self.light, self.transparent = 0.0, 0.0, False

    def look_at(self, images: NDArray[Any], name: str) -> None:
        """Add images (N, H, W, 4) or (N, 4, H, W), values in [0, 1]."""
        if channel_axis(images.shape, name) == 1:
            images = np.moveaxis(images, 1, -1)
        opacity = images[..., 3]
        self.transparent |= bool((opacity < 1).any())
        self.seen += float(opacity.sum())
        self.light += float((_luma(images) * opacity).sum())

    @property
    def value(self) -> float:
        return BLACK if self.light > self.seen / 2 else WHITE

    @property
    def notes(self) -> tuple[str, ...]:
        """What a description says of it."""
        name = "white" if self.value == WHITE else "black"
        return (f"transparent pixels on {name}",) if self.transparent else ()
