"""Images that stay where they are until they are asked for."""

import math
import os
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn.data.pixels import require_pixels, to_grey, to_unit
from ipvae_snn.data.sources import Samples

PIXELS_AT_A_TIME = 2**22


class Pictures(Sequence[NDArray]):
    """Grey images in [0, 1], each (H, W) or flat (M,); one by one, or a stack of equal ones."""

    shapes: frozenset[tuple[int, ...]]
    """All shapes that occur; of a selection, also those of what was not chosen."""

    @abstractmethod
    def read(self, rows: NDArray[np.int64]) -> NDArray:
        """The images of these indices, one or more, of one shape: (n, H, W) or (n, M), float32.

        Raises:
            ValueError: one cannot be read, or holds what no image may; says which.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the images do."""

    def __getitem__(self, index: int) -> NDArray:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        return self.read(np.array([index]))[0]


class Ready(Pictures):
    """Images that are in memory as they shall be, of any sizes."""

    def __init__(self, images: Sequence[NDArray] = ()) -> None:
        self.images = images
        self.shapes = frozenset(image.shape for image in images)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: NDArray[np.int64]) -> NDArray:
        return np.stack([self.images[row] for row in rows])

    def fingerprint(self) -> str:
        crc = 0
        for image in self.images:
            crc = zlib.crc32(np.ascontiguousarray(image).data, crc)
        return f"{len(self)} images {crc:08x}"


class InFile:
    """An array in a file, of which only the rows that are asked for are read.

    Rows are read and not mapped: a page fault for each costs more, pages that a map has touched
    count as memory in use, and a file that is cut short meanwhile would end the process.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype,
        offset: int,
        fortran: bool = False,
    ) -> None:
        self.path, self.shape, self.dtype = path.absolute(), shape, dtype
        self.offset, self.fortran = offset, fortran
        self.file_bytes, self.changed = _stamp(path.stat())

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> NDArray:
        if isinstance(rows, slice):
            rows = np.arange(self.shape[0])[rows]
        try:
            with self.path.open("rb", buffering=0) as file:
                if _stamp(os.fstat(file.fileno())) != (self.file_bytes, self.changed):
                    raise ValueError("it has been changed since it was opened")
                return self._by_columns(rows) if self.fortran else self._by_rows(file, rows)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path} can no longer be read: {error}") from error

    def _by_rows(self, file: FileIO, rows: NDArray[np.int64]) -> NDArray:
        length = math.prod(self.shape[1:]) * self.dtype.itemsize
        found = np.empty((len(rows), length), dtype=np.uint8)
        ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]  # of neighbours
        for start, end in pairwise([0, *ends]):
            place = found[start:end]
            file.seek(self.offset + int(rows[start]) * length)
            if file.readinto(place.data) != place.size:
                raise ValueError("it ends before its data do")
        return found.view(self.dtype).reshape(len(rows), *self.shape[1:])

    def _by_columns(self, rows: NDArray[np.int64]) -> NDArray:
        """Rows lie all over the file."""
        whole = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F")
        return np.asarray(whole[rows])

    def crc(self, pieces: int = 64, length: int = 4096) -> int:
        """Of so many pieces from all over the array, and of the size of the file."""
        crc = zlib.crc32(str(self.file_bytes).encode())
        last = max(self.file_bytes - length, self.offset)
        with self.path.open("rb") as file:
            for start in np.linspace(self.offset, last, pieces):
                file.seek(int(start))
                crc = zlib.crc32(file.read(length), crc)
        return crc


def _stamp(status: os.stat_result) -> tuple[int, int]:
    """What changes when a file does."""
    return status.st_size, status.st_mtime_ns


class Stack(Pictures):
    """The images of an array (N, H, W), (N, H, W, C) or (N, C, H, W), or flat ones (N, M)."""

    def __init__(self, array: NDArray | InFile, name: str) -> None:
        require_pixels(array.dtype, name)
        self.array, self.name = array, name
        self.shapes = frozenset([to_grey(np.empty((0, *array.shape[1:])), name).shape[1:]])

    def __len__(self) -> int:
        return self.array.shape[0]

    def read(self, rows: NDArray[np.int64]) -> NDArray:
        chosen = self.array[rows]
        return to_grey(to_unit(chosen, lambda i: f"{self.name}, image {rows[i]},"), self.name)

    def fingerprint(self) -> str:
        array = self.array
        if isinstance(array, InFile):
            crc = array.crc()
        else:
            crc = zlib.crc32(np.ascontiguousarray(array).data)
        return f"{'×'.join(map(str, array.shape))} {array.dtype} {crc:08x}"


class Joined(Pictures):
    """The images of several, one after the other."""

    def __init__(self, parts: Sequence[Pictures]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shapes = frozenset().union(*(part.shapes for part in parts))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, rows: NDArray[np.int64]) -> NDArray:
        part_of = np.searchsorted(self.starts, rows, side="right") - 1
        places = [np.flatnonzero(part_of == i) for i in range(len(self.parts))]
        found = [
            part.read(rows[at] - start)
            for part, at, start in zip(self.parts, places, self.starts, strict=False)
            if len(at)
        ]
        return np.concatenate(found)[np.argsort(np.concatenate(places))]

    def fingerprint(self) -> str:
        return " + ".join(part.fingerprint() for part in self.parts)


def joined(parts: Sequence[Pictures]) -> Pictures:
    """One after the other, or the only one as it is."""
    return parts[0] if len(parts) == 1 else Joined(parts)


class Chosen(Pictures):
    """Some of the images of others."""

    def __init__(self, pictures: Pictures, rows: NDArray[np.int64]) -> None:
        self.pictures, self.rows = pictures, rows
        self.shapes = pictures.shapes

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: NDArray[np.int64]) -> NDArray:
        return self.pictures.read(self.rows[rows])

    def fingerprint(self) -> str:
        return f"{len(self)} ({zlib.crc32(self.rows.data):08x}) of {self.pictures.fingerprint()}"


class Images(NamedTuple):
    """Pictures with labels, split where their source is split."""

    train: Pictures
    test: Pictures
    """Empty where the source has no split of its own."""
    train_labels: NDArray | None = None
    test_labels: NDArray | None = None

    def as_test(self) -> "Images":
        """The same with everything for testing."""
        return Images(Ready(), self.train, None, self.train_labels)


class PictureSamples(Samples):
    """Images of one shape as samples: H · W values, row by row.

    >>> samples = PictureSamples(Stack(np.eye(3).reshape(1, 3, 3), "eye"))
    >>> samples.read(torch.tensor([0])).shape
    torch.Size([1, 9])
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        (shape,) = pictures.shapes
        self.features = int(np.prod(shape))

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, rows: Tensor) -> Tensor:
        if not len(rows):
            return torch.empty(0, self.features)
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows must be from 0 to {len(self) - 1}, got {rows.tolist()}")
        pixels = self.pictures.read(rows.cpu().numpy()).reshape(len(rows), self.features)
        return torch.from_numpy(pixels.astype(np.float32, copy=False))

    def fingerprint(self) -> str:
        return self.pictures.fingerprint()

    def all(self) -> Tensor:
        """All of them in memory, shape (N, M), read a few at a time."""
        result = torch.empty(len(self), self.features)
        at_a_time = max(PIXELS_AT_A_TIME // self.features, 1)
        for rows in torch.arange(len(self)).split(at_a_time):
            result[rows[0] : rows[-1] + 1] = self.read(rows)
        return result
