"""Lateral inhibition in a NIR graph: one matrix, or two convolutions of a map of neurons."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from ipvae_snn.export.constants import Floats
from ipvae_snn.export.graphs.graph_fragment import array, nir_module

POWER_STEPS = 60
"""Of the power iteration for the largest eigenvalue of a map's G, good for some percent."""


@dataclass
class Wiring:
    """Nodes by name and the edges between them; what enters, and what leaves."""

    nodes: dict[str, Any]
    entries: tuple[str, ...]
    exits: tuple[str, ...]
    edges: list[tuple[str, str]] = field(default_factory=list)


class Competition(Protocol):
    """lateral_scale · G of neurons, in whatever form.

    Attributes:
        diagonal: of it, in the shape of the neurons, in nats per spike.
    """

    diagonal: Floats

    def wiring(self, name: str, factor: float, returned: Floats | None = None) -> Wiring:
        """Nodes for factor · (returned ∘ z − lateral_scale · G z)."""
        ...

    def largest(self) -> float:
        """The largest eigenvalue of G, normalised to a diagonal of 1."""
        ...


def unit_of(diagonal: Floats) -> Floats:
    """The diagonal of G; where it is 0, the median of the others, or 1 if all are 0.

    A neuron without a feature never gets a current; a threshold of 0 would divide by it.
    """
    if not diagonal.max() > 0:
        return np.ones_like(diagonal)
    present = diagonal > 1e-6 * diagonal.max()
    return np.where(present, diagonal, np.median(diagonal[diagonal > 0]))


class Matrix:
    """A matrix, lateral_scale · G, (K, K)."""

    def __init__(self, gram: Floats) -> None:
        self.gram, self.diagonal = gram, np.diag(gram).copy()

    def wiring(self, name: str, factor: float, returned: Floats | None = None) -> Wiring:
        nir = nir_module()
        if returned is None:
            node = nir.Linear(array(-factor * self.gram))
        else:  # toolchains import Affine, and hardly Linear
            weight = array(factor * (np.diag(returned) - self.gram))
            node = nir.Affine(weight, array(0, self.diagonal.shape))
        return Wiring({name: node}, (name,), (name,))

    def largest(self) -> float:
        unit = unit_of(self.diagonal)
        gram = self.gram + np.diag(unit - self.diagonal)
        scale = np.sqrt(unit)
        return float(np.linalg.eigvalsh(gram / np.outer(scale, scale))[-1])


class Convolutions:
    """What a map's spikes add to the image, and the current that this leaves: G = Φᵀ Λ Φ.

    Both are convolutions of cells (D, H, W), images by ``torch.pixel_unshuffle``. Neurons whose
    features reach beyond the image compete only where there are pixels.

    Args:
        features: Φ / σ in cells, (K, D, q, q), float64.
        scale: lateral_scale.
        cells: (H, W).
    """

    def __init__(self, features: Tensor, scale: float, cells: tuple[int, int]) -> None:
        self.features, self.scale, self.cells = features, scale, cells
        self.reach = features.shape[-1] - 1
        ones = features.new_ones(1, features.shape[1], *cells)
        diagonal: Floats = (scale * self._project(ones, features.square()))[0].numpy()
        self.diagonal = diagonal

    def wiring(self, name: str, factor: float, returned: Floats | None = None) -> Wiring:
        predict, current, back = (f"{name}_{part}" for part in ("1_predict", "2_take", "3_return"))
        nodes = {
            predict: convolution(predictor(self.features), self.diagonal.shape[1:]),
            current: convolution(
                -factor * self.scale * self.features, self.cells, padding=self.reach
            ),
        }
        wiring = Wiring(nodes, (predict,), (current,), [(predict, current)])
        if returned is not None:
            nodes[back] = nir_module().Scale(array(factor * returned))
            wiring.entries, wiring.exits = (predict, back), (current, back)
        return wiring

    def largest(self) -> float:
        diagonal = torch.from_numpy(self.diagonal)
        unit = torch.from_numpy(unit_of(self.diagonal))
        vector, value = torch.ones_like(unit)[None] / unit.numel() ** 0.5, 0.0
        for _ in range(POWER_STEPS):
            scaled = vector / unit.sqrt()
            cells = conv2d(scaled, predictor(self.features))
            product = self.scale * self._project(cells, self.features)
            vector = (product + (unit - diagonal) * scaled) / unit.sqrt()
            value = float(vector.norm())
            vector = vector / value
        return value

    def _project(self, cells: Tensor, features: Tensor) -> Tensor:
        return conv2d(cells, features, padding=self.reach)


def predictor(features: Tensor) -> Tensor:
    """Kernels (D, K, q, q) of the convolution that turns spikes into cells."""
    return features.flip(-2, -1).transpose(0, 1)


def convolution(
    kernels: Tensor, size: tuple[int, ...], *, stride: int = 1, padding: int = 0,
    bias: Floats | None = None,
) -> Any:  # fmt: skip
    """A Conv2d node for inputs of ``size`` (H, W)."""
    nir, bias = nir_module(), np.zeros(len(kernels)) if bias is None else bias
    sides = np.array(size)
    return nir.Conv2d(sides, array(kernels), (stride,) * 2, (padding,) * 2, (1, 1), 1, array(bias))
