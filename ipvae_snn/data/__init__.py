"""Images as tensors: natural patches, digits, MNIST, and files of images or arrays."""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.checks import require_integer, require_seed
from ipvae_snn.data.arrays import read_arrays
from ipvae_snn.data.crops import Crops
from ipvae_snn.data.image_files import image_paths, read_folder, read_image
from ipvae_snn.data.images import Chosen, Images, Joined, Split
from ipvae_snn.data.natural import EDGE, is_large_enough, natural_patches, too_small
from ipvae_snn.data.pixels import also
from ipvae_snn.data.readers import digits, find_idx, is_mnist, photographs, read_idx_set
from ipvae_snn.data.sources import Samples

__all__ = ["Crops", "Dataset", "Samples", "load", "read_photograph"]

MAX_SAMPLE_SIDE = 64
"""Images up to 64×64 pixels are samples as they are; larger ones are cut into patches."""
CROP, TEST_CROP = 64, 128
"""Side of the crops of whole images, in pixels; held-out ones are as large as the images allow."""
TRAIN_CROPS = 100_000
IN_MEMORY = 2**30
"""Bytes: samples that take more as float32 are streamed by default."""
TREATMENTS = ("auto", "samples", "patches", "images", "colour")
NAMES = ("natural", "digits", "mnist")
"""Names of data sets; every other source is a path."""
MNIST_PATHS = ("mnist.npz", "MNIST/raw", "mnist", ".")


class Dataset(NamedTuple):
    """Training samples and held-out samples, split by image.

    Attributes:
        train, test: shapes (N, M) and (N', M), float32; or :class:`~ipvae_snn.data.Samples`,
            where they are streamed.
        shape: (H, W) of a sample, H · W = M.
        kind: ``"samples"``, ``"patches"``, or ``"images"``: crops (C, H, W) of whole images, in
            pixels; held-out ones may be larger than ``shape``.
        description: what was done, in one sentence.
        train_labels, test_labels: int64, where the source has labels, else ``None``.
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
    axis: int | None = None,
) -> Dataset:
    """Load a data set by name or path.

    Photographs that are cut into patches are read one at a time; the patches are held in memory.
    Samples are held in memory or streamed, which checks each of them when it is read.

    Args:
        source: ``"natural"``, the photographs in scikit-learn and scikit-image; ``"digits"``, the
            8×8 digits in scikit-learn; ``"mnist"``, from ``data_dir``, as ``mnist.npz`` or as the
            four IDX files, gzipped or not; or a path: a folder of images, a ``.npy`` or ``.npz`` of
            arrays (N, H, W), (N, H, W, colours) or flat (N, M), a folder of IDX files, or one of
            them. ``docs/data.md`` says what is read, how, and what is refused.
        treat: ``"samples"``: each image is a sample in [0, 1]; ``"patches"``: images are cut into
            whitened patches; ``"images"``: whole images, of any sizes, as :class:`Crops` in [0, 1],
            ``"colour"``: the same in red, green and blue; ``"auto"``: samples up to 64×64 pixels,
            patches above.
        data_dir: folder of ``"mnist"``.
        patches: how many patches to cut for training and for testing; of whole images, crops for
            testing.
        patch_size: side of a patch in pixels.
        seed: draws the positions of patches, and the split where the source has none (every fifth
            image, after shuffling, is held out).
        hold_out: split a source that has no split of its own; ``False`` makes all its images test
            images.
        stream: leave samples in their files and read them in batches; by default if they would take
            more than ``IN_MEMORY`` bytes. An ``.npz`` that unpacks to more must be uncompressed.
        axis: the axis of arrays that counts the images, where their shape leaves it open: 0 for
            (N, H, W), −1 for (H, W, N).

    Raises:
        FileNotFoundError: no such path.
        ValueError: no images, unreadable or unfitting ones, too few to split, or a split by half.
        ImportError: the extra ``data`` is needed and not installed.
    """
    if not isinstance(source, str | Path):
        raise TypeError(
            f"source must be the name of a data set or a path, got {type(source).__name__}: save "
            "arrays as .npy, or hand them to fit as a tensor (N, M)"
        )
    if treat not in TREATMENTS:
        raise ValueError(f"treat must be one of {', '.join(TREATMENTS)}, got {treat!r}")
    if treat == "colour" and source in ("natural", "digits"):
        raise ValueError(f"the images of {source!r} are read as grey ones: take 'images'")
    counts = tuple(require_integer(count, "patches", least=0) for count in patches)
    if len(counts) != 2:
        raise ValueError(f"patches must be two numbers, for training and testing, got {patches}")
    require_integer(patch_size, "patch_size", least=4)
    require_seed(seed)
    axis = None if axis is None else require_integer(axis, "axis", least=-4)
    limit = sys.maxsize if stream is False else IN_MEMORY
    name, images = _read(source, Path(data_dir), limit, axis)
    shapes = images.train.shapes | images.test.shapes
    if treat == "auto":
        sides = [side for shape in shapes if len(shape) == 2 for side in shape]
        treat = "patches" if max(sides, default=0) > MAX_SAMPLE_SIDE else "samples"
    if hold_out and not len(images.train):
        raise ValueError(
            f"{name} holds test images only, and these are not learned from "
            f"({images.notes[0]}): add images to train on, or rename these"
        )
    if not len(images.test) and hold_out:
        images = _split(images, name, seed, least=2 if treat == "samples" else 1)
    elif not (len(images.test) and len(images.train)):
        test, labels = images.train, images.train_labels
        if len(images.test):
            test, labels = images.test, images.test_labels
        images = Split(Chosen(test, np.arange(0)), test, None, labels, images.notes)
    if treat in ("images", "colour"):
        return _as_images(name, images, counts[1], seed, colour=treat == "colour")
    if treat == "patches":
        return _as_patches(name, images, counts, patch_size, seed)
    return _as_samples(name, images, stream)


def _read(
    source: str | Path, data_dir: Path, limit_bytes: int, axis: int | None
) -> tuple[str, Split]:
    if source == "natural":
        return "photographs of scikit-learn and scikit-image", photographs()
    if source == "digits":
        return "digits of scikit-learn", digits()
    path = _mnist_path(data_dir) if source == "mnist" else Path(source)
    if not str(source):
        raise ValueError("the data set must be named: natural, digits, mnist or a path")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: expected natural, digits, mnist or a path")
    if path.is_file() and path.suffix.lower() in (".npy", ".npz"):
        return str(path), read_arrays(path, limit_bytes, axis)
    idx, files = find_idx(path), list[Path]()
    if path.is_dir() and not idx:
        files = image_paths(path)
        idx = [] if files else find_idx(path, nested=True)
    if idx:
        return str(path), read_idx_set(idx, str(path))
    if path.is_dir():
        return str(path), read_folder(path, files)
    raise ValueError(
        f"{path} is neither a folder nor a file .npy or .npz: put images, or the four IDX files of "
        "MNIST, in a folder of their own, and save arrays of other files as .npy"
    )


def _mnist_path(data_dir: Path) -> Path:
    for path in (data_dir / name for name in MNIST_PATHS):
        if is_mnist(path) or (path.suffix == ".npz" and path.is_file()):
            return path
    raise FileNotFoundError(
        f"no MNIST in {data_dir.resolve()}: expected mnist.npz or the four IDX files there; name "
        "another folder with data_dir (--data-dir), or give their path"
    )


def _split(images: Split, name: str, seed: int, least: int) -> Split:
    """Hold out every fifth training image, and at least ``least``."""
    count = len(images.train)
    if count < 2 * least:
        raise ValueError(
            f"{name} holds {count} image(s): at least {2 * least} are needed, {least} to hold out"
        )
    order = np.random.default_rng(seed).permutation(count)
    held_out, train = map(np.sort, np.split(order, [max(math.ceil(count / 5), least)]))
    parts = Chosen(images.train, train), Chosen(images.train, held_out)
    labels = images.train_labels
    if labels is None:
        return Split(*parts, notes=images.notes)
    return Split(*parts, labels[train], labels[held_out], images.notes)


def _as_patches(name: str, images: Split, counts: Sequence[int], size: int, seed: int) -> Dataset:
    if any(len(shape) != 2 for shape in images.train.shapes | images.test.shapes):
        raise ValueError(f"{name} holds flat samples: patches can only be cut from images (H, W)")
    for part in (images.train, images.test):
        _require_size(part, size)
    count = counts[0] if len(images.train) else 0
    train = natural_patches(images.train, count, size=size, seed=seed)
    test = natural_patches(images.test, counts[1], size=size, seed=seed + 1)
    description = (
        f"{name}: whitened {size}×{size} patches, {len(train):,} from {len(images.train)} images, "
        f"{len(test):,} held out from {len(images.test)} others{_said(images)}"
    )
    x, y = torch.from_numpy(train), torch.from_numpy(test)
    return Dataset(x, y, (size, size), "patches", description)


def read_photograph(path: str | Path, channels: int = 1) -> Tensor:
    """The image of a file in [0, 1], upright: grey, (1, H, W), or in colour, (3, H, W).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read as an image, or channels are neither 1 nor 3.
        ImportError: the extra ``data`` is needed and not installed.
    """
    if channels not in (1, 3):
        raise ValueError(f"a photograph has 1 or 3 channels, got {channels}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file: expected an image")
    return _tensor(read_image(path, colour=channels == 3), 0)


def _as_images(name: str, images: Split, count: int, seed: int, *, colour: bool) -> Dataset:
    """Whole images without the pixels at their borders, which are unreliable in JPEG files."""
    parts = []
    for part in (images.train, images.test):
        if any(len(shape) != 2 for shape in part.shapes):
            raise ValueError(f"{name} holds flat samples: whole images have the shape (H, W)")
        sides = [side for shape in part.shapes for side in shape]
        edge = EDGE if min(sides, default=0) >= CROP + 2 * EDGE else 0
        pixels = (part.colour(row) if colour else part[row] for row in range(len(part)))
        parts.append([_tensor(image, edge) for image in pixels])
    train, test = parts
    smallest = min(min(image.shape[1:]) for image in (*train, *test))
    crop, side = min(CROP, smallest), min(TEST_CROP, smallest)
    description = (
        f"{name}: whole images{' in colour' if colour else ''}, {len(train):,} to train on in "
        f"crops of {crop}×{crop} pixels, "
        f"{len(test):,} others held out in crops of {side}×{side}{_said(images)}"
    )
    learned = Crops(train, crop, TRAIN_CROPS, seed) if train else Crops(test, crop, 1, seed)
    held_out = Crops(test, side, max(count, 2), seed + 1)
    return Dataset(learned, held_out, (crop, crop), "images", description)


def _tensor(image: NDArray[Any], edge: int) -> Tensor:
    """An image (H, W) or (C, H, W) as a tensor (C, H − 2 edge, W − 2 edge)."""
    height, width = image.shape[-2:]
    inner = image[..., edge : height - edge, edge : width - edge]
    return torch.from_numpy(np.array(inner, np.float32)).reshape(-1, *inner.shape[-2:])


def _require_size(images: Images, size: int) -> None:
    """Refuse images too small for a patch, by the name of the first."""
    if all(is_large_enough(shape, size) for shape in images.shapes):
        return
    small = [row for row in range(len(images)) if not is_large_enough(images.shape_of(row), size)]
    if small:  # shapes of images that were not chosen are among the others
        more = also(len(small) - 1, len(images))
        raise too_small(images.name_of(small[0]), images.shape_of(small[0]), size, more)


def _said(images: Split) -> str:
    return "".join(f"; {note}" for note in images.notes)


def _odd_one_out(images: Images) -> tuple[str, str, int]:
    """An image of the rarest size, described, with the most frequent size and its count."""
    shapes = [images.shape_of(row) for row in range(len(images))]
    by_count = Counter(shapes).most_common()
    row = shapes.index(by_count[-1][0])
    odd, usual = ("×".join(map(str, shape)) for shape in (shapes[row], by_count[0][0]))
    return f"{images.name_of(row)} has {odd}", usual, by_count[0][1]


def _as_samples(name: str, images: Split, stream: bool | None) -> Dataset:
    train, test = images.train, images.test
    shapes = sorted(train.shapes | test.shapes)
    if len(shapes) > 1:
        odd, usual, count = _odd_one_out(Joined([train, test]))
        raise ValueError(
            f"{name} holds images of different sizes: {odd} pixels, while {count:,} of "
            f"{len(train) + len(test):,} have {usual}; resize them to one size, or cut patches "
            "(treat='patches', --as patches)"
        )
    size = math.prod(shapes[0])
    side = math.isqrt(size)
    flat = (side, side) if side * side == size else (1, size)
    height, width = shapes[0] if len(shapes[0]) == 2 else flat
    stream = 4 * size * (len(train) + len(test)) > IN_MEMORY if stream is None else stream
    description = (
        f"{name}: samples of {height}×{width} as they are, in [0, 1], {len(train):,} to train on, "
        f"{len(test):,} others held out{_said(images)}"
        f"{', read as they are needed' if stream else ''}"
    )
    x, y = (part if stream and len(part) else part.read_all() for part in (train, test))
    return Dataset(x, y, (height, width), "samples", description, *images[2:4])
