"""MNIST's files, and images that installed packages carry. Nothing is downloaded."""

import gzip
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.untrusted import MAX_DEFLATED
from ipvae_snn.data.folders import files_below
from ipvae_snn.data.images import (
    FileArray,
    ImageArray,
    Joined,
    Split,
    StoredArray,
    find_encoding,
)
from ipvae_snn.data.pixels import to_grey, to_unit
from ipvae_snn.data.splits import MNIST_TEST, counts_of, divide, listed, part_of, words

OF_SCIKIT_LEARN = ("china", "flower")
OF_SCIKIT_IMAGE = ("astronaut", "chelsea", "rocket", "stereo_motorcycle", "coins")
HELD_OUT = ("camera", "coffee")
MNIST_FILE = "train-images-idx3-ubyte"
IDX_NAME = re.compile(
    r"[-_.]idx[1-4]?[-_.]u?byte(\.gz)?$|\.idx[1-4](\.gz)?$|(image|label)s?\.idx(\.gz)?$",
    re.IGNORECASE,
)
"""Other programs have files that end in ``.idx`` alone."""
IDX_WORDS = ("image", "images", "label", "labels")


def read_idx(path: Path) -> NDArray[Any] | FileArray:
    """An IDX file of bytes (the format of MNIST): unpacked if it is gzipped, else left in the file.

    Raises:
        ValueError: the file is of another format, or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file = gzip.GzipFile(fileobj=raw) if zipped else raw
            shape = _read_idx_shape(file, path)
            count, offset = math.prod(shape), file.tell()
            if zipped and count > MAX_DEFLATED * size:
                raise ValueError(f"{path} is damaged: it is too small to hold the shape {shape}")
            # One byte more than needed: gzip compares the checksum when it meets the end.
            content = file.read(count + 1) if zipped else b""
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if count != (len(content) if zipped else size - offset):
        raise ValueError(f"{path} is damaged: not as many values as its shape {shape} promises")
    if zipped:
        return np.frombuffer(content, np.uint8).reshape(shape)
    return FileArray(path, shape, np.dtype(np.uint8), offset)


def _read_idx_shape(file: BinaryIO | gzip.GzipFile, path: Path) -> tuple[int, ...]:
    start = file.read(4)
    axes = start[3] if start[:3] == b"\x00\x00\x08" and len(start) == 4 else 0
    sizes = file.read(4 * axes)
    if not 1 <= axes <= 4 or len(sizes) != 4 * axes:
        raise ValueError(f"{path} is no IDX file of bytes: its header does not say so")
    return tuple(int(n) for n in np.frombuffer(sizes, ">u4"))


def find_idx(path: Path, *, nested: bool = False) -> list[Path]:
    """IDX files, gzipped or not, by their names: ``train-images-idx3-ubyte``, ``t10k-labels...``.

    Args:
        path: a folder; or the file of some images, which stands for all files of its data set.
        nested: look into subfolders if there are none in the folder itself.

    Raises:
        ValueError: there are some in several subfolders.
    """
    if not path.is_dir():
        beside = find_idx(path.parent) if IDX_NAME.search(path.name) else []
        return [file for file in beside if _set_of(file) == _set_of(path)]
    files = [f for f in path.iterdir() if _is_idx(f)]
    if nested and not files:
        files = [f for f in files_below(path) if _is_idx(f)]
    folders = {f.parent for f in files}
    if len(folders) > 1:
        raise ValueError(
            f"{path} holds the IDX files of several folders: load one of them alone, "
            f"{listed(sorted(map(str, folders)))}"
        )
    return _unpacked(files)


def _is_idx(path: Path) -> bool:
    return bool(path.name[0] != "." and IDX_NAME.search(path.name) and path.is_file())


def is_mnist(path: Path) -> bool:
    """Whether a folder holds MNIST's IDX files."""
    return path.is_dir() and any(not _set_of(file) for file in find_idx(path))


def _unpacked(files: Iterable[Path]) -> list[Path]:
    """Of files that are there gzipped and not, those that are not."""
    found = {f.name.lower().removesuffix(".gz"): f for f in sorted(files, reverse=True)}
    return [found[name] for name in sorted(found)]


def _set_of(file: Path) -> str:
    """The data set in the name of an IDX file, such as ``emnist letters``; empty for MNIST."""
    name = IDX_NAME.split(file.name)[0].lower().replace(MNIST_TEST, "test")
    return " ".join(w for w in words(name) if not part_of(w) and w not in IDX_WORDS)


def read_idx_set(files: Sequence[Path], where: str) -> Split:
    """The images of a data set in IDX files, and their labels where there are any.

    Raises:
        ValueError: files of several data sets, a damaged one, or shapes that do not fit.
    """
    if len(sets := sorted({_set_of(file) for file in files})) > 1:
        raise ValueError(
            f"{where} holds the IDX files of several data sets ({listed(sets)}): name the file of "
            f"the training images of one, such as {files[0]}"
        )
    labels = {part_of(f.name): f for f in files if "label" in f.name.lower()}
    images = {f.name: f for f in files if "label" not in f.name.lower()}
    if not images:
        raise ValueError(f"{where} holds labels, but no images: expected {MNIST_FILE}")
    train, test, others = divide(images, where)
    parts: list[tuple[Path, StoredArray, Tensor | None]] = []
    for names in (train, test):
        if len(names) > 1:
            raise ValueError(
                f"{where} holds several files of one kind: remove all but one, {names}"
            )
        parts += [(images[n], *_read_idx_pair(images[n], labels, where)) for n in names]
    encoding = find_encoding({file.name: pixels for file, pixels, _ in parts})
    read = {f.name: ImageArray(pixels, f.name, encoding) for f, pixels, _ in parts}
    of_file = {file.name: y for file, _, y in parts}
    notes = (
        *counts_of(*({n: len(read[n]) for n in part} for part in (train, test))),
        *encoding.notes,
    )
    return Split(
        Joined([read[n] for n in train]),
        Joined([read[n] for n in test]),
        of_file[train[0]] if train else None,
        of_file[test[0]] if test else None,
        (*notes, f"not read: {listed(others)}") if others else notes,
    )


def _read_idx_pair(
    file: Path, labels: Mapping[Any, Path], where: str
) -> tuple[StoredArray, Tensor | None]:
    """Images of a file, and the labels that belong to it."""
    pixels, part = read_idx(file), part_of(file.name)
    values = read_idx(labels[part]) if part in labels else None
    shape, label_shape = pixels.shape, pixels.shape[:1] if values is None else values.shape
    if len(shape) != 3 or 0 in shape or label_shape != shape[:1]:
        raise ValueError(
            f"{where} holds images of shape {shape} in {file.name} and labels of shape "
            f"{label_shape}: expected (N, H, W) and (N,)"
        )
    return pixels, None if values is None else torch.tensor(values[:], dtype=torch.int64)


def digits() -> Split:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels; every fifth is held out."""
    bunch = require_extra("sklearn.datasets", extra="data").load_digits()
    images = bunch.images.astype(np.float32) / 16
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    held_out = np.arange(len(images)) % 5 == 4
    train, test = ImageArray(images[~held_out], "digits"), ImageArray(images[held_out], "digits")
    return Split(train, test, labels[~held_out], labels[held_out])


def photographs() -> Split:
    """The photographs that scikit-learn and scikit-image carry; ``camera``, ``coffee`` held out."""
    train, test = (
        Joined([ImageArray(_photograph(name)[None], name) for name in names])
        for names in (OF_SCIKIT_LEARN + OF_SCIKIT_IMAGE, HELD_OUT)
    )
    return Split(train, test)


def _photograph(name: str) -> NDArray[Any]:
    if name in OF_SCIKIT_LEARN:
        datasets = require_extra("sklearn.datasets", extra="data")
        pixels = datasets.load_sample_image(f"{name}.jpg")
    else:
        pixels = getattr(require_extra("skimage.data", extra="data"), name)()
    if name == "stereo_motorcycle":
        pixels = pixels[0]  # left eye
    grey = to_grey(to_unit(pixels[None, ...], lambda _: name), name)[0]
    # Averaged 2×2: at full size they carry sensor noise, which whitening would turn into features.
    height, width = (side // 2 * 2 for side in grey.shape)
    transform = require_extra("skimage.transform", extra="data")
    return np.asarray(transform.downscale_local_mean(grey[:height, :width], (2, 2)))
