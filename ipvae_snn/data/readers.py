"""MNIST's files, and images that installed packages carry. Nothing is downloaded."""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.untrusted import MAX_DEFLATED
from ipvae_snn.data.images import FileArray, ImageArray, Joined, Split
from ipvae_snn.data.pixels import to_grey, to_unit

OF_SCIKIT_LEARN = ("china", "flower")
OF_SCIKIT_IMAGE = ("astronaut", "chelsea", "rocket", "stereo_motorcycle", "coins")
HELD_OUT = ("camera", "coffee")
MNIST_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


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


def read_mnist_idx(folder: Path) -> Split:
    """MNIST from the four IDX files in a folder, under their original names, gzipped or not.

    Raises:
        ValueError: a file is missing or damaged, or the shapes do not fit.
    """
    arrays = {}
    for key, name in MNIST_FILES.items():
        path = _idx_path(folder, name)
        if path is None:
            raise ValueError(f"{folder} lacks {name} (or {name}.gz)")
        arrays[key] = read_idx(path)
    for part in ("train", "test"):
        shape, label_shape = arrays[f"x_{part}"].shape, arrays[f"y_{part}"].shape
        if len(shape) != 3 or 0 in shape or label_shape != shape[:1]:
            raise ValueError(
                f"{folder} holds {part} images of shape {shape} and labels of shape {label_shape}: "
                "expected (N, H, W) and (N,)"
            )
    train, test = (ImageArray(arrays[key], MNIST_FILES[key]) for key in ("x_train", "x_test"))
    labels = [torch.tensor(arrays[key][:], dtype=torch.int64) for key in ("y_train", "y_test")]
    return Split(train, test, *labels)


def is_mnist_idx(folder: Path) -> bool:
    """Whether a folder holds MNIST's IDX files."""
    return _idx_path(folder, MNIST_FILES["x_train"]) is not None


def _idx_path(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


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
