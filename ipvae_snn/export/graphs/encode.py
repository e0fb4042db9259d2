"""From a model or a network to a NIR graph."""

import json
from typing import Any

import numpy as np
from torch import nn

from ipvae_snn import functional as F
from ipvae_snn.checks import require_whole
from ipvae_snn.export.graphs.modules import ExtraMap, first_shape, pieces_of
from ipvae_snn.export.graphs.pieces import (
    LEVELS,
    Piece,
    Portable,
    array,
    exact_piece,
    fold,
    is_weight,
    nir_module,
    portable_piece,
    require_reset,
    state_arrays,
)
from ipvae_snn.model import IPVAE
from ipvae_snn.version import __version__

FORMAT, FORMAT_VERSION = "ipvae_snn.export", 1
FORMS = ("exact", "portable")


def to_nir(
    network: nn.Module,
    form: str = "exact",
    *,
    levels: int = LEVELS,
    reset: str = "subtract",
    portable: Portable | None = None,
    nested: bool = False,
    input_shape: tuple[int, ...] | None = None,
    extra_map: ExtraMap | None = None,
) -> Any:
    r"""A model or a network as a graph of the Neuromorphic Intermediate Representation.

    The graph is deterministic and stands alone; a timestep is its unit of time (dt = 1). It
    carries, as metadata, what :func:`~ipvae_snn.export.from_nir` makes the stochastic model from.

    *exact*: drive Affine → I → Thresholds → Linear(−αG) → I, and Thresholds → Linear(Φ). With
    v = u − u_0,

    .. math:: v_t = v_{t−1} + α (d_t − z_{t−1} G − b), \quad
              z_t = \sum_{n=1}^{levels} [\, v_t > \log(n − ½) − u_0 \,]

    which is the recursion of the model with round(e^u) for a draw. No neuron resets, so that no
    toolchain's idea of a reset matters; few toolchains import I and Threshold, though.

    *portable*: integrate-and-fire neurons with a lateral Affine, which norse and sinabs run. Their
    thresholds come from the diagonal of G (:class:`Portable`); have them chosen on data by
    :func:`~ipvae_snn.export.calibrate`.

    Args:
        network: an :class:`~ipvae_snn.IPVAE`, whose graph takes inputs x (M,) and puts out Φz (M,);
            or an ``nn.Sequential`` of nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.Flatten, snn.Leaky,
            snn.Synaptic, snn.RLeaky and IPVAENeuron, whose output is that of its last module.
        form: ``"exact"`` or ``"portable"``.
        levels: exact form: thresholds per neuron, the largest count that it can emit.
        reset: portable form: the reset that the toolchain applies, ``"subtract"`` (sinabs) or
            ``"zero"`` (norse, and the NIR specification).
        portable: portable form: what ``calibrate`` returned, in place of ``reset``.
        nested: make each neuron layer a subgraph; flat graphs suit more toolchains.
        input_shape: shape of an input, without batch, where the first module does not tell.
        extra_map: translations of the user's own modules, ``{type: function to a nir node}``.

    Returns:
        A ``nir.NIRGraph``. Weights and per-neuron values are float32, without a batch dimension;
        names sort in the order of execution.

    Raises:
        ImportError: the package nir is missing (extra ``nir``).
        ValueError, TypeError: a module without a translation, named; NaN in weights; bad options.

    Source: neuroir.org; the encoding of u is derived from arXiv 2410.19315, section 3.

    >>> from ipvae_snn import IPVAE, export
    >>> graph = export.to_nir(IPVAE(in_features=16, latents=8), levels=1)
    >>> list(graph.nodes)[1:-1]
    ['l01_1_drive', 'l01_2_mem', 'l01_3_count01', 'l01_4_lateral', 'l02_1_weight']
    """
    nir = nir_module()
    if form not in FORMS:
        raise ValueError(f"form must be one of {FORMS}, got {form!r}")
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch nn.Module, got {type(network).__name__}")
    levels = require_whole(levels, "levels")
    setting = require_reset(reset) if portable is None else portable
    reset = reset if portable is None else portable.reset
    _require_finite(network)
    metadata: dict[str, Any] = {
        "format": FORMAT, "version": FORMAT_VERSION, "ipvae_snn": __version__,
        "form": form, "dt": 1.0, "link": "exp", "noise": "poisson",
        "reset": "none" if form == "exact" else reset,
    }  # fmt: skip
    if isinstance(network, IPVAE):
        shape: tuple[int, ...] | None = (network.in_features,)
        pieces = _model_pieces(network, form, levels, setting)
        metadata |= _model_metadata(network)
        chosen = None if portable is None else vars(portable)
        options = {"levels": levels, "reset": reset, "portable": chosen, "nested": nested}
        metadata["options"] = json.dumps(options)
    else:
        extra_map = extra_map or {}
        shape = input_shape or first_shape(network, extra_map)
        if shape is None:
            raise ValueError(
                "input_shape must be given, without batch, such as (1, 28, 28): the first module "
                "does not tell it"
            )
        shape = tuple(require_whole(n, "input_shape") for n in shape)
        pieces = pieces_of(network, shape, extra_map, form, levels, setting)
        if not pieces:
            raise ValueError("the network has no module that does anything")
    pieces = _folded(pieces)
    notes = [note for piece in pieces for note in piece.notes]
    metadata["notes"] = "\n".join(dict.fromkeys(notes))
    nodes: dict[str, Any] = {"input": nir.Input(np.array(shape))}
    edges: list[tuple[str, str]] = []
    sources = ["input"]
    for number, piece in enumerate(pieces, 1):
        sources = _place(f"l{number:02d}", piece, nested, nodes, edges, sources)
    nodes["output"] = nir.Output(np.array(pieces[-1].shape))
    edges += [(source, "output") for source in sources]
    return nir.NIRGraph(nodes, edges, metadata=metadata)


def _place(
    name: str,
    piece: Piece,
    nested: bool,
    nodes: dict[str, Any],
    edges: list[tuple[str, str]],
    sources: list[str],
) -> list[str]:
    """Add a piece to the graph; returns the nodes that what follows has to read."""
    nir = nir_module()
    if nested and len(piece.nodes) > 1:
        shape = next(iter(piece.nodes.values())).input_type["input"]
        inner = {"0_input": nir.Input(shape), **piece.nodes}
        inner["9_output"] = nir.Output(np.array(piece.shape))
        wires = [("0_input", e) for e in piece.entries] + piece.edges
        wires += [(e, "9_output") for e in piece.exits]
        nodes[name] = nir.NIRGraph(inner, wires, metadata=piece.metadata)
        edges += [(source, name) for source in sources]
        return [name]
    for local, node in piece.nodes.items():
        nodes[f"{name}_{local}"] = node
    first = nodes[f"{name}_{piece.entries[0]}"]
    first.metadata = {**first.metadata, **piece.metadata}
    edges += [(s, f"{name}_{e}") for s in sources for e in piece.entries]
    edges += [(f"{name}_{a}", f"{name}_{b}") for a, b in piece.edges]
    return [f"{name}_{e}" for e in piece.exits]


def _model_pieces(model: IPVAE, form: str, levels: int, setting: Portable | str) -> list[Piece]:
    """The neurons with their drive in front, and the decoder."""
    nir, neuron = nir_module(), model.neuron
    layer = exact_piece(neuron, levels) if form == "exact" else portable_piece(neuron, setting)
    weight = model.decoder.weight.detach().double()
    scale = model.log_scale
    drive = F.drive_weight(weight, None if scale is None else scale.detach().double())
    first = nir.Affine(array(layer.gain * drive.mT), layer.bias)
    layer.nodes = {"1_drive": first, **layer.nodes}
    layer.edges = [("1_drive", layer.entries[0]), *layer.edges]
    layer.entries, layer.gain, layer.bias = ("1_drive",), 1.0, None
    decoder = array(weight * layer.out_scale)
    node = (
        nir.Linear(decoder)
        if form == "exact"
        else nir.Affine(decoder, np.zeros(model.in_features, dtype=np.float32))
    )
    layer.out_scale = 1.0
    return [layer, Piece.single("1_weight", node, (model.in_features,))]


def _model_metadata(model: IPVAE) -> dict[str, Any]:
    """What makes the stochastic model again, in plain data; nothing for a user's own estimator."""
    try:
        config = model.config()
    except TypeError:
        return {}
    return {"kind": "IPVAE", "config": json.dumps(config), "weights": state_arrays(model)}


def _folded(pieces: list[Piece]) -> list[Piece]:
    """Scales and biases between neurons and weights go into the weights; where there are none
    beside a neuron, weights of their own are put in."""
    nir = nir_module()
    done: list[Piece] = []
    before = 1.0
    for piece in pieces:
        plain = np.ndim(piece.gain) == 0 and piece.gain == 1 and piece.bias is None
        if not plain:
            target = _weight_behind(done, flat=np.ndim(piece.gain) > 0 or piece.bias is not None)
            if target is not None:
                fold(target, 1.0, piece.gain, piece.bias)
            else:
                done.append(_own_weight(piece, before, nir))
                before = 1.0
        if is_weight(piece) and before != 1:
            fold(piece, before, 1.0, None)
            before = 1.0
        before *= piece.out_scale
        done.append(piece)
    if before != 1:
        shape = done[-1].shape
        node = nir.Scale(array(before, shape), metadata={"unfolded": {"scale": array(1, shape)}})
        done.append(Piece.single("1_scale", node, shape))
    return done


def _weight_behind(done: list[Piece], flat: bool) -> Piece | None:
    """The weights that feed the next piece, through pooling and flattening if they may."""
    for piece in reversed(done):
        if is_weight(piece):
            conv = len(next(iter(piece.nodes.values())).weight.shape) == 4
            return None if flat and (conv or piece is not done[-1]) else piece
        if not {"1_flatten", "1_pool"} & set(piece.nodes):
            return None
    return None


def _own_weight(piece: Piece, before: float, nir: Any) -> Piece:
    """Weights in front of neurons that have none: they do nothing but scale and shift."""
    shape = piece.shape
    if len(shape) > 1:
        gain = array(np.asarray(piece.gain) * before, shape)
        return Piece.single("1_scale", nir.Scale(gain), shape)
    weight = nir.Affine(array(np.eye(shape[0])), array(0, shape))
    own = Piece.single("1_weight", weight, shape)
    fold(own, before, piece.gain, piece.bias)
    return own


def _require_finite(network: nn.Module) -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not bool(value.float().isfinite().all()):
            raise ValueError(
                f"{name} holds values that are NaN, infinite or beyond float32: it cannot be "
                "exported"
            )
