"""Runs a Xylo chip in xylosim, SynSense's bit-exact simulator."""

from types import ModuleType
from typing import Any

import numpy as np

from ipvae_snn._utils.extras import require_extra
from ipvae_snn.export.xylo.chip import Ints, XyloChip, XyloState


def simulate(chip: XyloChip, counts: Ints, bias: Ints | None = None) -> XyloState:
    """:meth:`XyloChip.run` in xylosim, one sample after the other.

    Args:
        chip: the configuration.
        counts: input spikes, (T, B, channels).
        bias: one per sample, (B, K), in place of the chip's own.

    Raises:
        ImportError: xylosim is not installed; the message names the extra.
    """
    v2 = require_extra("xylosim.v2", extra="toolchains")
    # A layer keeps only pointers to its synapses: these must outlive it.
    synapses = [_synapses(v2, w) for w in (chip.weights_in, chip.weights_rec, chip.weights_out)]
    biases = np.broadcast_to(
        chip.bias if bias is None else bias, (counts.shape[1], *chip.bias.shape)
    )
    runs = [
        _run(v2, chip, synapses, sample, sample_bias)
        for sample, sample_bias in zip(counts.swapaxes(0, 1), biases, strict=True)
    ]
    return XyloState(*(np.stack(samples, axis=1) for samples in zip(*runs, strict=True)))


def _synapses(v2: ModuleType, weights: Ints) -> list[list[Any]]:
    """Synapses of non-zero weight, per source."""
    return [
        [v2.XyloSynapse(int(target), 0, int(row[target])) for target in np.flatnonzero(row)]
        for row in weights
    ]


def _run(v2: ModuleType, chip: XyloChip, synapses: Any, counts: Ints, bias: Ints) -> list[Ints]:
    """The fields of a :class:`XyloState` of one sample, (T, ·) each."""
    layer = v2.XyloLayer(
        synapses_in=synapses[0],
        synapses_rec=synapses[1],
        synapses_out=synapses[2],
        aliases=[[] for _ in bias],
        threshold=chip.threshold.tolist(),
        threshold_out=chip.threshold_out.tolist(),
        has_bias=True,
        bias=bias.tolist(),
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
    layer.evolve(counts.tolist())
    # xylosim records states as (neurons, T), spikes as (T, neurons).
    hidden, outputs, steps = len(chip.threshold), len(chip.threshold_out), len(counts)
    return [
        np.array(layer.rec_i_syn, np.int16).T,
        np.array(layer.rec_v_mem, np.int16).T,
        np.array(layer.rec_recurrent_spikes, np.int16).reshape(steps, hidden),
        np.array(layer.rec_i_syn_out, np.int16).reshape(outputs, steps).T,
        np.array(layer.rec_v_mem_out, np.int16).reshape(outputs, steps).T,
        np.array(layer.rec_out_spikes, np.int16).reshape(steps, outputs),
    ]
