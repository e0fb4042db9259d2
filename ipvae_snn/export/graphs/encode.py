"""Exports a model or a network to a NIR graph."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ipvae_snn._utils.checks import require_integer, require_values
from ipvae_snn.export.constants import ModelConstants, linear_gaussian
from ipvae_snn.export.graphs.competition import Matrix
from ipvae_snn.export.graphs.folding import folded
from ipvae_snn.export.graphs.graph_fragment import (
    FORMAT,
    FORMAT_VERSION,
    Fragment,
    array,
    nir_module,
    state_arrays,
)
from ipvae_snn.export.graphs.maps import map_constants, map_fragments
from ipvae_snn.export.graphs.modules import ExtraMap, first_shape, fragments_of
from ipvae_snn.export.graphs.poisson import LEVELS, GraphOptions, Portable, poisson_fragment
from ipvae_snn.models.base import Model
from ipvae_snn.models.convolutional import ConvIPVAE
from ipvae_snn.neurons.poisson import IPVAENeuron
from ipvae_snn.version import __version__


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

    The graph is deterministic and self-contained; a timestep is its unit of time (dt = 1). Its
    metadata lets :func:`~ipvae_snn.export.from_nir` restore the stochastic model.

    *exact*: drive Affine → I → Thresholds → Linear(−αG) → I, and Thresholds → Linear(Φ). With
    v = u − u_0,

    .. math:: v_t = v_{t−1} + α (d_t − z_{t−1} G − b), \quad
              z_t = \sum_{n=1}^{levels} [\, v_t > \log(n − ½) − u_0 \,]

    which is the recursion of the model with round(e^u) for a draw. No neuron resets, so that
    toolchains cannot differ in it; few of them import I and Threshold, though.

    *portable*: integrate-and-fire neurons with a lateral Affine, which norse and sinabs run.
    Thresholds are multiples of diag(G) (:class:`Portable`);
    :func:`~ipvae_snn.export.calibrate` chooses them on data.

    Args:
        network: an :class:`~ipvae_snn.IPVAE`, whose graph maps inputs x (M,) to Φz (M,); a
            :class:`~ipvae_snn.models.ConvIPVAE`, whose graph of convolutions maps images (C, H, W)
            of one size, borders included, to Φz in cells (C s², H / s, W / s), which
            ``torch.pixel_shuffle`` makes an image again; or an
            ``nn.Sequential`` of nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.Flatten, snn.Leaky,
            snn.Synaptic, snn.RLeaky and IPVAENeuron, whose output is that of its last module.
        form: ``"exact"`` or ``"portable"``.
        levels: exact form: thresholds per neuron, the largest count of a timestep.
        reset: portable form: the reset that the toolchain applies, ``"subtract"`` (sinabs) or
            ``"zero"`` (norse, NIR).
        portable: portable form: what ``calibrate`` returned, in place of ``reset``.
        nested: make each neuron layer a subgraph; flat graphs suit more toolchains.
        input_shape: shape of an input, without batch, if the first module does not define it; of a
            convolutional model always, with sides that are multiples of its stride.
        extra_map: translations of your own modules, ``{type: function from module to nir node}``.

    Returns:
        A ``nir.NIRGraph``. Weights and per-neuron values are float32, without a batch dimension;
        names sort in the order of execution.

    Raises:
        ImportError: the package nir is missing (extra ``nir``).
        ValueError, TypeError: a module or model without a translation, NaN in weights, bad options.

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
    options = GraphOptions(form, levels, reset, portable)
    _require_finite(network)
    metadata: dict[str, Any] = {}
    shape: tuple[int, ...]
    if isinstance(network, ConvIPVAE):
        maps = map_constants(network, input_shape)
        shape = (network.channels, *(maps.stride * side for side in maps.cells))
        fragments = map_fragments(maps, options)
        metadata = _model_metadata(network, options, nested, input_shape=shape)
        metadata["cells"] = maps.stride
    elif isinstance(network, Model):
        constants = linear_gaussian(network)
        shape = constants.weight.shape[:1]
        fragments = _model_fragments(constants, options)
        metadata = _model_metadata(network, options, nested)
    else:
        shape = _input_shape(network, input_shape, extra_map or {})
        fragments = fragments_of(network, shape, extra_map or {}, options)
        if not fragments:
            raise ValueError("the network has no module that does anything")
    fragments = folded(fragments)
    nodes: dict[str, Any] = {"input": nir.Input(np.array(shape))}
    edges: list[tuple[str, str]] = []
    sources = ["input"]
    for number, fragment in enumerate(fragments, 1):
        sources = _add(f"l{number:02d}", fragment, nested, nodes, edges, sources)
    nodes["output"] = nir.Output(np.array(fragments[-1].shape))
    edges += [(source, "output") for source in sources]
    notes = [note for fragment in fragments for note in fragment.notes]
    stochastic = any(isinstance(module, IPVAENeuron) for module in network.modules())
    metadata |= {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "ipvae_snn": __version__,
        "form": form,
        "dt": 1.0,
        "reset": _reset_of(fragments, options),
        "notes": "\n".join(dict.fromkeys(notes)),
        **({"link": "exp", "noise": "poisson"} if stochastic else {}),
    }
    return nir.NIRGraph(nodes, edges, metadata=metadata)


def _input_shape(
    network: nn.Module, given: tuple[int, ...] | None, extra_map: ExtraMap
) -> tuple[int, ...]:
    shape = given or first_shape(network, extra_map)
    if shape is None:
        raise ValueError(
            "input_shape must be given, without batch, such as (1, 28, 28): the first module "
            "does not define it"
        )
    if not isinstance(shape, tuple | list):
        raise TypeError(f"input_shape must be a tuple such as (1, 28, 28), got {shape!r}")
    return tuple(require_integer(n, "input_shape") for n in shape)


def _reset_of(fragments: list[Fragment], options: GraphOptions) -> str:
    """The reset that the graph is made for; ``"none"`` if no neuron resets."""
    kinds = {type(node).__name__ for fragment in fragments for node in fragment.nodes.values()}
    if not kinds & {"IF", "LIF", "CubaLIF"}:
        return "none"
    return options.reset if options.form == "portable" else "zero"


def _add(
    name: str,
    fragment: Fragment,
    nested: bool,
    nodes: dict[str, Any],
    edges: list[tuple[str, str]],
    sources: list[str],
) -> list[str]:
    """Add a fragment to ``nodes`` and ``edges``; returns the sources of what follows."""
    nir = nir_module()
    if nested and len(fragment.nodes) > 1:
        shape = next(iter(fragment.nodes.values())).input_type["input"]
        # Names sort in the order of execution: "l01_..." lies between "input" and "output".
        inner = {"input": nir.Input(shape)}
        inner |= {f"{name}_{local}": node for local, node in fragment.nodes.items()}
        inner["output"] = nir.Output(np.array(fragment.shape))
        inner_edges = [("input", f"{name}_{e}") for e in fragment.entries]
        inner_edges += [(f"{name}_{a}", f"{name}_{b}") for a, b in fragment.edges]
        inner_edges += [(f"{name}_{e}", "output") for e in fragment.exits]
        nodes[name] = nir.NIRGraph(inner, inner_edges, metadata=fragment.metadata)
        edges += [(source, name) for source in sources]
        return [name]
    for local, node in fragment.nodes.items():
        nodes[f"{name}_{local}"] = node
    first = nodes[f"{name}_{fragment.entries[0]}"]
    first.metadata = {**first.metadata, **fragment.metadata}
    edges += [(s, f"{name}_{e}") for s in sources for e in fragment.entries]
    edges += [(f"{name}_{a}", f"{name}_{b}") for a, b in fragment.edges]
    return [f"{name}_{e}" for e in fragment.exits]


def _model_fragments(c: ModelConstants, options: GraphOptions) -> list[Fragment]:
    """The neurons with their drive before them, and the decoder."""
    nir, layer = nir_module(), poisson_fragment(c, Matrix(c.gram), options)
    drive = nir.Affine(array(layer.gain * c.drive_weight.T), layer.bias)
    layer.nodes = {"1_drive": drive, **layer.nodes}
    layer.edges = [("1_drive", layer.entries[0]), *layer.edges]
    layer.entries, layer.gain, layer.bias = ("1_drive",), 1.0, None
    weight, pixels = array(c.weight * layer.out_scale), c.weight.shape[:1]
    layer.out_scale = 1.0
    # Toolchains import Affine, and hardly Linear.
    decoder = (
        nir.Linear(weight) if options.form == "exact" else nir.Affine(weight, array(0, pixels))
    )
    return [layer, Fragment.single("1_weight", decoder, pixels, linear=True)]


def _model_metadata(model: Any, options: GraphOptions, nested: bool, **more: Any) -> dict[str, Any]:
    """Plain data to restore the stochastic model; empty if its estimator is not registered."""
    try:
        config = model.config()
    except TypeError:
        return {}
    arguments = {**asdict(options), "nested": nested, **more}
    arguments.pop("form")
    return {
        "kind": "ConvIPVAE" if isinstance(model, ConvIPVAE) else "IPVAE",
        "config": json.dumps(config),
        "options": json.dumps(arguments),
        "weights": state_arrays(model),
    }


def _require_finite(network: nn.Module) -> None:
    for name, value in network.state_dict().items():
        if is_lazy(value):
            raise ValueError(f"{name} has no shape yet: call the network once before the export")
        if not isinstance(value, Tensor):  # of a quantized module, which has no translation
            continue
        require_values(value)
        if value.is_floating_point() and not bool(value.float().isfinite().all()):
            raise ValueError(
                f"{name} holds values that are NaN, infinite or beyond float32: it cannot be "
                "exported"
            )
