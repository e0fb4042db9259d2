"""Sources of images: read from memory or from files, in batches, as grey values in [0, 1]."""

import math
import os
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn.data.pixels import to_grey, to_unit
from ipvae_snn.data.sources import Samples

MAX_BATCH_PIXELS = 2**22

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

    @abstractmethod
    def stack(self, rows: Rows) -> NDArray[Any]:
        """The images of one or more indices, shape (n, H, W) or (n, M), float32.

        Raises:
            ValueError: an image is unreadable or holds values outside [0, 1]; names it.
        """

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

    Reads instead of mapping the file: with a map, every row costs a page fault, touched pages count
    as memory in use, and a file that is truncated meanwhile ends the process.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    fortran: bool = False

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
                return self._map_rows(rows) if self.fortran else self._read_rows(file, rows)
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
        """Map the file: in Fortran order, the values of a row are spread all over it."""
        array = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, "F")
        return np.asarray(array[rows])

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


class ImageArray(Images):
    """The images of an array (N, H, W), (N, H, W, C) or (N, C, H, W), or flat ones (N, M).

    >>> images = ImageArray(np.eye(3).reshape(1, 3, 3), "eye")
    >>> images[0].shape, images.read(torch.tensor([0])).shape
    ((3, 3), torch.Size([1, 9]))
    """

    def __init__(self, array: NDArray[Any] | FileArray, name: str) -> None:
        none = np.empty((0, *array.shape[1:]), array.dtype)
        super().__init__(len(array), [to_grey(to_unit(none, lambda _: name), name).shape[1:]])
        self.array, self.name = array, name

    def stack(self, rows: Rows) -> NDArray[Any]:
        images = to_unit(self.array[rows], lambda i: f"{self.name}, image {rows[i]},")
        return to_grey(images, self.name)

    def fingerprint(self) -> str:
        array = self.array
        if isinstance(array, FileArray):
            crc = array.checksum()
        else:
            crc = zlib.crc32(np.ascontiguousarray(array).data)
        return f"{'×'.join(map(str, array.shape))} {array.dtype} {crc:08x}"


class Joined(Images):
    """The images of several sources, one after the other; of no source, no images."""

    def __init__(self, sources: Sequence[Images]) -> None:
        shapes = (shape for source in sources for shape in source.shapes)
        super().__init__(sum(map(len, sources)), shapes)
        self.sources, self.starts = sources, np.cumsum([0, *map(len, sources)])

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

    def fingerprint(self) -> str:
        return " + ".join(source.fingerprint() for source in self.sources)


class Chosen(Images):
    """Some images of another source, in the order given, or none."""

    def __init__(self, images: Images, rows: Rows) -> None:
        super().__init__(len(rows), images.shapes)
        self.images, self.rows = images, rows

    def stack(self, rows: Rows) -> NDArray[Any]:
        return self.images.stack(self.rows[rows])

    def fingerprint(self) -> str:
        return f"{len(self)} ({zlib.crc32(self.rows.data):08x}) of {self.images.fingerprint()}"


class Split(NamedTuple):
    """Images for training and for testing, and their labels (int64) where there are any."""

    train: Images
    test: Images = Joined(())
    """Empty where the source has no split of its own."""
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
