"""From a NIR graph back to a model or a network."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ipvae_snn import surrogate
from ipvae_snn._utils.seeding import seeded
from ipvae_snn.export.graphs.encode import FORMAT, FORMAT_VERSION, to_nir
from ipvae_snn.export.graphs.files import read
from ipvae_snn.export.graphs.network import GraphNetwork, flattened, layer_of, reset_of
from ipvae_snn.export.graphs.pieces import array, nir_module
from ipvae_snn.export.graphs.poisson import Portable
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.neurons.poisson import IPVAENeuron

_DECODER = "neuron.lateral.decoder.weight"
_DAMAGE = (
    KeyError, TypeError, AttributeError, RuntimeError, IndexError, OverflowError, MemoryError,
    json.JSONDecodeError, UnicodeError,
)  # fmt: skip
"""What metadata that was tampered with can end in."""


def from_nir(
    source: str | Path | Any, *, stochastic: bool | None = None, reset: str | None = None
) -> IPVAE | GraphNetwork:
    """The model or network that a NIR graph describes.

    Args:
        source: a path, or a ``nir.NIRGraph``.
        stochastic: ``None``: the stochastic model where the graph says that it was made from one,
            else the graph as it stands. ``True``: the stochastic one, or an error. ``False``: the
            graph as it stands, whatever made it.
        reset: how a graph as it stands resets its neurons, ``"zero"`` or ``"subtract"``; default
            what it was exported for, and ``"zero"``, which NIR says, for other graphs.

    Returns:
        An :class:`~ipvae_snn.IPVAE` with the weights, settings and estimator of the exported one:
        for the same seed it gives the same spikes. For a network a
        :class:`~ipvae_snn.export.GraphNetwork`, its IPVAENeuron layers among the parts. In
        ``eval()`` mode.

    Raises:
        FileNotFoundError, ValueError: no such file, or not one that can be read; metadata that is
            damaged, newer than this release, or contradicts the weights of the graph.

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
    if stochastic not in (None, True, False):
        raise TypeError(f"stochastic must be None, True or False, got {stochastic!r}")
    said = graph.metadata
    ours = said.get("format") == FORMAT
    if ours and stochastic is not False and str(said.get("version")) != str(FORMAT_VERSION):
        raise ValueError(
            f"the graph has format version {said.get('version')}, this release reads version "
            f"{FORMAT_VERSION}: update ipvae_snn, or pass stochastic=False to read it as it stands"
        )
    reset = reset or (reset_of(graph) if ours else "zero")
    neurons: dict[str, IPVAENeuron] = {}
    if ours and stochastic is not False:
        try:
            if said.get("kind") == "IPVAE":
                return _model(graph)
            graph, neurons = _with_neurons(graph)
        except _DAMAGE as error:
            raise ValueError(f"the metadata of the graph is damaged: {error!r}") from error
    if stochastic and not neurons:
        raise ValueError(
            "the graph does not say that it was made from a stochastic model, or from one with an "
            "estimator of its own: leave stochastic out to read it as it stands"
        )
    return GraphNetwork(graph, reset, dict(neurons)).eval()


def _model(graph: Any) -> IPVAE:
    said = graph.metadata
    config, options = json.loads(said["config"]), json.loads(said["options"])
    found = np.shape(said["weights"][_DECODER])
    if found != (config["in_features"], config["latents"]):  # before memory is taken for it
        raise KeyError(f"sizes that are not those of the weights, {found}")
    if said["form"] == "exact" and options["levels"] > len(flattened(graph)[0]):
        raise KeyError(f"{options['levels']} levels, which the graph has no nodes for")
    config["spike_grad"] = surrogate.from_config(config["spike_grad"])
    with seeded(0):  # the weights drawn here are replaced: leave the random state alone
        model = IPVAE(**config)
    weights = _tensors(said["weights"], model)
    model.to(weights["neuron.mem_init"].dtype).load_state_dict(weights)
    chosen = options.pop("portable")
    options["portable"] = None if chosen is None else Portable(**chosen)
    _require_same(graph, to_nir(model, str(said["form"]), **options))
    return model.eval()


def _tensors(arrays: dict[str, NDArray], module: nn.Module) -> dict[str, torch.Tensor]:
    for name, value in arrays.items():
        if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
            raise ValueError(f"{name} of the graph's metadata holds values that are no numbers")
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    return {name: torch.from_numpy(v.copy()).reshape(shapes[name]) for name, v in arrays.items()}


def _require_same(graph: Any, made: Any) -> None:
    """Raise unless the weights that tools see are those that the metadata describes."""
    nodes, expected = flattened(graph)[0], flattened(made)[0]
    for name, node in expected.items():
        for key, value in vars(node).items():
            if not (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
                continue
            found = getattr(nodes.get(name), key, None)
            scale = float(np.abs(value).max(initial=1e-12))
            if (
                found is None
                or np.shape(found) != value.shape
                or not (np.allclose(found, value, rtol=1e-5, atol=1e-5 * scale))
            ):
                raise ValueError(
                    f"{key} of node {name} is not what the metadata of the graph describes: it was "
                    "changed after the export; pass stochastic=False to read the graph as it stands"
                )


def _with_neurons(graph: Any) -> tuple[Any, dict[str, IPVAENeuron]]:
    """The graph with each tagged layer as one node, the neurons for them, and the weights before
    them as they were before α was folded in."""
    nir = nir_module()
    nodes, edges = flattened(graph)
    tags = {layer_of(name): node.metadata for name, node in nodes.items() if _tag(node)}
    tags |= {name: n.metadata for name, n in graph.nodes.items() if hasattr(n, "nodes") and _tag(n)}
    if not tags:
        return graph, {}
    neurons = {layer: _neuron(tag) for layer, tag in tags.items()}
    names = {name: layer_of(name) if layer_of(name) in tags else name for name in nodes}
    kept: dict[str, Any] = {}
    for name, node in nodes.items():
        neuron = neurons.get(names[name])
        stands_for = node if neuron is None else nir.Scale(array(1, (neuron.features,)))
        kept.setdefault(names[name], stands_for)
    wires = dict.fromkeys((names[a], names[b]) for a, b in edges if names[a] != names[b])
    feeds = {a for a, b in wires if b in neurons}
    kept = {
        name: _unfolded(node, name in feeds) if "unfolded" in node.metadata else node
        for name, node in kept.items()
    }
    return nir.NIRGraph(kept, list(wires), type_check=False), neurons


def _tag(node: Any) -> bool:
    return "estimator" in node.metadata and "state" in node.metadata


def _neuron(tag: dict[str, Any]) -> IPVAENeuron:
    state, features = dict(tag["state"]), int(tag["features"])
    if features != np.size(state["mem_init"]):
        raise KeyError(f"{features} features, a state of {np.size(state['mem_init'])}")
    settings: dict[str, Any] = {name: float(value) for name, value in tag["settings"].items()}
    estimator = {k: v.item() if hasattr(v, "item") else v for k, v in tag["estimator"].items()}
    spike_grad = surrogate.from_config(estimator)
    kind = str(tag["lateral"])
    with seeded(0):
        if kind == "SharedDecoder":
            weight = state["lateral.decoder.weight"]
            scale = state.get("lateral.log_scale")
            decoder = nn.Linear(features, weight.shape[0], bias=False)
            neuron = IPVAENeuron(
                decoder, spike_grad=spike_grad, init_hidden=True, **settings,
                log_scale=None if scale is None else nn.Parameter(torch.from_numpy(scale.copy())),
            )  # fmt: skip
        else:
            own: dict[str, Any] = {"gram": torch.eye(features)} if kind == "FixedGram" else {}
            neuron = IPVAENeuron(
                features, spike_grad=spike_grad, init_hidden=True, **own, **settings
            )
            if kind == "LearnedGram":
                neuron.lateral.factor = nn.Parameter(torch.zeros(state["lateral.factor"].shape))
    weights = _tensors(state, neuron)
    neuron.to(weights["mem_init"].dtype).load_state_dict(weights)
    return neuron


def _unfolded(node: Any, feeds_neuron: bool) -> Any:
    """Weights as the network had them, bit for bit; but for what a neuron asked for that stays as
    the graph has it."""
    was = {name: np.asarray(value) for name, value in node.metadata["unfolded"].items()}
    node, gain = copy.copy(node), was["gain"]
    if "scale" in was:
        node.scale = array(was["scale"] * gain)
        return node
    node.weight, node.bias = was["weight"], was["bias"]
    if not feeds_neuron and ((gain != 1).any() or was["shift"].any()):
        rows = gain.reshape(-1, *(1,) * (node.weight.ndim - 1))
        node.weight, node.bias = array(rows * node.weight), array(gain * node.bias + was["shift"])
    return node
