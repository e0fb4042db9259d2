"""Small valid files of samples, and readers that use their content, for :mod:`fuzz_files`."""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ipvae_snn import data
from ipvae_snn.data.image_files import ImageFiles
from ipvae_snn.data.readers import read_idx

COUNT, HEIGHT, WIDTH = 12, 9, 7


def stack() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (COUNT, HEIGHT, WIDTH), dtype=np.uint8)


def make_idx(path: Path) -> None:
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, COUNT, HEIGHT, WIDTH)
    content = header + stack().tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def read_idx_values(path: Path) -> None:
    values = read_idx(path)[:]
    assert values.dtype == np.uint8


def make_npy(path: Path) -> None:
    np.save(path, stack() / np.float32(255))


def make_npz(path: Path) -> None:
    images, labels = stack(), np.arange(COUNT)
    np.savez(path, x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])


def read_data_set(path: Path) -> None:
    """Read in memory and streamed; both must accept the same files and give the same samples."""
    in_memory = data.load(path, hold_out=False, patches=(8, 8), patch_size=4).test
    assert isinstance(in_memory, torch.Tensor)
    assert in_memory.isfinite().all()
    streamed = data.load(path, hold_out=False, patches=(8, 8), patch_size=4, stream=True).test
    values = (
        streamed
        if isinstance(streamed, torch.Tensor)
        else streamed.read(torch.arange(len(streamed)))
    )
    assert torch.equal(in_memory, values)


def make_image(path: Path) -> None:
    """An image with smooth and detailed regions, in the colour mode of its format."""
    y, x = np.mgrid[:40, :60]
    pixels = np.stack([4 * x, 6 * y, (x * y) % 256], -1).astype(np.uint8)
    image = Image.fromarray(pixels)
    grey = path.suffix == ".pgm"
    options = {"compression": "tiff_lzw"} if path.suffix == ".tif" else {}
    (image.convert("L") if grey else image).save(path, **options)


def read_picture(path: Path) -> None:
    values = ImageFiles([path]).read_all()
    assert values.isfinite().all()
    assert values.min() >= 0
    assert values.max() <= 1
