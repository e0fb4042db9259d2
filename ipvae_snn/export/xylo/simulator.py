"""A configured Xylo chip in xylosim, SynSense's bit-exact simulator."""

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipvae_snn._utils.extras import require_extra
from ipvae_snn.export.xylo.chip import XyloChip, XyloState


def simulate(chip: XyloChip, counts: NDArray, bias: NDArray | None = None) -> XyloState:
    """:meth:`XyloChip.run` in xylosim, one sample after the other.

    Args:
        chip: the network.
        counts: input spikes, (T, B, channels).
        bias: one for each sample, (B, K), in place of the chip's own.

    Raises:
        ImportError: xylosim is not installed; the message names the extra.
    """
    v2 = require_extra("xylosim.v2", extra="toolchains")
    # A layer points at its synapses and does not own them: they have to outlive it.
    wires = [_wire(v2, w) for w in (chip.weights_in, chip.weights_rec, chip.weights_out)]
    biases = np.broadcast_to(
        chip.bias if bias is None else bias, (counts.shape[1], *chip.bias.shape)
    )
    runs = [
        _run(v2, chip, wires, sample.tolist(), own.tolist())
        for sample, own in zip(counts.swapaxes(0, 1), biases, strict=True)
    ]
    return XyloState(*(np.stack(parts, axis=1) for parts in zip(*runs, strict=True)))


def _wire(v2: ModuleType, weights: NDArray) -> list[list[Any]]:
    """Of each source, the synapses whose weight is not 0."""
    return [
        [v2.XyloSynapse(int(target), 0, int(row[target])) for target in np.flatnonzero(row)]
        for row in weights
    ]


def _run(v2: ModuleType, chip: XyloChip, wires: list, counts: list, bias: list) -> list[NDArray]:
    """The fields of a :class:`XyloState`, (T, ·) each."""
    layer = v2.XyloLayer(
        synapses_in=wires[0],
        synapses_rec=wires[1],
        synapses_out=wires[2],
        aliases=[[] for _ in bias],
        threshold=chip.threshold.tolist(),
        threshold_out=chip.threshold_out.tolist(),
        has_bias=True,
        bias=bias,
        bias_out=chip.bias_out.tolist(),
        weight_shift_inp=chip.weight_shift_in,
        weight_shift_rec=chip.weight_shift_rec,
        weight_shift_out=chip.weight_shift_out,
        dash_mem=chip.dash_mem.tolist(),
        dash_mem_out=chip.dash_mem_out.tolist(),
        dash_syns=chip.dash_syn[:, None].tolist(),
        dash_syns_out=chip.dash_syn_out[:, None].tolist(),
        name="",
    )
    layer.evolve(counts)
    # States are recorded neuron by neuron, spikes timestep by timestep.
    hidden, outputs, steps = len(chip.threshold), len(chip.threshold_out), len(counts)
    return [
        np.array(layer.rec_i_syn, np.int16).T,
        np.array(layer.rec_v_mem, np.int16).T,
        np.array(layer.rec_recurrent_spikes, np.int16).reshape(steps, hidden),
        np.array(layer.rec_i_syn_out, np.int16).reshape(outputs, steps).T,
        np.array(layer.rec_v_mem_out, np.int16).reshape(outputs, steps).T,
        np.array(layer.rec_out_spikes, np.int16).reshape(steps, outputs),
    ]
