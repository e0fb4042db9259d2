"""Conversion of stored pixels to grey values in [0, 1]: pure functions on stacks of images."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LUMA = np.array([0.2125, 0.7154, 0.0721], dtype=np.float32)  # ITU-R BT.709, as scikit-image


def to_unit(stack: NDArray[Any], name_of: Callable[[int], str]) -> NDArray[Any]:
    """Convert pixels to float32 in [0, 1]: integers divided by their type's maximum, floats as is.

    Args:
        stack: images, shape (N, ...).
        name_of: what messages call the image of an index.

    Raises:
        ValueError: not bool, uint8, uint16 or floats; NaN or infinity; floats outside [0, 1].

    >>> to_unit(np.array([[0, 255]], dtype=np.uint8), "image {}".format)
    array([[0., 1.]], dtype=float32)
    >>> to_unit(np.array([[0.5], [2.0]]), "image {}".format)
    Traceback (most recent call last):
    ValueError: image 1 holds values from 2 to 2: rescale them to [0, 1] first
    """
    dtype = stack.dtype
    if dtype.kind not in "bf" and not (dtype.kind == "u" and dtype.itemsize <= 2):
        raise ValueError(f"{name_of(0)} holds {dtype}: expected uint8, uint16 or floats in [0, 1]")
    if dtype.kind == "u":
        return stack.astype(np.float32) / np.iinfo(dtype).max
    with np.errstate(over="ignore", invalid="ignore"):  # overflow gives infinity, rejected below
        stack = stack.astype(np.float32)
    if not stack.size or (stack.min() >= 0 and stack.max() <= 1):  # not so if any value is NaN
        return stack
    for index, image in enumerate(stack):
        if not np.isfinite(image).all():
            raise ValueError(f"{name_of(index)} holds NaN or infinite values: remove them first")
        low, high = image.min(), image.max()
        if low < 0 or high > 1:
            found = f"values from {low:g} to {high:g}"
            raise ValueError(f"{name_of(index)} holds {found}: rescale them to [0, 1] first")
    return stack


def to_grey(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Images (N, H, W, C) or (N, C, H, W), C = 1, 3 or 4, as grey (N, H, W); others (N, ...) as is.

    Raises:
        ValueError: another shape; calls the array ``name``.
    """
    if array.ndim in (2, 3):
        return array
    if array.ndim == 4 and array.shape[-1] not in (1, 3, 4) and array.shape[1] in (1, 3, 4):
        array = np.moveaxis(array, 1, -1)
    if array.ndim != 4 or array.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{name} has shape {array.shape}: expected images (N, H, W) or (N, H, W, colours), or "
            "flat samples (N, M)"
        )
    return array[..., 0] if array.shape[-1] == 1 else array[..., :3] @ LUMA
