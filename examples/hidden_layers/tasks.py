"""The tasks: data in three splits, a network around spiking layers, and a score of its output."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import snntorch as snn
import torch
from torch import Tensor, nn

from ipvae_snn import data, metrics

sys.path.append(str(Path(__file__).parent.parent / "paper"))
from harness.datasets import spoken_digits
from harness.setup import kept, write_json

__all__ = [
    "DISTURBANCES",
    "TASKS",
    "Layer",
    "Part",
    "Task",
    "accuracy",
    "kept",
    "settled",
    "splits_of",
    "write_json",
]

Layer = Callable[..., list[nn.Module]]
"""``layer(K, "flat" | "maps" | "recurrent")``: normalisation, if any, and a spiking layer."""


class Part(NamedTuple):
    """Inputs (N, ...), or (N, T, ...) of sequences, and what is wanted: labels or the inputs."""

    x: Tensor
    wanted: Tensor


@dataclass(frozen=True)
class Task:
    """What a network is to learn.

    Attributes:
        train, validation, test: what networks learn from, what choices are made on, and what is
            reported.
        num_steps: T, for an input that stays; ``None`` for sequences.
        network: makes it, from a function that makes its spiking layers.
        loss: of the outputs at all timesteps, (T, B, ...), and what is wanted.
        score: of :func:`settled` outputs: accuracy, or R².
        epochs: of the final training.
        images: the input is an image.
    """

    train: Part
    validation: Part
    test: Part
    num_steps: int | None
    network: Callable[[Layer], nn.Sequential]
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]
    epochs: int
    images: bool = True


def readout() -> snn.Leaky:
    """Integrates its input over time, without spikes of its own: its membrane is the output."""
    return snn.Leaky(0.9, init_hidden=True, output=True, reset_mechanism="none")


def classifier(splits: list[Part], options: Any) -> Task:
    """One hidden layer, a constant current of the pixels."""
    pixels, hidden = splits[0].x[0].numel(), options.hidden

    def network(layer: Layer) -> nn.Sequential:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden), *layer(hidden, "flat"), nn.Linear(hidden, 10),
            readout(),
        )  # fmt: skip

    return Task(*splits, options.steps or 25, network, cross_entropy, accuracy, 5)


def convolutional(splits: list[Part], options: Any) -> Task:
    """Two convolutions with pooling, then a linear read-out, as in snnTorch's tutorial 6."""
    side = splits[0].x.shape[-1]
    kernel, padding = (5, 0) if side > 10 else (3, 1)
    left = side
    for _ in range(2):
        left = (left + 2 * padding - kernel + 1) // 2

    def network(layer: Layer) -> nn.Sequential:
        return nn.Sequential(
            nn.Unflatten(1, (1, side)),
            nn.Conv2d(1, 12, kernel, padding=padding), nn.MaxPool2d(2), *layer(12, "maps"),
            nn.Conv2d(12, 64, kernel, padding=padding), nn.MaxPool2d(2), *layer(64, "maps"),
            nn.Flatten(), nn.Linear(64 * left**2, 10), readout(),
        )  # fmt: skip

    return Task(*splits, options.steps or 10, network, cross_entropy, accuracy, 5)


def recurrent(splits: list[Part], options: Any) -> Task:
    """One recurrent layer, shown the rows of an image, or the frames of a sound, one by one."""
    rows, hidden = splits[0].x.shape[-1], options.hidden

    def network(layer: Layer) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(rows, hidden), *layer(hidden, "recurrent"), nn.Linear(hidden, 10), readout()
        )

    return Task(*splits, None, network, cross_entropy, accuracy, 10, images=False)


def autoencoder(splits: list[Part], options: Any) -> Task:
    """One hidden layer that is to hold what is needed to draw the image again."""
    splits = [Part(part.x, part.x.flatten(1)) for part in splits]
    pixels, hidden = splits[0].wanted.shape[1], options.hidden

    def network(layer: Layer) -> nn.Sequential:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden), *layer(hidden, "flat"),
            nn.Linear(hidden, pixels), readout(),
        )  # fmt: skip

    return Task(*splits, options.steps or 25, network, squared_error, r2, 5)


TASKS: dict[str, Callable[[list[Part], Any], Task]] = {
    task.__name__: task for task in (classifier, convolutional, recurrent, autoencoder)
}


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """At every timestep, as each is a guess of its own, with noise of its own."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), labels.repeat(len(outputs)))


def settled(outputs: Tensor) -> Tensor:
    """Outputs averaged over the second half of time, (B, ...)."""
    return outputs[len(outputs) // 2 :].mean(0)


def accuracy(output: Tensor, labels: Tensor) -> float:
    return float((output.argmax(-1) == labels).float().mean())


def squared_error(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Of the settled output, in units of the variance of what is wanted."""
    return (settled(outputs) - wanted).square().sum(-1).mean() / wanted.var(0).sum()


def r2(output: Tensor, wanted: Tensor) -> float:
    return float(metrics.r2(wanted, output))


def noisy(x: Tensor) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return (x + 0.3 * noise).clamp(0, 1)


def covered(x: Tensor) -> Tensor:
    """A grey square over a ninth of the image, anywhere."""
    side, x = x.shape[-1], x.clone()
    width = round(side / 3)
    corners = torch.randint(
        side - width + 1, (len(x), 2), generator=torch.Generator().manual_seed(0)
    )
    for image, (row, column) in zip(x, corners.tolist(), strict=True):
        image[row : row + width, column : column + width] = 0.5
    return x


DISTURBANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "noise σ 0.3": noisy,
    "covered": covered,
    "contrast × 0.5": lambda x: 0.5 * x,
    "contrast × 0.25": lambda x: 0.25 * x,
}
"""Of images in [0, 1]."""


def splits_of(options: Any) -> list[Part]:
    """Training, validation and test samples; a tenth of the first is for validation."""
    if str(options.data).endswith("fsdd_8k.npz"):
        sounds = spoken_digits(Path(options.data))
        parts = [
            (sounds.train, sounds.train_labels), (sounds.validation, sounds.validation_labels),
            (sounds.test, sounds.test_labels),
        ]  # fmt: skip
        return [Part(x.unflatten(1, sounds.shape).mT, labels) for x, labels in parts]
    images = data.load(options.data)
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(0))
    held_out = min(5000, len(order) // 5)
    chosen = order[held_out:][: options.images], order[:held_out]
    parts = [(images.train[i], images.train_labels[i]) for i in chosen]
    parts.append((images.test, images.test_labels))
    return [Part(x.unflatten(1, images.shape), labels) for x, labels in parts]
