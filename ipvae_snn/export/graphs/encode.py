"""From a model or a network to a NIR graph."""

import json
from typing import Any

import numpy as np
from torch import nn

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_integer
from ipvae_snn.export.graphs.folding import folded
from ipvae_snn.export.graphs.modules import ExtraMap, first_shape, pieces_of
from ipvae_snn.export.graphs.pieces import Piece, array, nir_module, state_arrays
from ipvae_snn.export.graphs.poisson import LEVELS, Portable, Style, ipvae_piece
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.neurons.poisson import IPVAENeuron
from ipvae_snn.version import __version__

FORMAT, FORMAT_VERSION = "ipvae_snn.export", 1


def to_nir(
    network: nn.Module,
    form: str = "exact",
    *,
    levels: int = LEVELS,
    reset: str | None = None,
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
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch nn.Module, got {type(network).__name__}")
    if portable is not None and not isinstance(portable, Portable):
        raise TypeError(f"portable must be what calibrate returns, got {type(portable).__name__}")
    if reset is None:
        reset = "subtract" if portable is None else portable.reset
    style = Style(form, levels, reset, portable)
    _require_finite(network)
    if isinstance(network, IPVAE):
        shape: tuple[int, ...] = (network.in_features,)
        pieces = _model_pieces(network, style)
        metadata = _model_metadata(network, style, nested)
    else:
        shape = _input_shape(network, input_shape, extra_map or {})
        pieces = pieces_of(network, shape, extra_map or {}, style)
        if not pieces:
            raise ValueError("the network has no module that does anything")
        metadata = {}
    pieces = folded(pieces)
    nodes: dict[str, Any] = {"input": nir.Input(np.array(shape))}
    edges: list[tuple[str, str]] = []
    sources = ["input"]
    for number, piece in enumerate(pieces, 1):
        sources = _place(f"l{number:02d}", piece, nested, nodes, edges, sources)
    nodes["output"] = nir.Output(np.array(pieces[-1].shape))
    edges += [(source, "output") for source in sources]
    notes = [note for piece in pieces for note in piece.notes]
    stochastic = any(isinstance(module, IPVAENeuron) for module in network.modules())
    metadata |= {
        "format": FORMAT, "version": FORMAT_VERSION, "ipvae_snn": __version__, "form": form,
        "dt": 1.0, "reset": _reset_of(pieces, style), "notes": "\n".join(dict.fromkeys(notes)),
        **({"link": "exp", "noise": "poisson"} if stochastic else {}),
    }  # fmt: skip
    return nir.NIRGraph(nodes, edges, metadata=metadata)


def _input_shape(
    network: nn.Module, given: tuple[int, ...] | None, extra_map: ExtraMap
) -> tuple[int, ...]:
    shape = given or first_shape(network, extra_map)
    if shape is None:
        raise ValueError(
            "input_shape must be given, without batch, such as (1, 28, 28): the first module "
            "does not tell it"
        )
    return tuple(require_integer(n, "input_shape") for n in shape)


def _reset_of(pieces: list[Piece], style: Style) -> str:
    """The reset by which the graph is to be read: ``"none"`` where no neuron resets."""
    kinds = {type(node).__name__ for piece in pieces for node in piece.nodes.values()}
    if not kinds & {"IF", "LIF", "CubaLIF"}:
        return "none"
    return style.reset if style.form == "portable" else "zero"


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
        # Names of all nodes lie between "input" and "output", the only ones that nir itself knows.
        inner = {"input": nir.Input(shape)}
        inner |= {f"{name}_{local}": node for local, node in piece.nodes.items()}
        inner["output"] = nir.Output(np.array(piece.shape))
        wires = [("input", f"{name}_{e}") for e in piece.entries]
        wires += [(f"{name}_{a}", f"{name}_{b}") for a, b in piece.edges]
        wires += [(f"{name}_{e}", "output") for e in piece.exits]
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


def _model_pieces(model: IPVAE, style: Style) -> list[Piece]:
    """The neurons with their drive in front, and the decoder."""
    nir, layer = nir_module(), ipvae_piece(model.neuron, style)
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
        if style.form == "exact"
        else nir.Affine(decoder, np.zeros(model.in_features, dtype=np.float32))
    )
    layer.out_scale = 1.0
    return [layer, Piece.single("1_weight", node, (model.in_features,), linear=True)]


def _model_metadata(model: IPVAE, style: Style, nested: bool) -> dict[str, Any]:
    """What makes the stochastic model again, in plain data; nothing for a user's own estimator."""
    try:
        config = model.config()
    except TypeError:
        return {}
    chosen = None if style.portable is None else vars(style.portable)
    options = {"levels": style.levels, "reset": style.reset, "portable": chosen, "nested": nested}
    return {
        "kind": "IPVAE",
        "config": json.dumps(config),
        "options": json.dumps(options),
        "weights": state_arrays(model),
    }


def _require_finite(network: nn.Module) -> None:
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not bool(value.float().isfinite().all()):
            raise ValueError(
                f"{name} holds values that are NaN, infinite or beyond float32: it cannot be "
                "exported"
            )
