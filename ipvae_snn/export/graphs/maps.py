"""A convolutional model in a NIR graph: convolutions in place of matrices, for one size of image.

The image enters in pixels, and its reconstruction leaves in cells: the s × s pixels of a cell are
channels, so that no convolution needs a stride but that of the drive.

    1_drive      x ↦ α (Φᵀ Λ x − b)                            Conv2d, stride s
    1_ones, 1_variance   −α ½ diag G, less where a feature reaches beyond the image: by a map of
                 ones, which a convolution with zeros around sees as the neurons see the image
    4_lateral_1_predict, 4_lateral_2_take    z ↦ Φz ↦ −α Φᵀ Λ Φz    two Conv2d
    l02_1_weight   z ↦ Φz                                        Conv2d
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ipvae_snn.export.constants import Floats, NeuronSettings
from ipvae_snn.export.graphs.competition import Convolutions, convolution, predictor
from ipvae_snn.export.graphs.graph_fragment import Fragment
from ipvae_snn.export.graphs.poisson import GraphOptions, poisson_fragment
from ipvae_snn.models.convolutional import ConvIPVAE


@dataclass(frozen=True, eq=False)
class MapConstants(NeuronSettings):
    """Constants of a convolutional model for images of one size; bias and mem_init (K, h, w).

    Attributes:
        features: Φ, (K, C, q s, q s), zeros added to whole cells.
        inverse_scale: 1 / σ, (C, 1, 1).
        stride: s.
        cells: (H, W).
        variance: ½ diag G, as part of ``bias``, (K, h, w).
        competition: of the neurons.
    """

    features: Tensor
    inverse_scale: Tensor
    stride: int
    cells: tuple[int, int]
    variance: Floats
    competition: Convolutions

    @property
    def by_cell(self) -> Tensor:
        """Φ in cells, (K, D, q, q)."""
        return torch.pixel_unshuffle(self.features, self.stride)


def fits(model: ConvIPVAE, size: Sequence[int]) -> bool:
    """Whether images of ``size`` are whole cells of square features."""
    square = model.dimensions == 2 and len({*model.kernel_size}) == len({*model.stride}) == 1
    return square and not any(side % model.stride[0] for side in size)


def map_constants(model: ConvIPVAE, shape: tuple[int, ...] | None) -> MapConstants:
    """The constants of a convolutional model, for images of ``shape`` (C, H, W).

    Raises:
        ValueError: no such shape, one that is not of whole cells, or features that are not square.
    """
    k, s = model.kernel_size[0], model.stride[0]
    if not fits(model, ()):
        raise ValueError(
            "a graph of convolutions takes square features of images: export "
            "models.unrolled(model, size), which has the neurons of all places as one layer"
        )
    if shape is None or len(shape) != 3 or shape[0] != model.channels:
        raise ValueError(
            f"input_shape must be given for a convolutional model, such as ({model.channels}, "
            f"{8 * s}, {8 * s}), got {shape}"
        )
    if not fits(model, shape[1:]):
        fitting = tuple(side + -side % s for side in shape[1:])
        raise ValueError(
            f"input_shape must have sides that are multiples of the stride, {s}: pad images to "
            f"{fitting[0]}×{fitting[1]}, got {shape[1]}×{shape[2]}"
        )
    neuron, cells = model.neuron, (shape[1] // s, shape[2] // s)
    with torch.no_grad():
        features = pad(model.decoder.weight.double().cpu(), (0, -k % s, 0, -k % s))
        log_scale = model.log_scale
        inverse = torch.ones(model.channels, 1, 1, dtype=torch.float64)
        if log_scale is not None:
            inverse = torch.exp(-log_scale.double().cpu()).view(-1, 1, 1)
        by_cell = torch.pixel_unshuffle(features * inverse, s)
        competition = Convolutions(by_cell, neuron.lateral_scale, cells)
        variance = 0.5 * competition.diagonal * (neuron.form == "exact")
        places = (model.latents, *variance.shape[1:])
        tonic, mem_init = (
            value.double().cpu().expand(model.latents).numpy()[:, None, None]
            for value in (neuron.log_bias.exp(), neuron.mem_init)
        )
        step = float(neuron.log_step.double().exp())
    return MapConstants(
        step=step,
        bias=tonic + variance,
        mem_init=np.broadcast_to(mem_init, places),
        leak=step * neuron.leak,
        clamp=neuron.clamp,
        state_quant=bool(neuron.state_quant),
        features=features,
        inverse_scale=inverse,
        stride=s,
        cells=cells,
        variance=variance,
        competition=competition,
    )


def map_fragments(c: MapConstants, options: GraphOptions) -> list[Fragment]:
    """The neurons with their drive before them, and the decoder."""
    layer = poisson_fragment(c, c.competition, options)
    assert layer.bias is not None
    gain, size = float(layer.gain), tuple(c.stride * n for n in c.cells)
    scaled, reach = c.features * c.inverse_scale, c.features.shape[-1] - c.stride

    def drive(kernels: Tensor, bias: Floats | None = None) -> Any:
        return convolution(kernels, size, stride=c.stride, padding=reach, bias=bias)

    constant = (layer.bias + gain * c.variance)[:, 0, 0]
    before = {"1_drive": drive(gain * scaled * c.inverse_scale, constant)}
    edges, entries = [("1_drive", layer.entries[0])], ["1_drive"]
    if c.variance.any():
        channels = c.features.shape[1]
        before["1_ones"] = convolution(torch.zeros(1, channels, 1, 1), size, bias=np.ones(1))
        square = scaled.square().sum(1, keepdim=True)
        before["1_variance"] = drive(-0.5 * gain * c.competition.scale * square)
        edges += [("1_ones", "1_variance"), ("1_variance", layer.entries[0])]
        entries.append("1_ones")
    layer.nodes, layer.edges = {**before, **layer.nodes}, [*edges, *layer.edges]
    layer.entries, layer.gain, layer.bias = tuple(entries), 1.0, None
    decoder = convolution(predictor(c.by_cell) * layer.out_scale, layer.shape[1:])
    layer.out_scale = 1.0
    shape = (len(c.by_cell[0]), *c.cells)
    return [layer, Fragment.single("1_weight", decoder, shape, linear=True)]
