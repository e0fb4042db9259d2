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

VALIDATION = {"patches": 2000, "mnist": 5000}
"""The last training samples, which no model is trained on: what is chosen is chosen on them."""


class Samples(NamedTuple):
    """Samples (N, M) of three splits, the shape (H, W) of one sample, and labels if any."""

    train: Tensor
    validation: Tensor
    test: Tensor
    shape: tuple[int, int]
    train_labels: Tensor | None = None
    validation_labels: Tensor | None = None
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
        images = data.load(source, patches=(500, 60) if quick else (100_000, 10_000))
    else:
        images = data.load("digits" if folder is None else folder / "mnist.npz")
    if quick:
        images = images._replace(
            train=images.train[:360],
            test=images.test[:300],
            train_labels=None if images.train_labels is None else images.train_labels[:360],
            test_labels=None if images.test_labels is None else images.test_labels[:300],
        )
    held_out = 60 if quick else VALIDATION[name]
    parts = (images.train[:-held_out], images.train[-held_out:], images.test)
    labels = images.train_labels
    if labels is None:
        return Samples(*parts, images.shape)
    return Samples(*parts, images.shape, labels[:-held_out], labels[-held_out:], images.test_labels)


def spoken_digits(path: Path, size: int = 32) -> Samples:
    """Log spectrograms in [0, 1], ``size`` bands of 125 Hz by ``size`` frames, low bands first.

    Each clip is stretched to the same number of frames. Test: the official indices 0–4 of each
    speaker and digit; validation: 5–6.
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
    x, digit = torch.from_numpy(np.stack(rows).astype(np.float32)), torch.from_numpy(digit).long()
    index = torch.from_numpy(index)
    parts = (index >= 7, (index >= 5) & (index < 7), index < 5)
    return Samples(*(x[part] for part in parts), (size, size), *(digit[part] for part in parts))


def rotated(x: Tensor, shape: tuple[int, int], degrees: float) -> Tensor:
    """Images rotated about their centre; pixels from outside are black."""
    images = x.reshape(-1, *shape).numpy()
    turned = ndimage.rotate(images, degrees, axes=(1, 2), reshape=False, order=1)
    return torch.from_numpy(np.clip(turned, 0, 1).reshape(len(x), -1))


def shifted(x: Tensor, shape: tuple[int, int], down: int, right: int) -> Tensor:
    """Images shifted by whole pixels; pixels from outside are black."""
    moved = ndimage.shift(x.reshape(-1, *shape).numpy(), (0, down, right), order=0)
    return torch.from_numpy(moved.reshape(len(x), -1))
