"""Scales and biases of neurons, folded into the weights on either side of them."""

import numpy as np

from ipvae_snn.export.graphs.pieces import Array, Piece, Shape, array, is_weight, nir_module


def folded(pieces: list[Piece]) -> list[Piece]:
    """Pieces whose gains, biases and output scales are in the weights around them.

    Where there are no weights beside a neuron, some that do nothing else are put in.
    """
    done: list[Piece] = []
    before = 1.0  # what the outputs so far have yet to be multiplied with
    for piece in pieces:
        if is_weight(piece) and before != 1:
            fold(piece, before, 1.0, None)
            before = 1.0
        scaled = np.ndim(piece.gain) > 0 or piece.gain != 1 or before != 1 or piece.bias is not None
        if not piece.linear and scaled:
            flat = np.ndim(piece.gain) > 0 or piece.bias is not None
            behind = _weight_behind(done, flat) if before == 1 else None
            if behind is None:
                behind = own_weight(piece.shape, over_images=not flat)
                done.append(behind)
            fold(behind, before, piece.gain, piece.bias)
            before = 1.0
        before *= piece.out_scale
        done.append(piece)
    if before != 1:
        last = own_weight(done[-1].shape, over_images=True)
        fold(last, before, 1.0, None)
        done.append(last)
    return done


def own_weight(shape: Shape, over_images: bool) -> Piece:
    """Weights that change nothing, to be folded into.

    Toolchains import Affine and Conv2d, but hardly Scale, which is left where a scale per pixel is
    needed.
    """
    nir = nir_module()
    node = nir.Affine(np.eye(shape[0], dtype=np.float32), array(0, shape[:1]))
    if len(shape) == 3 and over_images:
        kernel = np.eye(shape[0], dtype=np.float32)[:, :, None, None]
        node = nir.Conv2d(shape[1:], kernel, (1, 1), (0, 0), (1, 1), 1, array(0, shape[:1]))
    elif len(shape) > 1:
        node = nir.Scale(array(1, shape))
    return Piece.single("1_weight", node, shape, linear=True)


def _weight_behind(done: list[Piece], flat: bool) -> Piece | None:
    """The weights that feed the next piece, through pooling and flattening if they may."""
    for piece in reversed(done):
        if is_weight(piece):
            conv = len(next(iter(piece.nodes.values())).weight.shape) == 4
            return None if flat and (conv or piece is not done[-1]) else piece
        if not piece.linear:
            return None
    return None


def fold(piece: Piece, before: float, gain: float | Array, bias: Array | None) -> None:
    """Make the weights of ``piece`` take inputs ``before`` times as large, and put out
    ``gain`` · output + ``bias``.

    What the weights were at first, and the gain and the bias since, stay in the node's metadata.
    """
    nir = nir_module()
    (node,) = piece.nodes.values()
    if isinstance(node, nir.Scale):
        was = node.metadata.get("unfolded", {"scale": node.scale})
        total = array(np.asarray(gain) * was.get("gain", 1.0), node.scale.shape)
        node.scale = array(np.asarray(gain) * node.scale * before)
        node.metadata = {**node.metadata, "unfolded": {**was, "gain": total}}
        return
    rows = np.asarray(gain, dtype=np.float64)
    if isinstance(node, nir.Conv2d) and (rows.ndim or bias is not None):
        raise ValueError("a convolution can absorb one scale for all its outputs, and no bias map")
    was = node.metadata.get("unfolded", {"weight": node.weight, "bias": node.bias})
    total = np.atleast_1d(rows * was.get("gain", 1.0))
    shift = array(rows * was.get("shift", 0) + (0 if bias is None else bias), node.bias.shape)
    weight = array((rows[:, None] if rows.ndim else rows) * node.weight * before)
    shifted = array(rows * node.bias + (0 if bias is None else bias))
    node.weight, node.bias = weight, shifted
    node.metadata = {**node.metadata, "unfolded": {**was, "gain": total, "shift": shift}}
