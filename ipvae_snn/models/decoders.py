"""Networks from counts to what a likelihood needs of every pixel."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_integer, require_number
from ipvae_snn.models.generative import DECODERS, Decoder

GAIN = 3.0
"""On PyTorch's initial weights of the first layer: inputs are few spikes among many zeros."""


def _first_layer(latents: int, size: int, gain: float) -> nn.Linear:
    layer = nn.Linear(latents, size)
    with torch.no_grad():
        layer.weight.mul_(require_number(gain, "gain", least=0))
    return layer


@DECODERS.register("network")
class NetworkDecoder(Decoder):
    """η of counts by layers of SiLU neurons, the last one linear.

    Args:
        latents: K.
        in_features: M.
        hidden: sizes of the layers between.
        gain: on the initial weights of the first layer, so that single spikes change something.

    >>> NetworkDecoder(latents=8, in_features=16, hidden=[32])(torch.ones(5, 8)).shape
    torch.Size([5, 16])
    """

    def __init__(
        self, latents: int, in_features: int, hidden: Sequence[int] = (512,), gain: float = GAIN
    ) -> None:
        super().__init__()
        require_integer(latents, "latents")
        sizes = [require_integer(size, "a size of hidden") for size in hidden]
        if not sizes:
            raise ValueError("hidden must hold at least one layer: take LinearDecoder for none")
        layers: list[nn.Module] = [_first_layer(latents, sizes[0], gain), nn.SiLU()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.SiLU()]
        layers.append(nn.Linear(sizes[-1], require_integer(in_features, "in_features")))
        self.layers = nn.Sequential(*layers)

    def forward(self, spk: Tensor) -> Tensor:
        eta: Tensor = self.layers(spk)
        return eta


@DECODERS.register("convolutional")
class ConvDecoder(Decoder):
    """η of an image by a layer of maps at a quarter of its size, doubled twice by convolutions.

    Args:
        latents: K.
        shape: of an image, (H, W) or (C, H, W), sides divisible by 4; M is their product.
        channels: maps of the first layer; the second has half as many.
        gain: as in :class:`NetworkDecoder`.

    >>> ConvDecoder(latents=8, shape=[8, 12], channels=4)(torch.ones(5, 8)).shape
    torch.Size([5, 96])
    """

    def __init__(
        self, latents: int, shape: Sequence[int], channels: int = 32, gain: float = GAIN
    ) -> None:
        super().__init__()
        require_integer(latents, "latents")
        sides = [require_integer(side, "a side of shape") for side in shape]
        if len(sides) not in (2, 3) or any(side % 4 for side in sides[-2:]):
            raise ValueError(
                f"shape must be (H, W) or (C, H, W) with sides divisible by 4, got {tuple(sides)}"
            )
        channels = require_integer(channels, "channels", least=2)
        maps = (channels, sides[-2] // 4, sides[-1] // 4)
        last = prod(sides[:-2])
        self.layers = nn.Sequential(
            _first_layer(latents, prod(maps), gain),
            nn.SiLU(),
            nn.Unflatten(1, maps),
            nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(channels // 2, last, 4, stride=2, padding=1),
            nn.Flatten(),
        )

    def forward(self, spk: Tensor) -> Tensor:
        eta: Tensor = self.layers(spk)
        return eta
