"""One image, timestep by timestep, at a cost in proportion to the spikes where they are few.

Densely, a timestep projects x − Φz, whatever fired. By events, the drive Φᵀx is kept while the
image stays, and a spike of neuron k takes from those around it

    R_kj(Δ) = Σ φ_k(·) φ_j(· − Δ),   (K, 2 q_h − 1, 2 q_w − 1, K)

which is the inhibition of an endless image. Where features reach beyond the image, at a few places
along each border, they explain fewer pixels: there the residual is projected.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ipvae_snn.kernels import native
from ipvae_snn.kernels.convolution import (
    Dictionary,
    MapSpec,
    MapState,
    by_place,
    is_native,
    make_neurons,
)

SLOWER = 9.0
"""How much longer a product takes by events than in a convolution; of two threads, AMD EPYC."""
LISTING = 40
"""Products of a convolution in the time that it takes to look whether a neuron spiked."""


class MapStepper:
    """Timesteps of one image; :meth:`advance` updates ``state`` in place.

    Args:
        spec: of one image, B = 1, and one timestep; its tensors are contiguous.

    Attributes:
        most_events: spikes of a timestep up to which events are the cheaper form; −1: none.
    """

    def __init__(self, spec: MapSpec) -> None:
        self.spec, self.x = spec, by_place(spec.x)
        self.dictionary = Dictionary(spec.weight, spec.mask, events=is_native(spec))
        self.neurons = make_neurons(spec)
        self.state = MapState(spec.spk.clone(), spec.mem.clone(), None)
        self.drive: Tensor | None = None
        self.most_events = -1
        if is_native(spec):
            self.gram, self.edges = gram_of(spec.weight), _edges(spec)
            self.most_events = _most_events(spec, self.edges)

    def show(self, x: Tensor) -> None:
        """Another image of the same size, as cells in units of σ."""
        self.x, self.drive = by_place(x), None

    def advance(self) -> None:
        """One timestep."""
        by_events = int(torch.count_nonzero(self.state.spk)) <= self.most_events
        current = self.current_of_events() if by_events else self.dense_current()
        self.neurons.draw_keys()
        for part in self.neurons.parts():
            self.neurons.advance(0, part.of(current), self.state, part)

    def dense_current(self) -> Tensor:
        """d − zG, (1, h, w, K), by two convolutions."""
        decoded = self.dictionary.decode_spikes(self.state.spk)
        return self.dictionary.project(torch.sub(self.x, decoded, alpha=self.spec.lateral_scale))

    def current_of_events(self) -> Tensor:
        """The same by sums over the neurons that spiked."""
        if self.drive is None:
            self.drive = self.dictionary.project(self.x)
        spk, inhibition = self.state.spk, torch.empty_like(self.state.spk)
        native.inhibit_map(spk[0], self.gram, inhibition[0])
        current = torch.sub(self.drive, inhibition, alpha=self.spec.lateral_scale)
        for axis, width in enumerate(self.edges):
            if width:
                self._correct_edges(current, axis, width)
        return current

    def _correct_edges(self, current: Tensor, axis: int, width: int) -> None:
        """Replace the first and last rows (axis 0) or columns (1) of places by the dense form."""
        spk, before = self.state.spk, self.dictionary.padding[axis]
        decoded = self.dictionary.decode_unmasked(_ends(spk, axis + 1, width + before))
        if self.dictionary.mask is not None:
            decoded = decoded * _ends(self.dictionary.mask[None], axis + 2, width)
        x = _ends(self.x, axis + 2, width)
        residual = torch.sub(x, decoded, alpha=self.spec.lateral_scale)
        above, left = self.dictionary.padding
        seen = pad(residual, (left, left, above, above))
        # Outside are the cells before those of the first places, and after those of the last.
        length = width + before
        seen = torch.cat(
            [seen[:1].narrow(axis + 2, 0, length), seen[1:].narrow(axis + 2, before, length)]
        )
        found = conv2d(seen, self.dictionary.weight).movedim(1, -1)
        places = current.shape[axis + 1]
        current.narrow(axis + 1, 0, width).copy_(found[:1])
        current.narrow(axis + 1, places - width, width).copy_(found[1:])


def _ends(values: Tensor, axis: int, width: int) -> Tensor:
    """The first and the last ``width`` of an axis, as two samples."""
    first, last = values.narrow(axis, 0, width), values.narrow(axis, -width, width)
    return torch.cat([first, last])


def gram_of(weight: Tensor) -> Tensor:
    """R of features (K, D, q_h, q_w): (K, 2 q_h − 1, 2 q_w − 1, K)."""
    rows, columns = weight.shape[-2:]
    overlaps = conv2d(weight, weight, padding=(rows - 1, columns - 1))
    return overlaps.permute(0, 2, 3, 1).contiguous()


def _edges(spec: MapSpec) -> tuple[int, ...]:
    """Rows and columns of places at each end whose features reach beyond the image, at most."""
    depth, height, width = spec.x.shape[-3:]
    mask = spec.weight.new_ones(depth, height, width) if spec.mask is None else spec.mask
    whole = ((mask.amin(0).amax(axis) > 0).sum() for axis in (1, 0))
    return tuple(
        max(reach - 1, places - int(complete))
        for reach, places, complete in zip(
            spec.weight.shape[-2:], spec.mem.shape[1:3], whole, strict=True
        )
    )


def _most_events(spec: MapSpec, edges: tuple[int, ...]) -> int:
    """Spikes up to which sums over them take less time than a convolution; −1: none."""
    _, depth, rows, columns = spec.weight.shape
    height, width = spec.mem.shape[1:3]
    if any(n > side for n, side in zip(edges, spec.x.shape[-2:], strict=True)):
        return -1  # smaller than its edges
    in_edges = 2 * (edges[0] * width + edges[1] * height)
    dense = (height * width - 2 * in_edges) * depth * rows * columns  # those of edges take twice
    left = dense - LISTING * height * width
    return max(-1, int(left / ((2 * rows - 1) * (2 * columns - 1) * SLOWER)))
