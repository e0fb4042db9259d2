"""Small valid files of samples, and readers that use their content, for :mod:`fuzz_files`."""

import gzip
import io
import pickle
import struct
import zipfile
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


def make_turned(path: Path) -> None:
    """An image that EXIF data, or a tag of TIFF, say to turn."""
    pixels = np.arange(40 * 60, dtype=np.uint32).reshape(40, 60).astype(np.uint8)
    if path.suffix == ".tif":
        Image.fromarray(pixels).save(path, tiffinfo={0x0112: 6})
    else:
        tags = Image.Exif()
        tags[0x0112] = 6
        Image.fromarray(pixels).save(path, exif=tags)


def make_transparent(path: Path) -> None:
    """A disc on transparent ground: in a channel of its own, or as a colour of the palette."""
    y, x = np.mgrid[:40, :60]
    disc = ((x - 30) ** 2 + (y - 20) ** 2 < 200).astype(np.uint8)
    if path.name.endswith((".palette.png", ".gif")):
        image = Image.fromarray(disc)
        image.putpalette([0, 0, 0, 90, 60, 30])
        image.save(path, transparency=0)
    else:
        colours = np.stack([disc * 90, disc * 60, disc * 30, disc * 255], -1)
        Image.fromarray(colours).save(path)


def make_pages(path: Path) -> None:
    """An image with a preview behind it, which is no page; damaged, it may become one."""
    pixels = np.arange(40 * 60, dtype=np.uint32).reshape(40, 60).astype(np.uint8)
    image = Image.fromarray(pixels)
    preview = image.resize((6, 4))
    preview.encoderinfo = {"tiffinfo": {254: 1}}
    image.save(path, save_all=True, append_images=[preview])


def make_named_npz(path: Path) -> None:
    """Arrays with names of splits, of labels and of nothing, and a member that is none."""
    images = stack()
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (
            ("X_train", images), ("X_val", images[:4]), ("train_labels", np.arange(COUNT)),
            ("extra", images[:2]), ("deep", np.moveaxis(images, 0, -1)),
        ):  # fmt: skip
            file = io.BytesIO()
            np.save(file, array)
            archive.writestr(f"{name}.npy", file.getvalue())
        archive.writestr("meta.npy", pickle.dumps({"of": "whom"}))


def read_picture(path: Path) -> None:
    values = ImageFiles([path]).read_all()
    assert values.isfinite().all()
    assert values.min() >= 0
    assert values.max() <= 1
