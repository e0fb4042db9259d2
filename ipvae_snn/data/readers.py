"""Readers: images and labels out of files and of installed packages. Nothing is downloaded."""

import gzip
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipvae_snn.extras import require_extra

IMAGE_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm",
}  # fmt: skip
LUMA = np.array([0.2125, 0.7154, 0.0721], dtype=np.float32)  # ITU-R BT.709, as scikit-image

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


class Images(NamedTuple):
    """Grey images in [0, 1], each (H, W) or flat (M,), split where the source is split."""

    train: list[NDArray]
    test: list[NDArray]
    """Empty where the source has no split of its own."""
    train_labels: NDArray | None = None
    test_labels: NDArray | None = None

    def as_test(self) -> "Images":
        """The same with everything for testing."""
        return Images([], self.train, None, self.train_labels)


def to_unit(array: NDArray, name: str) -> NDArray:
    """Bring numbers to float32 in [0, 1]: integers by their type's range, floats as they are.

    Raises:
        ValueError: no numbers, NaN or infinity, or floats outside [0, 1].
    """
    if array.dtype == bool:
        return array.astype(np.float32)
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:
        return array.astype(np.float32) / np.iinfo(array.dtype).max
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} holds {array.dtype}: expected uint8, uint16 or floats in [0, 1]")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values: remove them first")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} holds values from {low:g} to {high:g}: rescale them to [0, 1] first"
        )
    return array


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


def read_image(path: Path) -> NDArray:
    """One image file as grey (H, W) in [0, 1].

    Raises:
        ValueError: the file cannot be read as an image.
    """
    library = require_extra("PIL.Image", extra="data")
    try:
        with library.open(path) as image:
            plain = image.mode in ("1", "L", "F", "RGB", "RGBA") or image.mode.startswith("I")
            pixels = np.asarray(image if plain else image.convert("RGB"))
    except Exception as error:  # decoders fail in many ways on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as an image: {reason}") from error
    if pixels.dtype == np.int32 and pixels.size and pixels.min() >= 0 and pixels.max() < 2**16:
        pixels = pixels.astype(np.uint16)  # Pillow widens some 16-bit files to 32
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(f"{path} is no image: its pixels have shape {pixels.shape}")
    return to_grey(to_unit(pixels, str(path))[None, ...], str(path))[0]


def read_folder(folder: Path) -> Images:
    """All images of a folder; with subfolders ``train`` and ``test``, split as they are.

    Raises:
        ValueError: there is no image, or one cannot be read.
    """
    if all((folder / part).is_dir() for part in ("train", "test")):
        train, test = (_image_files(folder / part) for part in ("train", "test"))
    else:
        train, test = _image_files(folder), []
    if not train:
        raise ValueError(
            f"{folder} holds no images: expected files ending in "
            + ", ".join(sorted(IMAGE_SUFFIXES))
        )
    return Images([read_image(p) for p in train], [read_image(p) for p in test])


def _image_files(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted(p for p in found if not _is_foreign(p, folder))


def _is_foreign(path: Path, folder: Path) -> bool:
    """Hidden, or among the figures of a run that was written into the folder of its data."""
    between = [p for p in path.parents if p.is_relative_to(folder)]
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return hidden or any((p / "metrics.json").is_file() for p in between)


def read_arrays(path: Path) -> Images:
    """Images of a ``.npy`` or ``.npz``; arrays with "train" or "test" in their name are split so.

    Of an ``.npz``, arrays of one dimension and those named ``y...`` or ``label...`` are labels
    (``y_train`` for ``x_train``) or ignored; flat arrays are samples if there are no images.

    Raises:
        ValueError: the file is damaged, holds Python objects, or no images.
    """
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            alone = isinstance(content, np.ndarray)
            arrays = {"array": content} if alone else dict(content)
    except Exception as error:  # damaged archives fail in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as numpy arrays: {reason}") from error
    chosen = {
        name: array
        for name, array in arrays.items()
        if array.ndim >= 2 and array.size and not name.lower().startswith(("y", "label"))
    }
    stacked = {name: array for name, array in chosen.items() if array.ndim > 2}
    chosen = stacked or chosen  # flat arrays beside images are something else
    if not chosen:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"{path} holds no images: its arrays have the shapes {shapes}")
    stacks = {
        name: to_grey(to_unit(array, f"{path.name}:{name}"), f"{path.name}:{name}")
        for name, array in chosen.items()
    }
    test = [n for n in stacks if "test" in n.lower() or "val" in n.lower()]
    train = [n for n in stacks if "train" in n.lower()]
    if not (train and test):
        train, test = list(stacks), []
    return Images(
        [image for n in train for image in stacks[n]],
        [image for n in test for image in stacks[n]],
        _labels(arrays, train),
        _labels(arrays, test),
    )


def _labels(arrays: dict[str, NDArray], names: list[str]) -> NDArray | None:
    """``y...`` of a single ``x...``, where it is there and of the same length."""
    if len(names) != 1 or not names[0].startswith("x"):
        return None
    labels = arrays.get("y" + names[0][1:])
    return labels if labels is not None and labels.shape == arrays[names[0]].shape[:1] else None


def read_idx(path: Path) -> NDArray:
    """An IDX file of bytes (the format of MNIST), gzipped or not.

    Raises:
        ValueError: it is no such file, or truncated.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path} is no IDX file of bytes: its header does not say so")
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if body.size != int(np.prod(shape, dtype=object)):
        raise ValueError(f"{path} is damaged: {body.size} values for the shape {shape}")
    return body.reshape(shape)


def read_mnist_idx(folder: Path) -> Images:
    """The four IDX files of MNIST in a folder, under their original names, gzipped or not."""
    arrays = {}
    for key, name in MNIST_FILES.items():
        found = [p for p in (folder / name, folder / f"{name}.gz") if p.is_file()]
        if not found:
            raise ValueError(f"{folder} lacks {name} (or {name}.gz)")
        arrays[key] = read_idx(found[0])
    train, test = (to_unit(arrays[k], k) for k in ("x_train", "x_test"))
    return Images(list(train), list(test), arrays["y_train"], arrays["y_test"])


def is_mnist_idx(folder: Path) -> bool:
    """Whether a folder holds MNIST's IDX files."""
    name = MNIST_FILES["x_train"]
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def digits() -> Images:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels; every fifth is held out."""
    bunch = require_extra("sklearn.datasets", extra="data").load_digits()
    images, labels = bunch.images.astype(np.float32) / 16, bunch.target
    held_out = np.arange(len(images)) % 5 == 4
    return Images(
        list(images[~held_out]), list(images[held_out]), labels[~held_out], labels[held_out]
    )


def photographs() -> Images:
    """The photographs that scikit-learn and scikit-image carry; ``camera``, ``coffee`` held out."""
    return Images(
        [_photograph(name) for name in TRAIN_PHOTOGRAPHS],
        [_photograph(name) for name in TEST_PHOTOGRAPHS],
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
    grey = to_grey(to_unit(pixels, name)[None, ...], name)[0]
    height, width = (side // 2 * 2 for side in grey.shape)
    transform = require_extra("skimage.transform", extra="data")
    return transform.downscale_local_mean(grey[:height, :width], (2, 2))
