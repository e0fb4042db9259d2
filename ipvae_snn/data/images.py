"""Sources of images: read from memory or from files, in batches, as grey values in [0, 1]."""

import math
import os
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn.data.pixels import (
    Ground,
    Scale,
    channel_axis,
    extremes,
    find_scale,
    is_settled,
    require_pixels,
    to_colour,
    to_grey,
    to_unit,
    unfitting,
)
from ipvae_snn.data.sources import Samples

MAX_BATCH_PIXELS = 2**22
FEW = 64
"""How many images of an array tell whether all are wrong, and the ground for transparent pixels."""

Rows = NDArray[np.int64]


class Images(Samples, Sequence[NDArray[Any]]):
    """Grey images in [0, 1]: one by one (H, W), or batches of equal ones as samples, M = H · W.

    Images may be flat, (M,), instead of (H, W).

    Args:
        length: how many images there are.
        shapes: all shapes that occur; :meth:`stack` and :meth:`read` need them to be equal.
    """

    def __init__(self, length: int, shapes: Iterable[tuple[int, ...]]) -> None:
        self.length, self.shapes = length, frozenset(shapes)
        self.features = math.prod(*self.shapes) if len(self.shapes) == 1 else 0

    def __len__(self) -> int:
        return self.length

    def name_of(self, row: int) -> str:
        """What messages call an image."""
        return f"image {row}"

    def shape_of(self, row: int) -> tuple[int, ...]:
        """The shape of an image."""
        (shape,) = self.shapes
        return shape

    @abstractmethod
    def stack(self, rows: Rows) -> NDArray[Any]:
        """The images of one or more indices, shape (n, H, W) or (n, M), float32.

        Raises:
            ValueError: an image is unreadable or holds values outside [0, 1]; names it.
        """

    @abstractmethod
    def colour(self, row: int) -> NDArray[Any]:
        """One image in red, green and blue, (3, H, W), float32; errors as of :meth:`stack`."""

    def __getitem__(self, index: int) -> NDArray[Any]:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return np.asarray(self.stack(np.array([index]))[0])

    def read(self, rows: Tensor) -> Tensor:
        if not len(rows):
            return torch.empty(0, self.features)
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows must be from 0 to {len(self) - 1}, got {rows.tolist()}")
        pixels = self.stack(rows.cpu().numpy()).reshape(len(rows), self.features)
        return torch.from_numpy(pixels.astype(np.float32, copy=False))

    def read_all(self) -> Tensor:
        """All images as samples, shape (N, M), read a batch at a time."""
        samples = torch.empty(len(self), self.features)
        batch = max(MAX_BATCH_PIXELS // self.features, 1)
        for start in range(0, len(self), batch):
            rows = torch.arange(start, min(start + batch, len(self)))
            samples[rows] = self.read(rows)
        return samples


@dataclass
class FileArray:
    """An array in a file; indexing reads the rows that are asked for.

    ``shape`` has the axis that counts the rows first; ``axis`` is its place in the file.

    Reads instead of mapping the file: with a map, every row costs a page fault, touched pages count
    as memory in use, and a file that is truncated meanwhile ends the process.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    fortran: bool = False
    axis: int = 0

    def __post_init__(self) -> None:
        self.path = self.path.absolute()
        self._stamp = _stamp(self.path.stat())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows | slice) -> NDArray[Any]:
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        try:
            with self.path.open("rb", buffering=0) as file:
                if _stamp(os.fstat(file.fileno())) != self._stamp:
                    raise ValueError("it has been changed since it was opened")
                mapped = self.fortran or self.axis
                return self._map_rows(rows) if mapped else self._read_rows(file, rows)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} can no longer be read: {error}") from error

    def _read_rows(self, file: FileIO, rows: Rows) -> NDArray[Any]:
        """Read rows one after the other, runs of neighbours at once."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        content = np.empty((len(rows), row_bytes), dtype=np.uint8)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for start, end in pairwise([0, *breaks.tolist(), len(rows)]):
            run = content[start:end]
            file.seek(self.offset + int(rows[start]) * row_bytes)
            if file.readinto(run.data) != run.size:
                raise ValueError("it ends before its data do")
        return content.view(self.dtype).reshape(len(rows), *self.shape[1:])

    def _map_rows(self, rows: Rows) -> NDArray[Any]:
        """Map the file, where the values of a row are spread all over it."""
        shape = list(self.shape[1:])
        shape.insert(self.axis, self.shape[0])
        order: Literal["F", "C"] = "F" if self.fortran else "C"
        array = np.memmap(self.path, self.dtype, "r", self.offset, tuple(shape), order)
        return np.asarray(np.moveaxis(array, self.axis, 0)[rows])

    def checksum(self, blocks: int = 64, length: int = 4096) -> int:
        """CRC-32 of the size of the file and of evenly spaced blocks of the array."""
        size = self._stamp[0]
        crc = zlib.crc32(str(size).encode())
        with self.path.open("rb") as file:
            for start in np.linspace(self.offset, max(size - length, self.offset), blocks):
                file.seek(int(start))
                crc = zlib.crc32(file.read(length), crc)
        return crc


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """Size and modification time, which tell that a file has changed."""
    return status.st_size, status.st_mtime_ns


StoredArray = NDArray[Any] | FileArray


def move_axis_first(array: StoredArray, axis: int) -> StoredArray:
    """The same array with the axis ``axis`` ≥ 0 first; nothing is read."""
    if not isinstance(array, FileArray):
        return np.moveaxis(array, axis, 0)
    shape = (array.shape[axis], *array.shape[:axis], *array.shape[axis + 1 :])
    return replace(array, shape=shape, axis=axis)


def _sample(array: StoredArray, most: int) -> NDArray[Any]:
    """Up to ``most`` evenly spaced rows, and no more pixels than a batch if these are several."""
    row_pixels = max(math.prod(array.shape[1:]), 1)
    count = min(len(array), most, max(MAX_BATCH_PIXELS // row_pixels, 1))
    return array[np.linspace(0, len(array) - 1, count).astype(int)]


def _range(array: StoredArray) -> tuple[float, float]:
    """The smallest and largest value: of evenly spaced rows, or of all if these leave doubt."""
    low, high = extremes(_sample(array, len(array)))
    if is_settled(array.dtype, low, high):
        return low, high
    batch = max(MAX_BATCH_PIXELS // max(math.prod(array.shape[1:]), 1), 1)
    for start in range(0, len(array), batch):
        some = extremes(array[np.arange(start, min(start + batch, len(array)))])
        low, high = min(low, some[0]), max(high, some[1])
    return low, high


def _are_mostly_unfit(arrays: Iterable[StoredArray]) -> bool:
    """Whether most of some rows of floats hold values outside [0, 1]."""
    unfit = total = 0
    for array in arrays:
        with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused when it is read
            rows = _sample(array, FEW).astype(np.float32)
        rows = rows.reshape(len(rows), -1)
        finite = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
        unfit += int(((finite < 0) | (finite > 1)).any(1).sum())
        total += len(rows)
    return unfit > total / 2


class Encoding(NamedTuple):
    """How the stored pixels of a set become grey values."""

    scales: dict[np.dtype[Any], Scale]
    ground: float
    notes: tuple[str, ...]
    """What a description says of it."""


def find_encoding(arrays: Mapping[str, StoredArray]) -> Encoding:
    """One scale for all arrays of a type, and one ground for transparent pixels.

    Raises:
        ValueError: integers of no scale, or an array of 0…1 beside one of a larger scale.
    """
    scales: dict[np.dtype[Any], Scale] = {}
    notes = []
    for dtype in dict.fromkeys(array.dtype for array in arrays.values()):
        of_type = {name: array for name, array in arrays.items() if array.dtype == dtype}
        require_pixels(dtype, next(iter(of_type)))
        ranges = {name: _range(array) for name, array in of_type.items() if len(array)}
        low = min((r[0] for r in ranges.values()), default=0.0)
        high = max((r[1] for r in ranges.values()), default=0.0)
        scale = find_scale(dtype, low, high)
        # Some floats of no scale among others: whoever reads an image that is wrong names it.
        if scale is None and (dtype.kind in "iu" or _are_mostly_unfit(of_type.values())):
            raise ValueError(f"{', '.join(ranges)} {unfitting(low, high)}")
        scales[dtype] = scale = scale or Scale()
        binary = [n for n, r in ranges.items() if r[0] >= 0 and 0 < r[1] <= 1]
        if scale.high > 1 and binary:
            raise ValueError(
                f"{', '.join(binary)} holds values in 0…1, others there {scale}: bring them to one "
                "scale, or load one of them alone"
            )
        notes.append(f"{dtype} values from {low:g} to {high:g}, taken as {scale}")
    ground = Ground()
    for name, array in arrays.items():
        axis = channel_axis(array.shape, name) if len(array) and len(array.shape) == 4 else 0
        if axis and array.shape[axis] == 4:
            some = _sample(array, FEW)
            with suppress(ValueError):  # of an image that is refused when it is read
                ground.look_at(to_unit(some, str, scales[array.dtype]), name)
    return Encoding(scales, ground.value, (*notes, *ground.notes))


class ImageArray(Images):
    """The images of an array (N, H, W), (N, H, W, C) or (N, C, H, W), or flat ones (N, M).

    Args:
        array: the pixels.
        name: what messages call it.
        encoding: of the set that it belongs to, by default its own.

    >>> images = ImageArray(np.eye(3).reshape(1, 3, 3), "eye")
    >>> images[0].shape, images.read(torch.tensor([0])).shape
    ((3, 3), torch.Size([1, 9]))
    """

    def __init__(self, array: StoredArray, name: str, encoding: Encoding | None = None) -> None:
        require_pixels(array.dtype, name)
        none = np.empty((0, *array.shape[1:]), np.float32)
        super().__init__(len(array), [to_grey(none, name).shape[1:]])
        self.array, self.name = array, name
        encoding = find_encoding({name: array}) if encoding is None else encoding
        self.scale, self.ground = encoding.scales[array.dtype], encoding.ground

    def name_of(self, row: int) -> str:
        return f"{self.name}, image {row}"

    def stack(self, rows: Rows) -> NDArray[Any]:
        return to_grey(self._values(rows), self.name, self.ground)

    def colour(self, row: int) -> NDArray[Any]:
        (image,) = to_colour(self._values(np.array([row])), self.name, self.ground)
        return np.asarray(image)

    def _values(self, rows: Rows) -> NDArray[Any]:
        return to_unit(self.array[rows], lambda i: f"{self.name_of(rows[i])},", self.scale)

    def fingerprint(self) -> str:
        """Of the array, and of how it is read where its type alone does not say so."""
        array = self.array
        if isinstance(array, FileArray):
            crc = array.checksum()
        else:
            crc = zlib.crc32(np.ascontiguousarray(array).data)
        usual = Scale(0.0, np.iinfo(array.dtype).max) if array.dtype.kind == "u" else Scale()
        read_as = "" if self.scale == usual else f" as {self.scale}"
        if len(array.shape) == 4 and array.shape[channel_axis(array.shape, self.name)] == 4:
            read_as += f" on {self.ground:g}"
        return f"{'×'.join(map(str, array.shape))} {array.dtype} {crc:08x}{read_as}"


class Joined(Images):
    """The images of several sources, one after the other; of no source, no images."""

    def __init__(self, sources: Sequence[Images]) -> None:
        shapes = (shape for source in sources for shape in source.shapes)
        super().__init__(sum(map(len, sources)), shapes)
        self.sources, self.starts = sources, np.cumsum([0, *map(len, sources)])

    def _place(self, row: int) -> tuple[Images, int]:
        source = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.sources[source], row - int(self.starts[source])

    def name_of(self, row: int) -> str:
        source, inside = self._place(row)
        return source.name_of(inside)

    def shape_of(self, row: int) -> tuple[int, ...]:
        source, inside = self._place(row)
        return source.shape_of(inside)

    def stack(self, rows: Rows) -> NDArray[Any]:
        source_of = np.searchsorted(self.starts, rows, side="right") - 1
        first = int(source_of[0])
        if (source_of == first).all():
            return self.sources[first].stack(rows - self.starts[first])
        (shape,) = self.shapes
        images = np.empty((len(rows), *shape), dtype=np.float32)
        for source in np.unique(source_of):
            places = source_of == source
            images[places] = self.sources[source].stack(rows[places] - self.starts[source])
        return images

    def colour(self, row: int) -> NDArray[Any]:
        source, inside = self._place(row)
        return source.colour(inside)

    def fingerprint(self) -> str:
        return " + ".join(source.fingerprint() for source in self.sources)


class Chosen(Images):
    """Some images of another source, in the order given, or none."""

    def __init__(self, images: Images, rows: Rows) -> None:
        super().__init__(len(rows), images.shapes)
        self.images, self.rows = images, rows

    def name_of(self, row: int) -> str:
        return self.images.name_of(int(self.rows[row]))

    def shape_of(self, row: int) -> tuple[int, ...]:
        return self.images.shape_of(int(self.rows[row]))

    def stack(self, rows: Rows) -> NDArray[Any]:
        return self.images.stack(self.rows[rows])

    def colour(self, row: int) -> NDArray[Any]:
        return self.images.colour(int(self.rows[row]))

    def fingerprint(self) -> str:
        return f"{len(self)} ({zlib.crc32(self.rows.data):08x}) of {self.images.fingerprint()}"


class Split(NamedTuple):
    """Images for training and for testing, and their labels (int64) where there are any.

    Images without a split of their own are all for training, and ``test`` is empty; ``train`` is
    empty if all are held out.
    """

    train: Images
    test: Images = Joined(())
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    notes: tuple[str, ...] = ()
    """What was read, and how, for the description."""
