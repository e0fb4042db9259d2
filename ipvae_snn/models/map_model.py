"""What all models of whole images are: features that may lie anywhere, codes that are maps."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import (
    require_finite,
    require_fitting,
    require_float,
    require_instance,
    require_integer,
    require_number,
)
from ipvae_snn.kernels import convolution
from ipvae_snn.kernels.convolution import from_cells, to_cells
from ipvae_snn.models.base import BaseModel
from ipvae_snn.models.whitening import Whitening
from ipvae_snn.neurons.lateral import TRANSPOSED


class MapModel(BaseModel):
    """A model x ≈ Σ_k φ_k ∗ z_k of images or signals of any size.

    A subclass gives ``run`` and ``mean_code``. Places are ``stride`` pixels apart and lie wherever
    a feature touches the image: codes have the shape (B, K, h, w), h = ⌈H / s⌉ + ⌈k / s⌉ − 1.

    Args:
        channels, latents, kernel_size, stride, dimensions, init_std, learn_scale, scale,
            whitening: as in :class:`~ipvae_snn.models.ConvIPVAE`.
    """

    size_argument: ClassVar[str] = "channels"
    usual_latents: ClassVar[int] = 64

    def __init__(
        self,
        channels: int,
        latents: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...],
        *,
        dimensions: int,
        init_std: float,
        learn_scale: bool,
        scale: float = 1.0,
        whitening: Whitening | None,
    ) -> None:
        super().__init__()
        if whitening is not None:
            require_instance(whitening, "whitening", Whitening)
            if whitening.channels != channels:
                raise ValueError(
                    f"whitening is of {whitening.channels} channel(s), the model of {channels}"
                )
        self.whitening = whitening
        self.channels = self.in_features = require_integer(channels, "channels")
        self.latents = require_integer(latents, "latents")
        if require_integer(dimensions, "dimensions") not in TRANSPOSED:
            raise ValueError(f"dimensions must be 1 or 2, got {dimensions}")
        self.dimensions = dimensions
        self.kernel_size = _sides(kernel_size, "kernel_size", dimensions)
        self.stride = _sides(stride, "stride", dimensions)
        if any(s > k for s, k in zip(self.stride, self.kernel_size, strict=True)):
            raise ValueError(
                f"stride must be at most kernel_size, else pixels lie between the features; got "
                f"{self.stride} and {self.kernel_size}"
            )
        init_std = require_number(init_std, "init_std", least=0)
        self.decoder = nn.utils.skip_init(
            TRANSPOSED[dimensions], latents, channels, self.kernel_size, self.stride, bias=False,
            device=torch.get_default_device(),
        )  # fmt: skip
        self.raw_log_scale = F.raw_log_scale(channels, learn_scale, scale)
        with torch.no_grad():
            self.decoder.weight.normal_(std=init_std)

    @property
    def log_scale(self) -> Tensor | None:
        """log σ per channel as inference uses it, (C,); ``None`` for σ = 1."""
        return None if self.raw_log_scale is None else F.bound_log_scale(self.raw_log_scale)

    @property
    def weight(self) -> Tensor:
        """Features as columns, (C · kernel pixels, K)."""
        return self._features().flatten(1).mT

    def size_of(self, x: Tensor) -> int:
        return prod(x.shape[-self.dimensions - 1 :])

    def reconstruct(self, spk: Tensor, like: Tensor) -> Tensor:
        return self.decode(spk, like.shape[-self.dimensions :])

    def code_rows(self, spk: Tensor) -> Tensor:
        return spk.movedim(2, -1).flatten(1, -2)

    def takes_samples(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == self.dimensions + 1 and shape[0] == self.channels and all(shape)

    def expected_samples(self) -> str:
        return f"(N, {self.channels}, H, W)" if self.dimensions == 2 else f"(N, {self.channels}, L)"

    def code_shape(self, size: Sequence[int]) -> tuple[int, ...]:
        """(K, h, w) of the code of an image of ``size`` (H, W)."""
        return self.latents, *(
            -(-n // s) + -(-k // s) - 1
            for n, s, k in zip(size, self.stride, self.kernel_size, strict=True)
        )

    def decode(self, spk: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """Reconstruction (..., C, H, W) of counts or rates (..., K, h, w).

        Args:
            spk: a code of :meth:`run`.
            size: (H, W) of the image; default the largest with a code of this shape.
        """
        require_float(spk, "spk")
        require_fitting(spk, "spk", like=self.like)
        require_finite(spk, "spk")
        spatial = spk.shape[-self.dimensions :]
        largest = tuple(
            (h - -(-k // s) + 1) * s
            for h, s, k in zip(spatial, self.stride, self.kernel_size, strict=False)
        )
        size = largest if size is None else tuple(size)
        if (
            spk.ndim <= self.dimensions
            or spk.shape[-self.dimensions - 1 :] != self.code_shape(size)
            or not all(n > 0 for n in size)
        ):
            raise ValueError(
                f"spk must have shape (..., {self.latents}, "
                f"{'h, w' if self.dimensions == 2 else 'h'}), a code of an image"
                f"{'' if size == largest else f' of {size}'}, got {tuple(spk.shape)}"
            )
        self.require_together()
        with torch.set_grad_enabled(self.keeps_graph(None, spk)):
            x_hat = self._spread_out(spk.to(self.like.dtype), self._features(), size)
        require_finite(x_hat, "the reconstruction of spk")
        return x_hat

    def spread(self, rate: Tensor, like: Tensor) -> Tensor:
        """Var[Φ z] = Φ² λ of counts with rates λ (..., K, h, w), to the size of ``like``."""
        size = like.shape[-self.dimensions :]
        return self._spread_out(rate, self._features().square(), size)

    def _spread_out(self, code: Tensor, features: Tensor, size: Sequence[int]) -> Tensor:
        """The sum of features wherever they occur in a code (..., K, h, w): (..., C, H, W)."""
        leading = code.shape[: -self.dimensions - 1]
        maps = self._flat(code.flatten(0, len(leading) - 1) if leading else code[None])
        cells = convolution.decode(maps.movedim(1, -1), to_cells(features, self._s))
        images = from_cells(cells, self._s, self._flat_size(size))
        return images.reshape(*leading, self.channels, *size)

    def _require_x(self, x: Any, num_steps: int | None) -> tuple[Tensor, int]:
        """x in the dtype of the weights, and T."""
        require_float(x, "x")
        require_fitting(x, "x", like=self.like)
        one = self.dimensions + 2
        if x.ndim not in (one, one + 1) or not x.numel() or not self.takes_samples(
            tuple(x.shape[-self.dimensions - 1 :])
        ):  # fmt: skip
            sides = "H, W" if self.dimensions == 2 else "L"
            raise ValueError(
                f"x must have shape (B, {self.channels}, {sides}), or (T, B, {self.channels}, "
                f"{sides}) with a frame per timestep, got {tuple(x.shape)}"
            )
        if x.ndim == one and num_steps is None:
            raise ValueError("num_steps is needed for an x that stays")
        steps = len(x) if num_steps is None else require_integer(num_steps, "num_steps")
        if x.ndim > one and steps != len(x):
            raise ValueError(f"x has {len(x)} frames, num_steps is {steps}: leave it out")
        require_finite(x, "x")
        return x.to(self.like.dtype), steps

    # -- two dimensions for both --------------------------------------------------------------

    def _features(self) -> Tensor:
        """Φ, (K, C, k_h, k_w); of signals k_h = 1."""
        weight: Tensor = self.decoder.weight
        return self._flat(weight)

    def _flat(self, values: Tensor) -> Tensor:
        """Signals (..., L) as images (..., 1, L)."""
        return values if self.dimensions == 2 else values.unsqueeze(-2)

    def _unflat(self, values: Tensor) -> Tensor:
        return values if self.dimensions == 2 else values.squeeze(-2)

    def _flat_size(self, size: Sequence[int]) -> tuple[int, int]:
        height, width = size if self.dimensions == 2 else (1, *size)
        return height, width

    @property
    def _s(self) -> tuple[int, int]:
        return self._flat_size(self.stride)

    def _inverse_scale(self) -> Tensor:
        """1 / σ, (C, 1, 1)."""
        log_scale = self.log_scale
        if log_scale is None:
            return self.like.new_ones(self.channels, 1, 1)
        return torch.exp(-log_scale).view(-1, 1, 1)

    # -- files --------------------------------------------------------------------------------

    @classmethod
    def check_sizes(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        found = tuple(getattr(weights.get("decoder.weight"), "shape", ()))
        if found[:2] != (config.get("latents"), config.get("channels")):
            raise ValueError(
                "it is damaged, its features are not of the shape (latents, channels, ...)"
            )

    def _current(self) -> dict[str, Any]:
        return {**super()._current(), "whitening": self.whitening}


def _sides(value: Any, name: str, dimensions: int) -> tuple[int, ...]:
    """A number for each dimension."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * dimensions
    if len(values) != dimensions:
        raise ValueError(f"{name} must be a number or {dimensions} of them, got {value}")
    return tuple(require_integer(v, name) for v in values)
