"""The spike code of one image: made, decoded, written to a file and read."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float, require_instance, require_integer
from ipvae_snn._utils.npz_files import read_npz, write_npz
from ipvae_snn.models.convolutional import ConvIPVAE
from ipvae_snn.surrogate import rounded


@dataclass(frozen=True, eq=False)
class ImageCode:
    """Spike counts of one image at some timesteps.

    Attributes:
        spk: counts, integers, (S, K, h, w).
        steps: the timestep of each, from 1; S of them, ascending.
        size: (H, W) of the image.
        dictionary: checksum of the features that the counts belong to.

    >>> model = ConvIPVAE(channels=1, latents=8, kernel_size=6, stride=2)
    >>> code = encode_image(model, torch.rand(1, 20, 31), steps=(4, 16), seed=0)
    >>> code.spk.shape, code.steps
    (torch.Size([2, 8, 12, 18]), (4, 16))
    >>> decode_image(model, code).shape
    torch.Size([2, 1, 20, 31])
    """

    spk: Tensor
    steps: tuple[int, ...]
    size: tuple[int, int]
    dictionary: str

    version: ClassVar[int] = 1

    def save(self, path: str | Path) -> None:
        """Write to an ``.npz`` file, whole or not at all; it holds numbers and one string."""
        content = {"spk": self.spk.numpy(), "steps": self.steps, "size": self.size}
        write_npz(path, "ImageCode", self.version, {**content, "dictionary": self.dictionary})

    @classmethod
    def load(cls, path: str | Path) -> "ImageCode":
        """Read what :meth:`save` wrote; runs no code from the file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, or damaged.
        """
        content = read_npz(path, "ImageCode", cls.version)
        spk, steps, size, dictionary = (
            np.asarray(content.get(name)) for name in ("spk", "steps", "size", "dictionary")
        )
        whole = all(values.dtype.kind in "iu" for values in (spk, steps, size))
        if (
            not whole or spk.ndim != 4 or steps.shape != spk.shape[:1] or size.shape != (2,)
            or not spk.size or spk.min() < 0 or steps.min() < 1 or size.min() < 1
            or dictionary.dtype.kind != "U"
        ):  # fmt: skip
            raise ValueError(f"{path} is damaged: it does not hold the counts of an image")
        height, width = size.tolist()
        return cls(
            torch.from_numpy(_integers(spk)),
            tuple(steps.tolist()),
            (height, width),
            str(dictionary),
        )


@torch.no_grad()
def encode_image(
    model: ConvIPVAE,
    image: Tensor,
    steps: Sequence[int] = (64,),
    *,
    graded: bool = False,
    seed: int | None = None,
) -> ImageCode:
    """The spikes of an image.

    Args:
        model: a convolutional model; where it has a whitening, the image is whitened by it.
        image: (C, H, W), in the units of the images it was trained on; photographs in [0, 1].
        steps: the timesteps whose counts are kept; inference ends with the largest.
        graded: counts are rounded rates, as on chips with graded spikes, in place of draws.
        seed: of the draws.

    Raises:
        TypeError, ValueError: no such model or image; steps that are not ascending.
    """
    model = require_image_model(model)
    require_float(image, "image")
    if image.ndim != 3 or not image.numel() or len(image) != model.channels:
        raise ValueError(
            f"image must have shape ({model.channels}, H, W), got {tuple(image.shape)}"
        )
    require_finite(image, "image")
    kept = tuple(require_integer(step, "steps") for step in steps)
    if not kept or list(kept) != sorted(set(kept)):
        raise ValueError(f"steps must be ascending timesteps, got {kept}")
    x = image if model.whitening is None else model.whitening(image)
    if graded:
        model = copy.deepcopy(model)
        model.neuron.spike_grad = rounded()
    counts, state, done = [], None, 0
    with model.seeded(seed):
        for step in kept:
            out = model.run(x[None].to(model.like), step - done, record=(), state=state)
            state, done = out.state, step
            counts.append(_integers(state.spk[0].cpu().numpy()))
    height, width = image.shape[1:]
    spk = torch.from_numpy(np.stack(counts))
    return ImageCode(spk, kept, (height, width), _checksum(model))


@torch.no_grad()
def decode_image(model: ConvIPVAE, code: ImageCode) -> Tensor:
    """The image of the counts at each of their timesteps, (S, C, H, W).

    Raises:
        TypeError, ValueError: no such model or code, or the code of another dictionary.
    """
    model = require_image_model(model)
    require_instance(code, "code", ImageCode)
    if code.dictionary != _checksum(model):
        raise ValueError(
            "the code was made with another dictionary: decode it with the run that encoded it"
        )
    x_hat = model.decode(code.spk.to(model.like), code.size)
    return x_hat if model.whitening is None else model.whitening.inverse(x_hat)


def require_image_model(model: Any) -> ConvIPVAE:
    """Raise ``TypeError`` or ``ValueError`` unless a model codes whole images."""
    require_instance(model, "model", ConvIPVAE)
    if model.dimensions != 2:
        raise ValueError("model must be one of images, got one of signals (dimensions=1)")
    found: ConvIPVAE = model
    return found


def _integers(counts: NDArray[Any]) -> NDArray[Any]:
    """Counts in the smallest integer type that holds them, and that PyTorch has, too."""
    largest = int(counts.max())
    small = np.uint8 if largest < 2**8 else np.int16 if largest < 2**15 else np.int32
    return counts.astype(small)


def _checksum(model: ConvIPVAE) -> str:
    """Of features and whitening, from their values in float32."""
    weight = model.decoder.weight.detach().cpu().float().contiguous().numpy()
    whitening = None if model.whitening is None else model.whitening.config()
    text = f"{weight.shape} {model.stride} {whitening}"
    return hashlib.sha256(weight.tobytes() + text.encode()).hexdigest()[:16]
