"""The data sets, or without a folder of them, small ones that come with scikit-learn."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage, signal
from torch import Tensor

from ipvae_snn import data

from harness.setup import Setup


class Samples(NamedTuple):
    """Training and held-out samples (N, M), the shape (H, W) of one sample, and labels if any."""

    train: Tensor
    test: Tensor
    shape: tuple[int, int]
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None


def load(setup: Setup, name: str) -> Samples:
    """``"patches"``, ``"mnist"`` or ``"speech"``."""
    return _load(name, setup.data, setup.quick)


@cache
def _load(name: str, folder: Path | None, quick: bool) -> Samples:
    if name == "speech" and folder is not None:
        return spoken_digits(folder / "fsdd_8k.npz")
    if name == "patches":
        source = "natural" if folder is None else folder / "natural_images.npz"
        images = data.load(source, patches=(500, 60) if quick else (100_000, 2_000))
    else:
        images = data.load("digits" if folder is None else folder / "mnist.npz")
    first = slice(0, 300 if quick else None)
    labels = (images.train_labels, images.test_labels)
    return Samples(
        images.train[first],
        images.test[first],
        images.shape,
        *(None if y is None else y[first] for y in labels),
    )


def spoken_digits(path: Path, size: int = 32) -> Samples:
    """Log spectrograms in [0, 1], ``size`` bands of 125 Hz by ``size`` frames, low bands first.

    Each clip is stretched to the same number of frames. Held out: the official test indices 0–4.
    """
    with np.load(path) as file:
        audio, offset = file["audio"].astype(np.float32) / 2**15, file["offset"]
        digit, index, rate = file["digit"], file["index"], int(file["rate"])
    rows = []
    for start, end in pairwise(offset):
        _, _, power = signal.spectrogram(audio[start:end], rate, nperseg=256, noverlap=192)
        bands = power[1:129].reshape(size, -1, power.shape[1]).mean(1)
        level = 10 * np.log10(bands / bands.max() + 1e-6)  # from −60 dB to 0
        frames = ndimage.zoom(level, (1, size / level.shape[1]), order=1)
        rows.append(np.clip(frames / 60 + 1, 0, 1).reshape(-1))
    x = torch.from_numpy(np.stack(rows).astype(np.float32))
    labels, held_out = torch.from_numpy(digit.astype(np.int64)), torch.from_numpy(index < 5)
    return Samples(x[~held_out], x[held_out], (size, size), labels[~held_out], labels[held_out])


def rotated(x: Tensor, shape: tuple[int, int], degrees: float) -> Tensor:
    """Images rotated about their centre; pixels from outside are black."""
    images = x.reshape(-1, *shape).numpy()
    turned = ndimage.rotate(images, degrees, axes=(1, 2), reshape=False, order=1)
    return torch.from_numpy(np.clip(turned, 0, 1).reshape(len(x), -1))


def shifted(x: Tensor, shape: tuple[int, int], down: int, right: int) -> Tensor:
    """Images shifted by whole pixels; pixels from outside are black."""
    moved = ndimage.shift(x.reshape(-1, *shape).numpy(), (0, down, right), order=0)
    return torch.from_numpy(moved.reshape(len(x), -1))
