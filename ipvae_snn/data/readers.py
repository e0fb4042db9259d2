"""MNIST's files, and what installed packages carry. Nothing is downloaded."""

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.untrusted import MAX_DEFLATED
from ipvae_snn.data.pictures import Images, InFile, Ready, Stack
from ipvae_snn.data.pixels import to_grey, to_unit

TRAIN_PHOTOGRAPHS = (
    "sklearn:china", "sklearn:flower", "astronaut", "chelsea", "rocket", "motorcycle_left",
    "coins",
)  # fmt: skip
TEST_PHOTOGRAPHS = ("camera", "coffee")

MNIST_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def read_idx(path: Path) -> NDArray | InFile:
    """An IDX file of bytes (the format of MNIST), gzipped or not; left where it is if it is not.

    Raises:
        ValueError: it is no such file, or truncated.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if zipped:
                with gzip.open(file) as unzipped:
                    return _unzipped_idx(unzipped, path)
            shape = _idx_shape(file, path)
            start = file.tell()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    _require_size(path.stat().st_size - start, shape, path)
    return InFile(path, shape, np.dtype(np.uint8), start)


def _idx_shape(file: BinaryIO | gzip.GzipFile, path: Path) -> tuple[int, ...]:
    start = file.read(4)
    axes = start[3] if start[:3] == b"\x00\x00\x08" and len(start) == 4 else 0
    sizes = file.read(4 * axes)
    if not 1 <= axes <= 4 or len(sizes) != 4 * axes:
        raise ValueError(f"{path} is no IDX file of bytes: its header does not say so")
    return tuple(int(n) for n in np.frombuffer(sizes, ">u4"))


def _unzipped_idx(file: BinaryIO | gzip.GzipFile, path: Path) -> NDArray:
    shape = _idx_shape(file, path)
    count = math.prod(shape)
    if count > MAX_DEFLATED * path.stat().st_size:
        raise ValueError(f"{path} is damaged: it is too small to hold the shape {shape}")
    body = file.read(count + 1)  # one more than there is: the checksum comes at the end
    _require_size(len(body), shape, path)
    return np.frombuffer(body, np.uint8).reshape(shape)


def _require_size(count: int, shape: tuple[int, ...], path: Path) -> None:
    if count != math.prod(shape):
        raise ValueError(f"{path} is damaged: not as many values as its shape {shape} promises")


def read_mnist_idx(folder: Path) -> Images:
    """The four IDX files of MNIST in a folder, under their original names, gzipped or not.

    Raises:
        ValueError: one is missing or damaged, or holds something else.
    """
    arrays = {}
    for key, name in MNIST_FILES.items():
        found = [p for p in (folder / name, folder / f"{name}.gz") if p.is_file()]
        if not found:
            raise ValueError(f"{folder} lacks {name} (or {name}.gz)")
        arrays[key] = read_idx(found[0])
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"].shape, arrays[f"y_{part}"].shape
        if len(images) != 3 or 0 in images or labels != images[:1]:
            raise ValueError(
                f"{folder} holds {part} images of shape {images} and labels of shape {labels}: "
                "expected (N, H, W) and (N,)"
            )
    train, test = (Stack(arrays[f"x_{p}"], MNIST_FILES[f"x_{p}"]) for p in ("train", "test"))
    return Images(train, test, arrays["y_train"][:], arrays["y_test"][:])


def is_mnist_idx(folder: Path) -> bool:
    """Whether a folder holds MNIST's IDX files."""
    name = MNIST_FILES["x_train"]
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def digits() -> Images:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels; every fifth is held out."""
    bunch = require_extra("sklearn.datasets", extra="data").load_digits()
    images, labels = bunch.images.astype(np.float32) / 16, bunch.target
    held_out = np.arange(len(images)) % 5 == 4
    train, test = Stack(images[~held_out], "digits"), Stack(images[held_out], "digits")
    return Images(train, test, labels[~held_out], labels[held_out])


def photographs() -> Images:
    """The photographs that scikit-learn and scikit-image carry; ``camera``, ``coffee`` held out."""
    return Images(
        Ready([_photograph(name) for name in TRAIN_PHOTOGRAPHS]),
        Ready([_photograph(name) for name in TEST_PHOTOGRAPHS]),
    )


def _photograph(name: str) -> NDArray:
    # Averaged 2×2: at full size these carry sensor noise, which whitening would make features of.
    if name.startswith("sklearn:"):
        datasets = require_extra("sklearn.datasets", extra="data")
        pixels = datasets.load_sample_image(f"{name.removeprefix('sklearn:')}.jpg")
    elif name == "motorcycle_left":
        pixels = require_extra("skimage.data", extra="data").stereo_motorcycle()[0]
    else:
        pixels = getattr(require_extra("skimage.data", extra="data"), name)()
    grey = to_grey(to_unit(pixels[None, ...], lambda _: name), name)[0]
    height, width = (side // 2 * 2 for side in grey.shape)
    transform = require_extra("skimage.transform", extra="data")
    return transform.downscale_local_mean(grey[:height, :width], (2, 2))
