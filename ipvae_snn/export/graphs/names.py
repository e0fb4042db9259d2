"""Names of nodes: any text in a graph, less in files and in the modules of toolchains."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ipvae_snn.export.graphs.graph_fragment import nir_module

_KEY = "ipvae_snn_names"
"""In the metadata of a graph in a file: JSON of the names that the file cannot hold, by those that
stand for them."""

_UNFIT = re.compile(r"[/\0\ud800-\udfff]|^\.?\Z")
"""What HDF5 takes for a path or for the end of a text, or cannot encode."""


def with_file_names(graph: Any) -> Any:
    """The graph with names that HDF5 can hold; the others are in the metadata."""
    names = {name: name for name in graph.nodes if not _UNFIT.search(name)}
    originals: dict[str, str] = {}
    for name in graph.nodes:
        if name not in names:
            names[name] = _free(_UNFIT.sub("_", name), {*graph.nodes, *names.values()})
            originals[names[name]] = name
    metadata = {_KEY: json.dumps(originals)} if originals else {}
    return _renamed(graph, names, with_file_names, metadata)


def with_own_names(graph: Any) -> Any:
    """The inverse of :func:`with_file_names`.

    Raises:
        ValueError: the names in the metadata are damaged.
    """
    originals = json.loads(graph.metadata.get(_KEY, "{}"))
    if not isinstance(originals, dict) or not originals.keys() <= graph.nodes.keys():
        raise ValueError("the names in its metadata are not those of its nodes")
    names = {name: originals.get(name, name) for name in graph.nodes}
    if not all(isinstance(n, str) for n in names.values()) or len({*names.values()}) < len(names):
        raise ValueError("the names in its metadata are no texts, or not all different")
    return _renamed(graph, names, with_own_names, {})


def gather_paths(content: dict[str, Any]) -> None:
    """Put nodes whose names hold slashes back among the nodes of their graphs.

    ``nir.write`` hands names to HDF5 as they are, which makes groups of ``a/b``, and puts ``/a``
    beside the graph. The edges have the names.

    Args:
        content: groups and arrays of a file as dictionaries, changed in place.
    """
    graphs = [content["node"]]
    for graph in graphs:
        nodes, ends = graph.get("nodes", {}), np.ravel(graph.get("edges", [])).tolist()
        names = {end.decode() if isinstance(end, bytes) else str(end) for end in ends}
        for name in sorted(names - nodes.keys(), key=len, reverse=True):  # a/b/c before a/b
            path = [part for part in name.split("/") if part not in ("", ".")]
            if "/" in name and path and not (name[0] == "/" and path[0] == "node"):
                nodes[name] = _taken(content if name[0] == "/" else nodes, path)
        graphs += [node for node in nodes.values() if isinstance(node, dict) and "nodes" in node]


def _taken(group: dict[str, Any], path: list[str]) -> Any:
    """What is at a path, taken out of its groups; those that are empty then are removed."""
    if len(path) == 1:
        return group.pop(path[0])
    inner = group[path[0]]
    found = _taken(inner, path[1:])
    if not inner:
        del group[path[0]]
    return found


def with_plain_names(graph: Any) -> Any:
    """The graph with names n0, n1, … that modules of PyTorch can have."""
    names = {name: f"n{number}" for number, name in enumerate(graph.nodes)}
    return _renamed(graph, names, with_plain_names, {})


def _renamed(
    graph: Any, names: Mapping[str, str], inner: Callable[[Any], Any], metadata: dict[str, str]
) -> Any:
    """A copy of a graph under other names, with ``inner`` applied to subgraphs; nodes are shared.

    The graph itself if nothing changes, so that it is written as it is.
    """
    graph_type = nir_module().NIRGraph
    nodes = {k: inner(n) if isinstance(n, graph_type) else n for k, n in graph.nodes.items()}
    metadata = {**{k: v for k, v in graph.metadata.items() if k != _KEY}, **metadata}
    changed = any(names[k] != k or nodes[k] is not node for k, node in graph.nodes.items())
    if not changed and metadata.keys() == graph.metadata.keys():
        return graph
    edges = [(names.get(a, a), names.get(b, b)) for a, b in graph.edges]
    return graph_type({names[k]: n for k, n in nodes.items()}, edges, metadata, type_check=False)


def _free(name: str, taken: set[str]) -> str:
    """``name``, with a number where it is taken."""
    free, number = name, 2
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free
