"""Folds the gains, biases and output scales of neurons into the weights before and after them."""

import numpy as np

from ipvae_snn.export.graphs.graph_fragment import Array, Fragment, Shape, array, nir_module


def folded(fragments: list[Fragment]) -> list[Fragment]:
    """The fragments, with all gains, biases and output scales in weights.

    A neuron without weights beside it gets identity weights.
    """
    done: list[Fragment] = []
    pending = 1.0  # output scales so far that no weight has absorbed
    for fragment in fragments:
        if fragment.is_weight and pending != 1:
            fold(fragment, pending, 1.0, None)
            pending = 1.0
        per_neuron = np.ndim(fragment.gain) > 0 or fragment.bias is not None
        scaled = per_neuron or fragment.gain != 1 or pending != 1
        if not fragment.linear and scaled:
            weight = _weight_before(done, per_neuron) if pending == 1 else None
            if weight is None:
                weight = identity_weight(fragment.shape, as_convolution=not per_neuron)
                done.append(weight)
            fold(weight, pending, fragment.gain, fragment.bias)
            pending = 1.0
        pending *= fragment.out_scale
        done.append(fragment)
    if pending != 1:
        last = identity_weight(done[-1].shape, as_convolution=True)
        fold(last, pending, 1.0, None)
        done.append(last)
    return done


def identity_weight(shape: Shape, as_convolution: bool) -> Fragment:
    """Identity weights to fold into.

    Affine or Conv2d, which toolchains import; the rarely imported Scale only where each pixel has a
    scale of its own.
    """
    nir = nir_module()
    node = nir.Affine(np.eye(shape[0], dtype=np.float32), array(0, shape[:1]))
    if len(shape) == 3 and as_convolution:
        kernel = np.eye(shape[0], dtype=np.float32)[:, :, None, None]
        node = nir.Conv2d(shape[1:], kernel, (1, 1), (0, 0), (1, 1), 1, array(0, shape[:1]))
    elif len(shape) > 1:
        node = nir.Scale(array(1, shape))
    return Fragment.single("1_weight", node, shape, linear=True)


def _weight_before(done: list[Fragment], per_neuron: bool) -> Fragment | None:
    """The weights that feed the next fragment; only one scale for all passes through layers
    between them."""
    for fragment in reversed(done):
        if fragment.is_weight:
            (node,) = fragment.nodes.values()
            fits = node.weight.ndim != 4 and fragment is done[-1]
            return fragment if fits or not per_neuron else None
        if not fragment.linear:
            return None
    return None


def fold(fragment: Fragment, before: float, gain: float | Array, bias: Array | None) -> None:
    """Make the weights of ``fragment`` compute ``gain`` · output(``before`` · input) + ``bias``.

    The node's metadata keeps the original weights, and the gain and bias since.
    """
    nir = nir_module()
    (node,) = fragment.nodes.values()
    if isinstance(node, nir.Scale):
        original = node.metadata.get("unfolded", {"scale": node.scale})
        total = array(np.asarray(gain) * original.get("gain", 1.0), node.scale.shape)
        node.scale = array(np.asarray(gain) * node.scale * before)
        node.metadata = {**node.metadata, "unfolded": {**original, "gain": total}}
        return
    rows = np.asarray(gain, dtype=np.float64)
    if isinstance(node, nir.Conv2d) and (rows.ndim or bias is not None):
        raise ValueError("a convolution can absorb one scale for all its outputs, and no bias map")
    original = node.metadata.get("unfolded", {"weight": node.weight, "bias": node.bias})
    added = 0 if bias is None else bias
    total = np.atleast_1d(rows * original.get("gain", 1.0))
    shift = array(rows * original.get("shift", 0) + added, node.bias.shape)
    weight = array((rows[:, None] if rows.ndim else rows) * node.weight * before)
    node.weight, node.bias = weight, array(rows * node.bias + added)
    node.metadata = {**node.metadata, "unfolded": {**original, "gain": total, "shift": shift}}
