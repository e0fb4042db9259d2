"""One image, timestep by timestep, at a cost in proportion to the spikes where they are few.

Densely, a timestep projects x − Φz, whatever fired. By events, the drive Φᵀx is kept while the
image stays, and a spike of neuron k takes from those around it

    R_kj(Δ) = Σ φ_k(·) φ_j(· − Δ),   (K, 2 q_h − 1, 2 q_w − 1, K)

which is the inhibition of an endless image. Where features reach beyond the image, at a few places
along each border, they explain fewer pixels: there the residual is projected.
"""

from collections.abc import Iterator

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

SLOWER = 3.0
"""Time of a multiplication by events in that of one of a convolution: measured on an AMD EPYC."""


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
            _, depth, rows, columns = spec.weight.shape
            dense = spec.mem[..., 0].numel() * depth * rows * columns
            self.most_events = int(dense / ((2 * rows - 1) * (2 * columns - 1) * SLOWER))
            self.gram = gram_of(spec.weight)
            self.borders = list(_borders(spec))

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
        return self.dictionary.project(
            torch.sub(self.x, decoded, alpha=self.spec.lateral_scale)
        )

    def current_of_events(self) -> Tensor:
        """The same by sums over the neurons that spiked."""
        if self.drive is None:
            self.drive = self.dictionary.project(self.x)
        spk, inhibition = self.state.spk, torch.empty_like(self.state.spk)
        native.inhibit_map(spk[0], self.gram, inhibition[0])
        current = torch.sub(self.drive, inhibition, alpha=self.spec.lateral_scale)
        for rows, columns in self.borders:
            current[:, rows, columns] = self._dense_current_of(rows, columns)
        return current

    def _dense_current_of(self, rows: slice, columns: slice) -> Tensor:
        """d − zG of a rectangle of places, from the cells that they see."""
        above, left = self.dictionary.padding
        (height, top), (width, first) = (
            (min(places.stop, side), max(places.start - before, 0))
            for places, before, side in (
                (rows, above, self.x.shape[-2]), (columns, left, self.x.shape[-1])
            )
        )  # fmt: skip
        spk = self.state.spk[:, top : height + above, first : width + left].contiguous()
        decoded = self.dictionary.decode_spikes(spk, (slice(top, height), slice(first, width)))
        x = self.x[..., top:height, first:width]
        residual = torch.sub(x, decoded, alpha=self.spec.lateral_scale)
        beyond = (
            first - columns.start + left, columns.stop - width, top - rows.start + above,
            rows.stop - height,
        )  # fmt: skip
        return conv2d(pad(residual, beyond), self.dictionary.weight).movedim(1, -1)


def gram_of(weight: Tensor) -> Tensor:
    """R of features (K, D, q_h, q_w): (K, 2 q_h − 1, 2 q_w − 1, K)."""
    rows, columns = weight.shape[-2:]
    overlaps = conv2d(weight, weight, padding=(rows - 1, columns - 1))
    return overlaps.permute(0, 2, 3, 1).contiguous()


def _borders(spec: MapSpec) -> Iterator[tuple[slice, slice]]:
    """Rectangles of places, by rows and columns, whose features reach beyond the image."""
    _, depth, height, width = spec.x.shape[-4:]
    rows, columns = spec.mem.shape[1:3]
    above, left = (side - 1 for side in spec.weight.shape[-2:])
    mask = spec.weight.new_ones(depth, height, width) if spec.mask is None else spec.mask
    bottom, right = (int((mask.amin(0).amax(axis) > 0).sum()) for axis in (1, 0))  # whole cells
    if bottom <= above or right <= left:
        yield slice(0, rows), slice(0, columns)
        return
    for first, last in ((0, above), (bottom, rows)):
        if first < last:
            yield slice(first, last), slice(0, columns)
    for first, last in ((0, left), (right, columns)):
        if first < last:
            yield slice(above, bottom), slice(first, last)
