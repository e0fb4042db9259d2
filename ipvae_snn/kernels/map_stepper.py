"""One image, timestep by timestep, at a cost in proportion to the spikes where they are few.

Densely, a timestep projects x − Φz, whatever fired. By events, the drive Φᵀx is kept while the
image stays, and a spike of neuron k takes from those around it

    R_kj(Δ) = Σ φ_k(·) φ_j(· − Δ),   (K, 2 q_h − 1, 2 q_w − 1, K)

which is the inhibition of an endless image. At the borders, features reach beyond the image, where
no pixel is to be explained: what they decode there is projected, too, and given back,

    zG = Rz − Φᵀ (1 − mask) Φz,   the last term at a few places along each border.
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
        around = tuple(side for n in reversed(self.dictionary.padding) for side in (n, n))
        for rows, columns, outside in self.borders:
            near = pad(spk[:, rows, columns].movedim(-1, 1), around)
            beyond = conv2d(near, self.dictionary.backward_weight) * outside
            inhibition[:, rows, columns] -= conv2d(beyond, self.dictionary.weight).movedim(1, -1)
        return torch.sub(self.drive, inhibition, alpha=self.spec.lateral_scale)


def gram_of(weight: Tensor) -> Tensor:
    """R of features (K, D, q_h, q_w): (K, 2 q_h − 1, 2 q_w − 1, K)."""
    rows, columns = weight.shape[-2:]
    overlaps = conv2d(weight, weight, padding=(rows - 1, columns - 1))
    return overlaps.permute(0, 2, 3, 1).contiguous()


def _borders(spec: MapSpec) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rectangles of places, by rows and columns, that see cells outside the image, and where.

    The last of the three is 1 at pixels outside, 0 inside, for the cells that these places see;
    every pixel outside that a feature reaches is in one of the rectangles.
    """
    _, depth, height, width = spec.x.shape[-4:]
    above, left = (side - 1 for side in spec.weight.shape[-2:])
    mask = spec.weight.new_ones(depth, height, width) if spec.mask is None else spec.mask
    inside = pad(mask, (left, left, above, above))
    rows, columns = spec.mem.shape[1:3]
    whole = [int((mask.amin(0).amax(axis) > 0).sum()) for axis in (1, 0)]
    if not all(whole):  # smaller than a cell
        yield slice(0, rows), slice(0, columns), 1 - inside
        return
    by_rows = inside.amax(-1, keepdim=True)
    for axis, before, outside in (
        (-2, above, (1 - by_rows).expand_as(inside)),
        (-1, left, by_rows - inside),
    ):
        places, length = spec.mem.shape[axis - 1], inside.shape[axis]
        complete = whole[axis]
        for first, last, kept in (
            (0, before, slice(0, before)),
            (complete, places, slice(before + complete, length)),
        ):
            if first == last:
                continue
            only = torch.zeros_like(outside)
            index = [slice(None)] * 3
            index[axis] = kept
            only[tuple(index)] = outside[tuple(index)]
            seen = only.narrow(axis, first, last - first + before)
            if bool(seen.any()):
                rectangle = [slice(0, rows), slice(0, columns)]
                rectangle[axis] = slice(first, last)
                yield rectangle[0], rectangle[1], seen
