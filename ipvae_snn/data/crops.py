"""Crops of whole images, of any sizes, as samples to train a convolutional model on."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float, require_integer
from ipvae_snn._utils.seeding import combine
from ipvae_snn.data.sources import Samples, fingerprint_of


class Crops(Samples):
    """Random crops of images (C, H, W): a number of a sample always gives the same crop.

    An image is drawn in proportion to its pixels.

    Args:
        images: (N, C, H, W), or images (C, H, W) of any sizes, floating point.
        size: height and width of a crop, or a number for both.
        count: how many samples there are.
        seed: draws image and place of each.

    Raises:
        TypeError, ValueError: no images, of different channels, or smaller than a crop.

    >>> crops = Crops(torch.rand(3, 1, 40, 60), 16, count=1000)
    >>> crops.read(torch.tensor([5, 7])).shape
    torch.Size([2, 1, 16, 16])
    """

    in_memory = True

    def __init__(
        self,
        images: Tensor | Sequence[Tensor],
        size: int | tuple[int, int] = 64,
        count: int = 100_000,
        seed: int = 0,
    ) -> None:
        sides = size if isinstance(size, tuple) else (size, size)
        self.height, self.width = (require_integer(side, "size") for side in sides)
        self.count, self.seed = require_integer(count, "count"), seed
        self.images = [image.detach() for image in images]
        if not self.images:
            raise ValueError("crops need at least one image")
        for image in self.images:
            require_float(image, "an image")
            if image.ndim != 3 or len(image) != len(self.images[0]):
                raise ValueError(
                    f"images must have shape (C, H, W) with one C for all, got "
                    f"{tuple(image.shape)} after {tuple(self.images[0].shape)}"
                )
            if image.shape[1] < self.height or image.shape[2] < self.width:
                raise ValueError(
                    f"an image of {image.shape[1]}×{image.shape[2]} pixels is smaller than crops "
                    f"of {self.height}×{self.width}: leave it out, or take smaller crops"
                )
            require_finite(image, "an image")
        self.channels = len(self.images[0])
        self.features = self.channels * self.height * self.width
        pixels = torch.tensor([float(image[0].numel()) for image in self.images])
        self._until = pixels.cumsum(0) / pixels.sum()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.channels, self.height, self.width

    def __len__(self) -> int:
        return self.count

    def read(self, rows: Tensor) -> Tensor:
        return torch.stack([self._crop(number) for number in rows.tolist()])

    def _crop(self, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(combine(self.seed, number))
        which, down, across = torch.rand(3, generator=generator).tolist()
        image = self.images[min(int((self._until < which).sum()), len(self.images) - 1)]
        top = int(down * (image.shape[1] - self.height + 1))
        left = int(across * (image.shape[2] - self.width + 1))
        return image[:, top : top + self.height, left : left + self.width]

    def changed(self, function: Callable[[Tensor], Tensor]) -> "Crops":
        """The same crops of images that ``function`` was applied to, each as a whole."""
        images = [function(image) for image in self.images]
        return Crops(images, (self.height, self.width), self.count, self.seed)

    def fingerprint(self) -> str:
        parts = " ".join(fingerprint_of(image) for image in self.images)
        return f"{self.count} crops {self.shape}, seed {self.seed}, of {parts}"
