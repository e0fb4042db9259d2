"""Whether an HDF5 file can be read without harm: looked at before any of its arrays is."""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.untrusted import MAX_DEFLATED

LIMIT_BYTES = 2**30
"""Of all arrays of a graph together."""

_HEAP = b"GCOL\1\0\0\0"  # where texts of any length lie
_GZIP, _CHECKSUM = 1, 3  # HDF5's numbers of filters
_FILTERS = {_GZIP, 2, _CHECKSUM, 32000}
"""Those, the one that shuffles bytes, and lzf."""


def require_sound(path: Path) -> None:
    """Raise unless a file holds groups and arrays that fit it, and nothing else.

    Refused: links to other places and files, groups within themselves, arrays that are kept in
    other files, that declare more than the file can hold, or unpack to more than they declare.

    Raises:
        ValueError: one of these, named.
        Exception: whatever h5py raises for a file that is damaged.
    """
    h5py = require_extra("h5py", extra="nir")
    size, room = path.stat().st_size, LIMIT_BYTES
    if size > LIMIT_BYTES:
        raise ValueError(f"it has {size:,} bytes: expected at most {LIMIT_BYTES:,}")
    content = path.read_bytes()
    _require_sound_heaps(content)
    with h5py.File(path, "r") as file:
        for name, item in _objects(file, h5py):
            _require_inside(name, item, size, h5py)
            room -= _declared(name, item) + _text_bytes(name, item, content, h5py)
            if room < 0:
                raise ValueError(
                    f"its arrays take more than {LIMIT_BYTES:,} bytes up to {name!r}: expected a "
                    "graph that fits memory several times"
                )


def _require_sound_heaps(content: bytes) -> None:
    """Follow the lists of texts: in a damaged one, HDF5 would stay at the same text for ever."""
    start = content.find(_HEAP)
    while start >= 0:
        end = start + int.from_bytes(content[start + 8 : start + 16], "little")
        at = start + 16
        while at + 16 <= end:
            size = int.from_bytes(content[at + 8 : at + 16], "little")
            is_free = content[at : at + 2] == b"\0\0"  # its size counts its head of 16 bytes
            at += size if is_free else 16 + -(-size // 8) * 8
            if (is_free and size < 16) or at > min(end, len(content)):
                raise ValueError("its texts are damaged")
        start = content.find(_HEAP, start + 1)


def _text_bytes(name: str, item: Any, content: bytes, h5py: Any) -> int:
    """Bytes of texts of any length, many of which may be one and the same in the file.

    Raises where one claims to be longer than the file: HDF5 would take memory for all of it.
    """
    text = h5py.check_string_dtype(item.dtype)
    if text is None or text.length is not None or not item.size:
        return 0
    held = item.id.get_storage_size()  # a length, an address and a number for each text
    start = item.id.get_offset() if held else None
    if start is None or held != 16 * item.size:
        raise ValueError(f"{name!r} keeps its texts in another way than nir.write does")
    lengths = np.frombuffer(content[start : start + held].ljust(held, b"\xff"), dtype="<u4")[::4]
    if int(lengths.max()) > len(content):
        raise ValueError(f"{name!r} holds a text of {int(lengths.max()):,} bytes: it is damaged")
    return int(lengths.sum(dtype=np.int64))


def _objects(file: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """Name and object of every array; groups are gone through, each once."""
    seen: set[int] = set()
    groups = [file]
    while groups:
        group = groups.pop()
        for key in group:
            name = f"{group.name.rstrip('/')}/{key}"
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} is a link to another place, which is not followed")
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise ValueError(f"{name!r} is in the file twice, or within itself")
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                yield name, item
            else:
                raise ValueError(f"{name!r} is neither a group nor an array")


def _declared(name: str, item: Any) -> int:
    """Bytes of an array in memory; raises where the file cannot hold that many."""
    declared = math.prod(item.shape or (0,)) * item.dtype.itemsize
    if declared > MAX_DEFLATED * item.id.get_storage_size():
        raise ValueError(f"{name!r} declares {declared:,} bytes and holds hardly any of them")
    return int(declared)


def _require_inside(name: str, item: Any, size: int, h5py: Any) -> None:
    text = h5py.check_string_dtype(item.dtype)
    if item.dtype.kind not in "biufcS" and not text:
        raise ValueError(f"{name!r} holds {item.dtype}: expected numbers or text")
    if item.is_virtual or item.external:
        raise ValueError(f"{name!r} keeps its numbers in another file, which is not opened")
    if item.id.get_storage_size() > size:
        raise ValueError(f"{name!r} is larger than the file that holds it")
    if item.chunks is None:
        return
    chunk_bytes = math.prod(item.chunks) * item.dtype.itemsize
    if chunk_bytes > LIMIT_BYTES:
        raise ValueError(f"{name!r} comes in pieces of {chunk_bytes:,} bytes")
    settings = item.id.get_create_plist()
    filters = [settings.get_filter(n)[0] for n in range(settings.get_nfilters())]
    if set(filters) - _FILTERS or len(filters) > len(set(filters)):
        raise ValueError(f"{name!r} is packed by filters {filters}: write it anew with gzip")
    if _GZIP in filters:
        _require_inflatable(name, item, filters, chunk_bytes)


def _require_inflatable(name: str, item: Any, filters: list[int], chunk_bytes: int) -> None:
    """Unpack piece by piece, and never further than a piece is long: HDF5 would go on."""
    most = chunk_bytes + 4 * (_CHECKSUM in filters)

    def unpack(chunk: Any) -> None:
        if chunk.filter_mask >> filters.index(_GZIP) & 1:  # stored as it is
            return
        packed = item.id.read_direct_chunk(chunk.chunk_offset)[1]
        if len(zlib.decompressobj().decompress(packed, most + 1)) > most:
            raise ValueError(f"{name!r} unpacks to more than it declares")

    item.id.chunk_iter(unpack)
