"""Real images as tensors: natural patches, digits, and whatever a path holds."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.checks import require_integer, require_seed
from ipvae_snn.data.arrays import read_arrays
from ipvae_snn.data.image_files import read_folder
from ipvae_snn.data.natural import natural_patches
from ipvae_snn.data.pictures import Chosen, Images, Pictures, PictureSamples
from ipvae_snn.data.readers import digits, is_mnist_idx, photographs, read_mnist_idx
from ipvae_snn.data.sources import Samples

LARGEST_SAMPLE = 64
"""Images up to 64×64 pixels are samples as they are; larger ones are cut into patches."""
IN_MEMORY = 2**30
"""Bytes: samples that take more as float32 are read as they are needed."""
TREATMENTS = ("auto", "samples", "patches")
NAMES = ("natural", "digits", "mnist")
"""Data sets that have names; all else is a path."""
MNIST_NAMES = ("mnist.npz", "MNIST/raw", "mnist", ".")


class Dataset(NamedTuple):
    """Samples for training and held-out samples, split by image.

    Attributes:
        train, test: shapes (N, M) and (N', M), float32; or :class:`~ipvae_snn.data.Samples`,
            where they are read as they are needed.
        shape: (H, W) of a sample, H · W = M.
        kind: ``"samples"`` or ``"patches"``.
        description: what was done, in one sentence.
        train_labels, test_labels: where the source has them, else ``None``.
    """

    train: Tensor | Samples
    test: Tensor | Samples
    shape: tuple[int, int]
    kind: str
    description: str
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None


def load(
    source: str | Path,
    *,
    treat: str = "auto",
    data_dir: str | Path = ".",
    patches: tuple[int, int] = (100_000, 2_000),
    patch_size: int = 16,
    seed: int = 0,
    hold_out: bool = True,
    stream: bool | None = None,
) -> Dataset:
    """Load a data set by name or path.

    Photographs that are cut into patches are read one by one. Patches are in memory; so are
    samples, unless they are streamed: each is then checked when it is read.

    Args:
        source: ``"natural"``, photographs that scikit-learn and scikit-image carry; ``"digits"``,
            8×8 digits that scikit-learn carries; ``"mnist"``, from ``data_dir``, as ``mnist.npz``
            or as the four IDX files, gzipped or not; or a path: a folder of images, a ``.npy`` or
            ``.npz`` of arrays (N, H, W), (N, H, W, colours) or flat (N, M), a folder of IDX files.
        treat: ``"samples"``: each image is a sample in [0, 1]; ``"patches"``: images are cut into
            whitened patches; ``"auto"``: samples up to 64×64 pixels, patches above.
        data_dir: where ``"mnist"`` lies.
        patches: how many patches to cut for training and for testing.
        patch_size: side of a patch in pixels.
        seed: of the places of patches, and of the split where the source has none (every fifth
            image, after shuffling, is held out).
        hold_out: split a source that has no split of its own; otherwise all its images are for
            testing, and none for training.
        stream: leave samples where they are until they are needed; by default if they would take
            more than ``IN_MEMORY`` bytes. An ``.npz`` that unpacks to more must be uncompressed.

    Raises:
        FileNotFoundError: no such path.
        ValueError: no images in it, unreadable or unfitting ones, fewer than two.
        ImportError: the extra ``data`` is needed and not installed.
    """
    if treat not in TREATMENTS:
        raise ValueError(f"treat must be one of {', '.join(TREATMENTS)}, got {treat!r}")
    counts = tuple(require_integer(count, "patches", least=0) for count in patches)
    if len(counts) != 2:
        raise ValueError(f"patches must be two numbers, for training and testing, got {patches}")
    require_integer(patch_size, "patch_size", least=4)
    require_seed(seed)
    name, images = _read(source, Path(data_dir), sys.maxsize if stream is False else IN_MEMORY)
    if treat == "auto":
        largest = max(max(shape) if len(shape) == 2 else 0 for shape in images.train.shapes)
        treat = "patches" if largest > LARGEST_SAMPLE else "samples"
    if not len(images.test):
        least = 2 if treat == "samples" else 1
        images = _split(images, name, seed, least) if hold_out else images.as_test()
    if treat == "patches":
        return _as_patches(name, images, counts, patch_size, seed)
    return _as_samples(name, images, stream)


def _read(source: str | Path, data_dir: Path, limit_bytes: int) -> tuple[str, Images]:
    if source == "natural":
        return "photographs of scikit-learn and scikit-image", photographs()
    if source == "digits":
        return "digits of scikit-learn", digits()
    if source == "mnist":
        found = [data_dir / n for n in MNIST_NAMES if _is_mnist(data_dir / n)]
        if not found:
            raise FileNotFoundError(
                f"no MNIST in {data_dir.resolve()}: expected mnist.npz or the four IDX files "
                "there; name another folder with data_dir (--data-dir), or give their path"
            )
        source = found[0]
    path = Path(source)
    if not str(source):
        raise ValueError("the data set must be named: natural, digits, mnist or a path")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: expected natural, digits, mnist or a path")
    if path.is_dir():
        return str(path), read_mnist_idx(path) if is_mnist_idx(path) else read_folder(path)
    if path.suffix.lower() not in (".npy", ".npz") or not path.is_file():
        raise ValueError(
            f"{path} is neither a folder nor a file .npy or .npz: put images, or the four IDX "
            "files of MNIST, in a folder of their own"
        )
    return str(path), read_arrays(path, limit_bytes)


def _is_mnist(path: Path) -> bool:
    return path.is_file() if path.suffix == ".npz" else is_mnist_idx(path)


def _split(images: Images, name: str, seed: int, least: int) -> Images:
    """Hold out every fifth image, but at least so many."""
    count = len(images.train)
    if count < 2 * least:
        raise ValueError(
            f"{name} holds {count} image(s): at least {2 * least} are needed, {least} to hold out"
        )
    order = np.random.default_rng(seed).permutation(count)
    held_out = np.sort(order[: max(-(-count // 5), least)])
    kept = np.sort(np.setdiff1d(order, held_out))
    labels = images.train_labels
    return Images(
        Chosen(images.train, kept),
        Chosen(images.train, held_out),
        None if labels is None else labels[kept],
        None if labels is None else labels[held_out],
    )


def _as_patches(
    name: str, images: Images, counts: tuple[int, int], size: int, seed: int
) -> Dataset:
    if any(len(shape) != 2 for shape in images.train.shapes | images.test.shapes):
        raise ValueError(f"{name} holds flat samples: patches can only be cut from images (H, W)")
    train = natural_patches(images.train, counts[0], size=size, seed=seed)
    test = natural_patches(images.test, counts[1], size=size, seed=seed + 1)
    return Dataset(
        torch.from_numpy(train),
        torch.from_numpy(test),
        (size, size),
        "patches",
        f"{name}: whitened {size}×{size} patches, {len(train):,} from {len(images.train)} images, "
        f"{len(test):,} held out from {len(images.test)} others",
    )


def _as_samples(name: str, images: Images, stream: bool | None) -> Dataset:
    shapes = sorted(images.train.shapes | images.test.shapes)
    if len(shapes) > 1:
        raise ValueError(
            f"{name} holds images of different sizes ({shapes[0]}, {shapes[-1]}, ...): resize them "
            "to one size, or cut patches (treat='patches', --as patches)"
        )
    flat = shapes[0][-1] if len(shapes[0]) == 1 else 0
    side = int(flat**0.5)
    if flat:
        shape = (side, side) if side * side == flat else (1, flat)
    else:
        shape = (shapes[0][0], shapes[0][1])
    size, count = shape[0] * shape[1], len(images.train) + len(images.test)
    if stream is None:
        stream = 4 * size * count > IN_MEMORY
    how = ", read as they are needed" if stream else ""
    return Dataset(
        _samples(images.train, size, stream),
        _samples(images.test, size, stream),
        shape,
        "samples",
        f"{name}: samples of {shape[0]}×{shape[1]} as they are, in [0, 1], {len(images.train):,} "
        f"to train on, {len(images.test):,} others held out{how}",
        _as_labels(images.train_labels),
        _as_labels(images.test_labels),
    )


def _samples(pictures: Pictures, size: int, stream: bool) -> Tensor | Samples:
    if not len(pictures):
        return torch.empty(0, size)
    samples = PictureSamples(pictures)
    return samples if stream else samples.all()


def _as_labels(labels: NDArray | None) -> Tensor | None:
    return None if labels is None else torch.from_numpy(labels.astype(np.int64))
