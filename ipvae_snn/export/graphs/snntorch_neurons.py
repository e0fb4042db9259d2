"""snnTorch's neurons as pieces of a NIR graph."""

from typing import Any

import numpy as np
import snntorch as snn
from torch import nn

from ipvae_snn.export.graphs.pieces import Array, Piece, Shape, array, nir_module
from ipvae_snn.export.graphs.poisson import Style

NO_LEAK = 1e9  # timesteps; a neuron among leaky ones that does not leak
SPIKING = (snn.Leaky, snn.Synaptic, snn.RLeaky)


def _tau(decay: Any, shape: Shape) -> Array:
    """τ of v' = decay · v + ..., in timesteps."""
    kept = np.clip(array(decay, shape).astype(np.float64), 0, 1)
    return array(1 / np.maximum(1 - kept, 1 / NO_LEAK))


def spiking_piece(module: Any, shape: Shape, style: Style) -> Piece:
    """snnTorch's leaky neurons, with synapses and recurrent weights where they have them."""
    _refuse(module)
    whole = style.form == "portable" or module.reset_mechanism == "zero"
    piece = _one_neuron(module, shape, style) if whole else _reset_free(module, shape)
    if isinstance(module, snn.RLeaky):
        entry, out = piece.entries[0], piece.exits[0]
        weights, bias = _recurrent(module, shape)
        rows = np.asarray(piece.gain).reshape(-1, 1) if weights.ndim == 2 else piece.gain
        piece.nodes["5_recurrent"] = _as_node(array(rows * weights), shape, style)
        piece.edges += [(out, "5_recurrent"), ("5_recurrent", entry)]
        piece.bias = None if bias is None else array(np.asarray(piece.gain) * bias)
    return piece


def _reset_free(module: Any, shape: Shape) -> Piece:
    """LI → Threshold, and −threshold · spk into LI a timestep later: what snnTorch computes."""
    nir, synaptic = nir_module(), isinstance(module, snn.Synaptic)
    threshold = array(module.threshold, shape)
    nodes = {"1_syn": _integrator(module.alpha, shape)} if synaptic else {}
    nodes |= {"2_mem": _integrator(module.beta, shape), "3_spk": nir.Threshold(threshold)}
    edges = [("1_syn", "2_mem")] if synaptic else []
    edges += [("2_mem", "3_spk")]
    if module.reset_mechanism == "subtract":
        nodes["4_reset"] = nir.Scale(-threshold)
        edges += [("3_spk", "4_reset"), ("4_reset", "2_mem")]
    return Piece(nodes, (next(iter(nodes)),), ("3_spk",), shape, edges=edges)


def _one_neuron(module: Any, shape: Shape, style: Style) -> Piece:
    """IF, LIF or CubaLIF, whose reset is the toolchain's."""
    nir, name, reset = nir_module(), type(module).__name__, module.reset_mechanism
    threshold, tau, zero = array(module.threshold, shape), _tau(module.beta, shape), array(0, shape)
    gain: float | Array = 1.0
    if isinstance(module, snn.Synaptic):
        tau_syn = _tau(module.alpha, shape)
        node = nir.CubaLIF(tau_syn, tau, tau, zero, threshold, w_in=tau_syn)
    elif tau.min() >= NO_LEAK:
        node = nir.IF(array(1, shape), threshold)
    else:  # r = 1, as toolchains that ignore r read it: the weights before take τ
        node = nir.LIF(tau, array(1, shape), zero, threshold)
        gain = float(tau.flat[0]) if np.ptp(tau) == 0 else tau
    notes = []
    if style.form == "portable" and reset != style.reset:
        notes.append(f"{name}: its reset {reset!r} becomes {style.reset!r}")
    elif reset == "subtract":
        notes.append(f"{name}: it subtracts a timestep after the spike, toolchains at once")
    if reset == "zero" and not isinstance(module, snn.Leaky):
        notes.append(f"{name}: with reset 'zero' it is deaf for a timestep after a spike")
    return Piece.single("1_spike", node, shape, gain=gain, notes=tuple(notes))


def _integrator(decay: Any, shape: Shape) -> Any:
    nir, tau = nir_module(), _tau(decay, shape)
    if tau.min() >= NO_LEAK:
        return nir.I(array(1, shape))
    return nir.LI(tau, tau, array(0, shape))


def _recurrent(module: snn.RLeaky, shape: Shape) -> tuple[Array, Array | None]:
    """Recurrent weights, (K, K) or one per neuron, and the bias that acts from the first timestep,
    when nothing has come back yet."""
    recurrent = module.recurrent
    if not module.all_to_all:
        return array(recurrent.V, shape), None
    if not isinstance(recurrent, nn.Linear):
        raise ValueError("recurrent convolutions have no translation: use linear_features")
    if shape != (recurrent.in_features,):
        raise ValueError(f"it takes inputs of shape ({recurrent.in_features},), got {shape}")
    return array(recurrent.weight), None if recurrent.bias is None else array(recurrent.bias)


def _as_node(weights: Array, shape: Shape, style: Style) -> Any:
    nir = nir_module()
    if weights.ndim == 2 and len(shape) == 1:
        return nir.Affine(weights, array(0, shape))
    if style.form == "exact" or len(shape) > 1:
        return nir.Scale(weights)
    return nir.Affine(np.diag(weights).copy(), array(0, shape))  # few toolchains import Scale


def _refuse(module: Any) -> None:
    if module.inhibition:
        raise ValueError("inhibition=True has no translation: leave it off")
    if (array(module.graded_spikes_factor) != 1).any():
        raise ValueError("graded_spikes_factor must be 1: scale the next layer's weights instead")
    if not module.reset_delay:
        raise ValueError("reset_delay=False has no translation: leave it at True")
    if module.state_quant:
        raise ValueError("state_quant has no translation: export the neuron without it")
