"""Restores a model or a network from a NIR graph."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ipvae_snn import surrogate
from ipvae_snn._utils.seeding import seeded
from ipvae_snn._utils.storage import AllocationLimit
from ipvae_snn.export.graphs.encode import to_nir
from ipvae_snn.export.graphs.files import read
from ipvae_snn.export.graphs.graph_fragment import (
    FORMAT,
    FORMAT_VERSION,
    array,
    nir_module,
    require_graph,
    said,
)
from ipvae_snn.export.graphs.network import GraphNetwork, flattened, layer_of, reset_of
from ipvae_snn.export.graphs.poisson import Portable
from ipvae_snn.export.graphs.timestep import timestep_of
from ipvae_snn.models.base import make_model
from ipvae_snn.models.convolutional import ConvIPVAE
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.neurons.lateral import Lateral, LearnedGram, NoLateral, UnitGram
from ipvae_snn.neurons.poisson import IPVAENeuron

_LEARNED = {"LearnedGram": LearnedGram.near_identity, "UnitGram": UnitGram.near_identity}
_SOURCES: dict[str, Callable[[int], Lateral]] = {"NoLateral": NoLateral, **_LEARNED}
_MODELS: dict[str, type[IPVAE] | type[ConvIPVAE]] = {"IPVAE": IPVAE, "ConvIPVAE": ConvIPVAE}
_DAMAGE: tuple[type[Exception], ...] = (LookupError, TypeError, AttributeError, RuntimeError)
_DAMAGE += (OverflowError, MemoryError, json.JSONDecodeError, UnicodeError)
"""What damaged metadata can raise."""


def from_nir(
    source: str | Path | Any,
    *,
    stochastic: bool | None = None,
    reset: str | None = None,
    dt: float | None = None,
) -> IPVAE | ConvIPVAE | GraphNetwork:
    """The model or network that a NIR graph describes.

    Args:
        source: a path, or a ``nir.NIRGraph``.
        stochastic: ``True``: the stochastic model that the graph was made from, or an error.
            ``False``: the deterministic graph itself. ``None``: the stochastic model if the
            metadata has one, else the graph itself.
        reset: how neurons of the graph itself reset, ``"zero"`` or ``"subtract"``; default what it
            was exported for, or ``"zero"``, as NIR specifies.
        dt: a timestep in the unit of the graph's time constants, such as ``1e-4`` where they are in
            seconds; default 1. Graphs of :func:`~ipvae_snn.export.to_nir` count timesteps, and
            take no other.

    Returns:
        In ``eval()`` mode: an :class:`~ipvae_snn.IPVAE` or
        :class:`~ipvae_snn.models.ConvIPVAE` with the weights, settings and estimator of the
        exported one, which gives the same spikes for the same seed; or a
        :class:`~ipvae_snn.export.GraphNetwork`, in which IPVAENeuron layers of the exported network
        are restored.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that cannot be read; metadata that is
            damaged, newer than this release, or does not match the weights of the graph; a time
            constant shorter than ``dt``.

    >>> from ipvae_snn import IPVAE, export
    >>> model = IPVAE(in_features=16, latents=8).eval()
    >>> back = export.from_nir(export.to_nir(model))
    >>> x = torch.rand(2, 16)
    >>> bool((back.run(x, 9, seed=0).spk == model.run(x, 9, seed=0).spk).all())
    True
    """
    nir = nir_module()
    graph = read(source) if isinstance(source, (str, Path)) else source
    if not isinstance(graph, nir.NIRGraph):
        raise TypeError(f"source must be a path or a nir.NIRGraph, got {type(graph).__name__}")
    require_graph(graph)
    if stochastic not in (None, True, False):
        raise TypeError(f"stochastic must be None, True or False, got {stochastic!r}")
    metadata = graph.metadata
    own_format = said(graph, "format") == FORMAT
    if (
        own_format
        and stochastic is not False
        and str(metadata.get("version")) != str(FORMAT_VERSION)
    ):
        raise ValueError(
            f"the graph has format version {metadata.get('version')}, this release reads version "
            f"{FORMAT_VERSION}: update ipvae_snn, or pass stochastic=False for the graph itself"
        )
    timestep_of(graph, flattened(graph)[0], dt)
    reset = reset or (reset_of(graph) if own_format else "zero")
    neurons: dict[str, IPVAENeuron] = {}
    if own_format and stochastic is not False:
        try:
            if said(graph, "kind") in _MODELS:
                return _model(graph)
            graph, neurons = _with_neurons(graph)
        except _DAMAGE as error:
            raise ValueError(f"the metadata of the graph is damaged: {error!r}") from error
    if stochastic and not neurons:
        raise ValueError(
            "the graph does not say that it was made from a stochastic model, or that model had an "
            "estimator of its own: leave stochastic out for the graph itself"
        )
    return GraphNetwork(graph, reset, dict(neurons), dt=dt).eval()


def _model(graph: Any) -> IPVAE | ConvIPVAE:
    metadata, kind = graph.metadata, _MODELS[said(graph, "kind")]
    config, options = json.loads(metadata["config"]), json.loads(metadata["options"])
    arrays = {name: torch.from_numpy(value) for name, value in metadata["weights"].items()}
    try:  # before anything is allocated by the sizes
        kind.check_sizes(config, arrays)
    except ValueError as error:
        raise KeyError(f"the sizes in config are not those of the weights: {error}") from error
    if said(graph, "form") == "exact" and options["levels"] > len(flattened(graph)[0]):
        raise KeyError(f"{options['levels']} levels, for which the graph has too few nodes")
    # Initial weights, replaced below: leave the global generator alone.
    with seeded(0), AllocationLimit(arrays):
        model: IPVAE | ConvIPVAE = make_model(kind, {**kind.earlier, **config})
    weights = _tensors(metadata["weights"], model)
    model.to(weights["neuron.mem_init"].dtype).load_state_dict(weights)
    if options["portable"] is not None:
        options["portable"] = Portable(**options["portable"])
    if options.get("input_shape") is not None:
        options["input_shape"] = tuple(options["input_shape"])
    _require_same(graph, to_nir(model, str(metadata["form"]), **options))
    return model.eval()


def _tensors(arrays: dict[str, NDArray[Any]], module: nn.Module) -> dict[str, torch.Tensor]:
    """Arrays of the metadata as a state dictionary of ``module``."""
    for name, value in arrays.items():
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise ValueError(
                f"{name} of the graph's metadata holds values that are not finite numbers"
            )
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    return {name: torch.from_numpy(v.copy()).reshape(shapes[name]) for name, v in arrays.items()}


def _require_same(graph: Any, made: Any) -> None:
    """Raise unless ``graph`` has the float arrays of ``made``, the export of its metadata."""
    nodes, expected = flattened(graph)[0], flattened(made)[0]
    for name, node in expected.items():
        for key, value in vars(node).items():
            if not (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
                continue
            actual = np.asarray(getattr(nodes.get(name), key, np.nan))
            atol = 1e-5 * float(np.abs(value).max(initial=1e-12))
            if actual.shape != value.shape or not (
                np.allclose(actual, value, rtol=1e-5, atol=atol)
            ):
                raise ValueError(
                    f"{key} of node {name} is not what the metadata of the graph describes: it was "
                    "changed after the export; pass stochastic=False for the graph itself"
                )


def _with_neurons(graph: Any) -> tuple[Any, dict[str, IPVAENeuron]]:
    """The graph with one node per tagged layer, and a neuron for each of these; the weights before
    them are unfolded."""
    nir = nir_module()
    nodes, edges = flattened(graph)
    tags = {layer_of(name): n.metadata for name, n in nodes.items() if _is_tagged(n)}
    subgraphs = {name: n for name, n in graph.nodes.items() if hasattr(n, "nodes")}
    tags |= {name: n.metadata for name, n in subgraphs.items() if _is_tagged(n)}
    if not tags:
        return graph, {}
    neurons = {layer: _neuron(tag) for layer, tag in tags.items()}
    names = {name: layer_of(name) if layer_of(name) in tags else name for name in nodes}
    merged: dict[str, Any] = {}
    for name, node in nodes.items():
        neuron = neurons.get(names[name])
        placeholder = node if neuron is None else nir.Scale(array(1, (neuron.features,)))
        merged.setdefault(names[name], placeholder)
    links = dict.fromkeys((names[a], names[b]) for a, b in edges if names[a] != names[b])
    before_neurons = {a for a, b in links if b in neurons}
    for name, node in merged.items():
        if "unfolded" in node.metadata:
            merged[name] = _unfolded(node, name in before_neurons)
    return nir.NIRGraph(merged, list(links), graph.metadata, type_check=False), neurons


def _is_tagged(node: Any) -> bool:
    """Whether the metadata of a layer describe a stochastic neuron."""
    return "estimator" in node.metadata and "state" in node.metadata


def _neuron(tag: dict[str, Any]) -> IPVAENeuron:
    state, features = dict(tag["state"]), int(tag["features"])
    if features != np.size(state["mem_init"]):
        raise KeyError(f"{features} features, a state of {np.size(state['mem_init'])}")
    settings: dict[str, Any] = {name: float(value) for name, value in tag["settings"].items()}
    estimator = {k: v.item() if hasattr(v, "item") else v for k, v in tag["estimator"].items()}
    settings["form"] = str(tag.get("form", "published"))
    settings |= {"spike_grad": surrogate.from_config(estimator), "init_hidden": True}
    kind = str(tag["lateral"])
    with seeded(0):
        if kind == "SharedDecoder":
            weight = state["lateral.decoder.weight"]
            if "lateral.log_scale" in state:
                log_scale = torch.from_numpy(state["lateral.log_scale"].copy())
                settings["log_scale"] = nn.Parameter(log_scale)
            neuron = IPVAENeuron(nn.Linear(features, len(weight), bias=False), **settings)
        else:
            gram = torch.eye(features) if kind == "FixedGram" else None
            source = _SOURCES[kind](features) if kind in _SOURCES else features
            neuron = IPVAENeuron(source, gram=gram, **settings)
            if kind in _LEARNED:
                neuron.lateral.factor = nn.Parameter(torch.zeros(state["lateral.factor"].shape))
    weights = _tensors(state, neuron)
    neuron.to(weights["mem_init"].dtype).load_state_dict(weights)
    return neuron


def _unfolded(node: Any, feeds_neuron: bool) -> Any:
    """The original weights, bit for bit; but what was folded in for a neuron that is not restored
    stays."""
    original = {name: np.asarray(value) for name, value in node.metadata["unfolded"].items()}
    node, gain = copy.copy(node), original["gain"]
    if "scale" in original:
        node.scale = array(original["scale"] * gain)
        return node
    node.weight, node.bias, shift = original["weight"], original["bias"], original["shift"]
    if not feeds_neuron and ((gain != 1).any() or shift.any()):
        rows = gain.reshape(-1, *(1,) * (node.weight.ndim - 1))
        node.weight, node.bias = array(rows * node.weight), array(gain * node.bias + shift)
    return node
