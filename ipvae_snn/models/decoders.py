"""Networks from counts to what a likelihood needs of every pixel."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as nnF
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


@DECODERS.register("maps")
class MapDecoder(Decoder):
    """η of an image by one transposed convolution of maps of neurons: linear, Φ shared by places.

    The neurons of an :class:`~ipvae_snn.IPVAE` with it lie side by side, map by map: K is channels
    · h · w with h = (H − kernel) / stride + 1, and each has its own u₀. So a convolutional layer
    can have a flat one above (:class:`~ipvae_snn.models.DeepIPVAE`). For large images take
    :class:`~ipvae_snn.ConvIPVAE`, which has kernels.

    Args:
        shape: of an image, (H, W) or (C, H, W).
        channels: maps.
        kernel, stride: of the convolution; H − kernel and W − kernel are multiples of the stride.
        init_std: standard deviation of the initial Φ.

    >>> decoder = MapDecoder(shape=[8, 12], channels=4, kernel=4, stride=2)
    >>> decoder.latents, decoder(torch.ones(5, decoder.latents)).shape
    (60, torch.Size([5, 96]))
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int,
        kernel: int = 8,
        stride: int = 4,
        init_std: float = 1e-2,
    ) -> None:
        super().__init__()
        sides = [require_integer(side, "a side of shape") for side in shape]
        channels = require_integer(channels, "channels")
        kernel, self.stride = require_integer(kernel, "kernel"), require_integer(stride, "stride")
        if len(sides) not in (2, 3) or any(
            side < kernel or (side - kernel) % stride for side in sides[-2:]
        ):
            raise ValueError(
                f"shape must be (H, W) or (C, H, W) with sides that are kernel + n stride, got "
                f"{tuple(sides)} with kernel {kernel} and stride {stride}"
            )
        self.maps = (channels, *((side - kernel) // stride + 1 for side in sides[-2:]))
        self.image = (prod(sides[:-2]), *sides[-2:])
        self.latents = prod(self.maps)
        init_std = require_number(init_std, "init_std", least=0)
        self.weight = nn.Parameter(init_std * torch.randn(channels, self.image[0], kernel, kernel))

    def forward(self, spk: Tensor) -> Tensor:
        maps = spk.unflatten(-1, self.maps)
        return nnF.conv_transpose2d(maps, self.weight, stride=self.stride).flatten(1)

    def squares(self, curvature: Tensor, spk: Tensor) -> Tensor:
        images = curvature.unflatten(-1, self.image)
        return nnF.conv2d(images, self.weight.square(), stride=self.stride).flatten(1)


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
