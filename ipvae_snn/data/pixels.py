"""From stored numbers to grey in [0, 1]: pure functions on stacks of images."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

LUMA = np.array([0.2125, 0.7154, 0.0721], dtype=np.float32)  # ITU-R BT.709, as scikit-image


def to_unit(stack: NDArray, where: Callable[[int], str]) -> NDArray:
    """Bring numbers to float32 in [0, 1]: integers by their type's range, floats as they are.

    Args:
        stack: images, shape (N, ...).
        where: what messages call the image of an index.

    Raises:
        ValueError: no numbers, NaN or infinity, or floats outside [0, 1].

    >>> to_unit(np.array([[0, 255]], dtype=np.uint8), "image {}".format)
    array([[0., 1.]], dtype=float32)
    >>> to_unit(np.array([[0.5], [2.0]]), "image {}".format)
    Traceback (most recent call last):
    ValueError: image 1 holds values from 2 to 2: rescale them to [0, 1] first
    """
    if len(stack):
        require_pixels(stack.dtype, where(0))
    if stack.dtype == bool:
        return stack.astype(np.float32)
    if stack.dtype.kind == "u":
        return stack.astype(np.float32) / np.iinfo(stack.dtype).max
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
        stack = stack.astype(np.float32)
    if stack.size and not (stack.min() >= 0 and stack.max() <= 1):  # nor if one is NaN
        _refuse(stack, where)
    return stack


def _refuse(stack: NDArray, where: Callable[[int], str]) -> None:
    for index, image in enumerate(stack):
        if not np.isfinite(image).all():
            raise ValueError(f"{where(index)} holds NaN or infinite values: remove them first")
        low, high = float(image.min()), float(image.max())
        if low < 0 or high > 1:
            raise ValueError(
                f"{where(index)} holds values from {low:g} to {high:g}: rescale them to [0, 1] "
                "first"
            )


def require_pixels(dtype: np.dtype, name: str) -> None:
    """Raise ``ValueError`` unless numbers of this type can be pixels."""
    small = dtype.kind == "b" or (dtype.kind == "u" and dtype.itemsize <= 2)
    if not small and dtype.kind != "f":
        raise ValueError(f"{name} holds {dtype}: expected uint8, uint16 or floats in [0, 1]")


def to_grey(array: NDArray, name: str) -> NDArray:
    """A stack of images (N, H, W), from (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1, 3 or 4."""
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
