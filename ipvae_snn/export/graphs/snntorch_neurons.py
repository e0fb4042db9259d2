"""Translates snnTorch's neurons to graph fragments."""

from typing import Any

import numpy as np
import snntorch as snn
from torch import nn

from ipvae_snn.export.graphs.graph_fragment import Array, Fragment, Shape, array, nir_module
from ipvae_snn.export.graphs.poisson import GraphOptions

NO_LEAK = 1e9  # time constant, in timesteps, of a neuron without leak
SPIKING = (snn.Leaky, snn.Synaptic, snn.RLeaky)


def _tau(decay: Any, shape: Shape) -> Array:
    """τ of v' = decay · v + ..., in timesteps."""
    fraction = np.clip(array(decay, shape).astype(np.float64), 0, 1)
    return array(1 / np.maximum(1 - fraction, 1 / NO_LEAK))


def spiking_fragment(module: Any, shape: Shape, options: GraphOptions) -> Fragment:
    """Leaky, Synaptic or RLeaky."""
    _require_translatable(module)
    resets = options.form == "portable" or module.reset_mechanism == "zero"
    fragment = _one_neuron(module, shape, options) if resets else _reset_free(module, shape)
    if isinstance(module, snn.RLeaky):
        entry, out = fragment.entries[0], fragment.exits[0]
        weights, bias = _recurrent(module, shape)
        rows = np.asarray(fragment.gain).reshape(-1, 1) if weights.ndim == 2 else fragment.gain
        fragment.nodes["5_recurrent"] = _as_node(array(rows * weights), shape, options)
        fragment.edges += [(out, "5_recurrent"), ("5_recurrent", entry)]
        fragment.bias = None if bias is None else array(np.asarray(fragment.gain) * bias)
    return fragment


def _reset_free(module: Any, shape: Shape) -> Fragment:
    """LI → Threshold, whose spikes subtract the threshold from LI one timestep later."""
    nir, synaptic = nir_module(), isinstance(module, snn.Synaptic)
    threshold = array(module.threshold, shape)
    nodes = {"1_syn": _integrator(module.alpha, shape)} if synaptic else {}
    nodes |= {"2_mem": _integrator(module.beta, shape), "3_spk": nir.Threshold(threshold)}
    edges = [("1_syn", "2_mem")] if synaptic else []
    edges += [("2_mem", "3_spk")]
    if module.reset_mechanism == "subtract":
        nodes["4_reset"] = nir.Scale(-threshold)
        edges += [("3_spk", "4_reset"), ("4_reset", "2_mem")]
    return Fragment(nodes, (next(iter(nodes)),), ("3_spk",), shape, edges=edges)


def _one_neuron(module: Any, shape: Shape, options: GraphOptions) -> Fragment:
    """IF, LIF or CubaLIF, with the reset of the toolchain."""
    nir, name, reset = nir_module(), type(module).__name__, module.reset_mechanism
    threshold, tau, zero = array(module.threshold, shape), _tau(module.beta, shape), array(0, shape)
    gain: float | Array = 1.0
    if isinstance(module, snn.Synaptic):
        tau_syn = _tau(module.alpha, shape)
        node = nir.CubaLIF(tau_syn, tau, tau, zero, threshold, w_in=tau_syn)
    elif tau.min() >= NO_LEAK:
        node = nir.IF(array(1, shape), threshold)
    else:  # r = 1, which some toolchains assume: the weights before absorb τ
        node = nir.LIF(tau, array(1, shape), zero, threshold)
        gain = float(tau.flat[0]) if np.ptp(tau) == 0 else tau
    notes = []
    if options.form == "portable" and reset != options.reset:
        notes.append(f"{name}: its reset {reset!r} becomes {options.reset!r}")
    elif reset == "subtract":
        notes.append(f"{name}: it subtracts a timestep after the spike, toolchains at once")
    if reset == "zero" and not isinstance(module, snn.Leaky):
        notes.append(
            f"{name}: with reset 'zero' it ignores the input of the timestep after a spike"
        )
    return Fragment.single("1_spike", node, shape, gain=gain, notes=tuple(notes))


def _integrator(decay: Any, shape: Shape) -> Any:
    nir, tau = nir_module(), _tau(decay, shape)
    if tau.min() >= NO_LEAK:
        return nir.I(array(1, shape))
    return nir.LI(tau, tau, array(0, shape))


def _recurrent(module: snn.RLeaky, shape: Shape) -> tuple[Array, Array | None]:
    """Recurrent weights, (K, K) or one per neuron, and their bias, which acts from the first
    timestep on, before any spike."""
    recurrent = module.recurrent
    if not module.all_to_all:
        return array(recurrent.V, shape), None
    if not isinstance(recurrent, nn.Linear):
        raise ValueError("recurrent convolutions have no translation: use linear_features")
    if shape != (recurrent.in_features,):
        raise ValueError(f"it takes inputs of shape ({recurrent.in_features},), got {shape}")
    return array(recurrent.weight), None if recurrent.bias is None else array(recurrent.bias)


def _as_node(weights: Array, shape: Shape, options: GraphOptions) -> Any:
    nir = nir_module()
    if weights.ndim == 2 and len(shape) == 1:
        return nir.Affine(weights, array(0, shape))
    if options.form == "exact" or len(shape) > 1:
        return nir.Scale(weights)
    return nir.Affine(np.diag(weights).copy(), array(0, shape))  # few toolchains import Scale


def _require_translatable(module: Any) -> None:
    if module.inhibition:
        raise ValueError("inhibition=True has no translation: leave it off")
    if (array(module.graded_spikes_factor) != 1).any():
        raise ValueError("graded_spikes_factor must be 1: scale the next layer's weights instead")
    if not module.reset_delay:
        raise ValueError("reset_delay=False has no translation: leave it at True")
    if module.state_quant:
        raise ValueError("state_quant has no translation: export the neuron without it")
