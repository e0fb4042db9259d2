"""Files of plain data and tensors, with nothing in them that could run."""

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.files import atomic_write, require_file


def write_content(path: str | Path, form: str, version: int, content: Mapping[str, Any]) -> None:
    """Write plain data and tensors to one file, whole or not at all.

    Raises:
        OSError: it cannot be written, such as on a full disk; what was at ``path`` stays.
    """
    memory = io.BytesIO()  # torch's own writer does not say that a disk is full
    torch.save({"format": form, "version": version, **content}, memory)
    with atomic_write(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def read_content(
    path: str | Path,
    form: str | tuple[str, ...],
    version: int,
    *,
    writer: str,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """What :func:`write_content` wrote; never runs code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, or written by a newer version.
    """
    path = require_file(path, writer)
    try:
        _require_plain_zip(path)
        content = torch.load(path, map_location=device, weights_only=True)
        _require_dense(content)
    except Exception as error:  # a damaged file can fail anywhere inside the unpickler
        raise ValueError(f"{path} cannot be read: {_reason(error)}") from error
    forms = (form,) if isinstance(form, str) else form
    if not isinstance(content, dict) or content.get("format") not in forms:
        raise ValueError(f"{path} was not written by {writer}".rstrip(","))
    found = content.get("version")
    if not isinstance(found, int) or not 1 <= found <= version:
        raise ValueError(
            f"{path} has format version {found}, this release reads versions up to {version}: "
            "update ipvae_snn"
        )
    return content


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "weights_only" in text.lower() or "unsupported" in text.lower():
        return "it holds Python objects, which could run code, or is damaged"
    return text.splitlines()[0]


def _require_plain_zip(path: Path) -> None:
    """Raise unless the parts of a file are as large as it says: nothing in it is compressed."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    claimed, size = sum(part.file_size for part in parts), os.path.getsize(path)
    if not stored or claimed > size:
        raise ValueError(f"compressed, {claimed:,} bytes in a file of {size:,}: expected as many")


def _require_dense(content: Any) -> None:
    """Raise if a tensor claims more values than it has: it would take memory when used."""
    if isinstance(content, Tensor):
        held = content.untyped_storage().nbytes()
        if content.layout != torch.strided or content.numel() * content.element_size() > held:
            raise ValueError("a tensor in it claims more values than it holds")
    elif isinstance(content, dict):
        for value in content.values():
            _require_dense(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            _require_dense(value)
