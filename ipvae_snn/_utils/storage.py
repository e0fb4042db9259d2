"""Files of plain data and tensors; reading one never runs code from it."""

import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ipvae_snn._utils.files import atomic_write, require_file


def write_content(path: str | Path, kind: str, version: int, content: Mapping[str, Any]) -> None:
    """Write plain data and tensors to one file, atomically.

    Raises:
        OSError: writing failed, such as on a full disk; an old file at ``path`` is unchanged.
    """
    buffer = io.BytesIO()  # torch's own file writer does not report a full disk
    torch.save({"format": kind, "version": version, **content}, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_content(
    path: str | Path,
    kinds: str | tuple[str, ...],
    version: int,
    *,
    writer: str,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Read a file of :func:`write_content`; never runs code from it.

    Args:
        path: the file.
        kinds: accepted values of its ``format``.
        version: newest format version that can be read.
        writer: what writes such files, for messages.
        device: where tensors go.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another kind, damaged, or written by a newer release.
    """
    content = load_plain(path, writer=writer, device=device)
    kinds = (kinds,) if isinstance(kinds, str) else kinds
    if not isinstance(content, dict) or content.get("format") not in kinds:
        raise ValueError(f"{path} was not written by {writer}")
    written = content.get("version")
    if not isinstance(written, int) or not 1 <= written <= version:
        raise ValueError(
            f"{path} has format version {written}, this release reads versions up to {version}: "
            "update ipvae_snn"
        )
    return content


def load_plain(
    path: str | Path,
    *,
    writer: str,
    device: torch.device | str = "cpu",
    allowed: Sequence[Any] = (),
) -> Any:
    """The plain data and tensors in a file of ``torch.save``; never runs code from it.

    Args:
        path, writer, device: as for :func:`read_content`.
        allowed: what else the file may name, as for ``torch.serialization.safe_globals``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds anything else, or is damaged.
    """
    path = require_file(path, writer)
    try:
        _require_plain_zip(path)
        with torch.serialization.safe_globals(list(allowed)):
            content = torch.load(path, map_location=device, weights_only=True)
        _require_real(content, os.path.getsize(path))
    except Exception as error:  # a damaged file can fail anywhere inside the unpickler
        raise ValueError(f"{path} cannot be read: {_reason(error)}") from error
    return content


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "weights_only" in text.lower() or "unsupported" in text.lower():
        return "it holds Python objects, which could run code, or is damaged"
    return text.splitlines()[0]


def _require_plain_zip(path: Path) -> None:
    """Raise if an entry is compressed or larger than the file: it could fill the memory."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        claimed, size = sum(entry.file_size for entry in entries), os.path.getsize(path)
        if not stored or claimed > size:
            raise ValueError(
                f"its entries are compressed or too large, {claimed:,} bytes in a file of {size:,}:"
                " expected uncompressed ones"
            )
        pickles = [archive.read(e) for e in entries if e.filename.endswith("data.pkl")]
    # torch would read a pickle of its older format in front of the archive, and lets a bytearray
    # have any length.
    with path.open("rb") as file:
        starts_as_zip = file.read(2) == b"PK"
    if not starts_as_zip or any(b"\nbytearray\n" in pickle for pickle in pickles):
        raise ValueError("it holds something else than plain data and tensors")


def _require_real(content: Any, size: int) -> None:
    """Raise if content claims to be larger than its file: using it could fill memory or time.

    A tensor may have larger sizes than its storage, a storage may be made without bytes of the
    file, and lists that contain another one twice may unfold to any length.
    """
    left, entries, storages = [content], 0, dict[int, int]()
    while left:
        value, entries = left.pop(), entries + 1
        if entries > size:
            raise ValueError(f"it unfolds to more entries than it has bytes, {size:,}")
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage._cdata] = stored = storage.nbytes()
            claimed = value.numel() * value.element_size()
            if value.layout != torch.strided or claimed > stored or value.is_meta:
                raise ValueError("a tensor in it claims more values than it holds")
        elif isinstance(value, dict | list | tuple):
            left.extend(value.values() if isinstance(value, dict) else value)
    if sum(storages.values()) > size:
        raise ValueError(
            f"its tensors claim {sum(storages.values()):,} bytes in a file of {size:,}"
        )


class AllocationLimit(TorchDispatchMode):
    """A block in which no tensor is made that is much larger than the weights of a file together.

    Around the construction of a model whose sizes a file gives: they are refused by ``ValueError``
    before memory is taken for them.
    """

    SMALL = 2**24
    """Values of a tensor that any model may make."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        tensors = [w for w in weights.values() if isinstance(w, Tensor)]
        # Weights that share their values count once.
        stored = {w.untyped_storage()._cdata: w for w in tensors}
        self.held = sum(w.untyped_storage().nbytes() // w.element_size() for w in stored.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made_by_size = not any(isinstance(value, Tensor) for value in args)
        sizes = (size for size in args if isinstance(size, list | tuple))
        for size in sizes if made_by_size else ():
            asked = math.prod(n for n in size if type(n) is int)
            if asked > max(self.held, self.SMALL):
                raise ValueError(
                    f"its configuration asks for a tensor of {asked:,} values where its weights "
                    f"have {self.held:,}"
                )
        return func(*args, **(kwargs or {}))
