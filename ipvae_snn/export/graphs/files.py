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
    """What ``nir.read`` gives, which cannot read names with slashes."""
    nir, h5py = nir_module(), require_extra("h5py", extra="nir")
    with h5py.File(path, "r") as file:
        content = nir.serialization.hdf2dict(file)
    gather_paths(content)
    return nir.dict2NIRNode({**content["node"], "type_check": True})


def _version(path: Path) -> str:
    """A note on the version of nir that wrote the file, if another one is installed."""
    nir = nir_module()
    try:
        written = nir.serialization.read_version(path)
    except Exception:  # not that kind of file at all
        return ""
    return "" if written == nir.version else f" (written by nir {written}, {nir.version} is here)"
