"""Validates an untrusted HDF5 file from its metadata, before any array is read."""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.untrusted import MAX_DEFLATED

MAX_BYTES = 2**30
"""Of all arrays of a graph together."""

_HEAP = b"GCOL\1\0\0\0"  # signature of a global heap, which holds variable-length strings
_GZIP, _CHECKSUM = 1, 3  # HDF5's filter numbers
_FILTERS = {_GZIP, 2, _CHECKSUM, 32000}
"""Those, byte shuffling, and lzf."""


def validate_hdf5(path: Path) -> None:
    """Raise unless a file holds nothing but groups and arrays, whose sizes are plausible.

    Refused: links to other places and files, groups within themselves, arrays in external files,
    and arrays that declare more bytes than the file can hold or inflate to more than they declare.

    Raises:
        ValueError: one of these, named.
        Exception: whatever h5py raises for a damaged file.
    """
    h5py = require_extra("h5py", extra="nir")
    size, remaining = path.stat().st_size, MAX_BYTES
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes: expected at most {MAX_BYTES:,}")
    content = path.read_bytes()
    _validate_heaps(content)
    with h5py.File(path, "r") as file:
        for name, dataset in _datasets(file, h5py):
            _validate_dataset(name, dataset, size, h5py)
            remaining -= _declared_bytes(name, dataset)
            remaining -= _string_bytes(name, dataset, content, h5py)
            if remaining < 0:
                raise ValueError(
                    f"its arrays take more than {MAX_BYTES:,} bytes up to {name!r}: expected a "
                    "graph that fits memory several times"
                )


def _validate_heaps(content: bytes) -> None:
    """Follow the object sizes of every global heap: a size of 0 would make HDF5 loop forever."""
    start = content.find(_HEAP)
    while start >= 0:
        end = start + int.from_bytes(content[start + 8 : start + 16], "little")
        offset = start + 16
        while offset + 16 <= end:
            size = int.from_bytes(content[offset + 8 : offset + 16], "little")
            is_free = content[offset : offset + 2] == b"\0\0"  # size includes the 16-byte header
            offset += size if is_free else 16 + -(-size // 8) * 8
            if (is_free and size < 16) or offset > min(end, len(content)):
                raise ValueError("its variable-length strings are damaged")
        start = content.find(_HEAP, start + 1)


def _string_bytes(name: str, dataset: Any, content: bytes, h5py: Any) -> int:
    """Bytes of variable-length strings in memory; several entries may share one in the file.

    Raises ``ValueError`` if an entry claims more bytes than the file has: HDF5 would allocate them.
    """
    string = h5py.check_string_dtype(dataset.dtype)
    if string is None or string.length is not None or not dataset.size:
        return 0
    stored = dataset.id.get_storage_size()  # per string: length, heap address, index
    start = dataset.id.get_offset() if stored else None
    if start is None or stored != 16 * dataset.size:
        raise ValueError(f"{name!r} stores its strings in another layout than nir.write does")
    entries = content[start : start + stored].ljust(stored, b"\xff")
    lengths = np.frombuffer(entries, dtype="<u4")[::4]
    if int(lengths.max()) > len(content):
        raise ValueError(f"{name!r} holds a string of {int(lengths.max()):,} bytes: it is damaged")
    return int(lengths.sum(dtype=np.int64))


def _datasets(file: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """Name and object of every array, through all groups; raises on links and cycles."""
    visited: set[int] = set()
    groups = [file]
    while groups:
        group = groups.pop()
        for key in group:
            name = f"{group.name.rstrip('/')}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} is a link to another place, which is not followed")
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in visited:
                raise ValueError(f"{name!r} is in the file twice, or within itself")
            visited.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                yield name, item
            else:
                raise ValueError(f"{name!r} is neither a group nor an array")


def _declared_bytes(name: str, dataset: Any) -> int:
    """Bytes of an array in memory; raises if no compression could fit them into the file."""
    declared = math.prod(dataset.shape or (0,)) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if declared > MAX_DEFLATED * stored:
        raise ValueError(f"{name!r} declares {declared:,} bytes, the file stores {stored:,}")
    return int(declared)


def _validate_dataset(name: str, dataset: Any, file_size: int, h5py: Any) -> None:
    string = h5py.check_string_dtype(dataset.dtype)
    if dataset.dtype.kind not in "biufcS" and not string:
        raise ValueError(f"{name!r} holds {dataset.dtype}: expected numbers or text")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{name!r} keeps its numbers in another file, which is not opened")
    if dataset.id.get_storage_size() > file_size:
        raise ValueError(f"{name!r} is larger than the file that holds it")
    if dataset.chunks is None:
        return
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if chunk_bytes > MAX_BYTES:
        raise ValueError(f"{name!r} has chunks of {chunk_bytes:,} bytes")
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(n)[0] for n in range(settings.get_nfilters())]
    if set(filters) - _FILTERS or len(filters) > len(set(filters)):
        raise ValueError(f"{name!r} is packed by filters {filters}: write it anew with gzip")
    if _GZIP in filters:
        _validate_gzip(name, dataset, filters, chunk_bytes)


def _validate_gzip(name: str, dataset: Any, filters: list[int], chunk_bytes: int) -> None:
    """Inflate each chunk up to its declared size: HDF5 inflates without a bound."""
    bound = chunk_bytes + 4 * (_CHECKSUM in filters)

    def inflate(chunk: Any) -> None:
        if chunk.filter_mask >> filters.index(_GZIP) & 1:  # stored uncompressed
            return
        packed = dataset.id.read_direct_chunk(chunk.chunk_offset)[1]
        if len(zlib.decompressobj().decompress(packed, bound + 1)) > bound:
            raise ValueError(f"{name!r} inflates to more than it declares")

    dataset.id.chunk_iter(inflate)
