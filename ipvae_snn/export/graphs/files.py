"""Reads and writes NIR graphs in nir's HDF5 format."""

from pathlib import Path
from typing import Any

from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.files import atomic_write, require_file
from ipvae_snn.export.graphs.graph_fragment import nir_module, require_graph
from ipvae_snn.export.graphs.hdf5 import validate_hdf5
from ipvae_snn.export.graphs.names import gather_paths, with_file_names, with_own_names


def write(path: str | Path, graph: Any) -> None:
    """Write a graph to one HDF5 file, atomically; ``nir.read`` reads it, too.

    Names of nodes that HDF5 cannot hold, such as ``a/b``, are in the metadata of their graph, for
    :func:`read`; other readers find similar ones.

    Raises:
        TypeError: ``graph`` is no ``nir.NIRGraph``.
        ValueError: the folder does not exist, or metadata that HDF5 cannot hold.
    """
    nir = nir_module()
    require_graph(graph)
    with atomic_write(path) as temporary:
        try:
            nir.write(temporary, with_file_names(graph))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the graph cannot be written: {error} (metadata may hold text, numbers, arrays "
                "with at least one dimension, and dictionaries of them)"
            ) from error


def read(path: str | Path) -> Any:
    """The graph in a file; runs no code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a NIR file, damaged, above 1 GiB, or written by a newer version of nir.
    """
    path = require_file(path, "write, or nir.write,")
    version = ""
    try:
        validate_hdf5(path)
        version = _version(path)
        return with_own_names(_graph_in(path))
    except Exception as error:  # a damaged file can fail anywhere in HDF5 or in nir
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a NIR graph{version}: {reason}") from error


def _graph_in(path: Path) -> Any:
    """The graph in a file.

    Where nir cannot tell the shapes, or gets them wrong, as after kernels that are not square or in
    groups, the nodes remain to be checked when they are run.
    """
    nir = nir_module()
    try:
        return nir.dict2NIRNode({**_content(path), "type_check": True})
    except ValueError:
        graph = nir.dict2NIRNode(_unchecked(_content(path)))
        graph.validate_structure()
        return graph


def _content(path: Path) -> dict[str, Any]:
    """Groups and arrays of the graph in a file, with nodes whose names ``nir.read`` cannot read."""
    nir, h5py = nir_module(), require_extra("h5py", extra="nir")
    with h5py.File(path, "r") as file:
        content = nir.serialization.hdf2dict(file)
    graph = content.get("node")
    if not isinstance(graph, dict) or graph.get("type") != "NIRGraph":
        raise ValueError("it holds no group 'node' of type NIRGraph")
    gather_paths(content)
    _require_types(graph.get("nodes", {}))
    return graph


def _require_types(nodes: dict[str, Any]) -> None:
    nir = nir_module()
    for name, node in nodes.items():
        kind = node.get("type") if isinstance(node, dict) else None
        found = getattr(nir, kind, None) if isinstance(kind, str) else None
        if not (isinstance(found, type) and nir.NIRNode in found.__bases__):
            raise ValueError(f"node {name!r} is of type {kind!r}, which nir {nir.version} lacks")
        _require_types(node.get("nodes", {}))


def _unchecked(graph: dict[str, Any]) -> dict[str, Any]:
    nodes = {k: _unchecked(n) if "nodes" in n else n for k, n in graph["nodes"].items()}
    return {**graph, "nodes": nodes, "type_check": False}


def _version(path: Path) -> str:
    """A note on the version of nir that wrote the file, if another one is installed."""
    nir = nir_module()
    try:
        written = nir.serialization.read_version(path)
    except Exception:  # not that kind of file at all
        return ""
    return "" if written == nir.version else f" (written by nir {written}, {nir.version} is here)"
