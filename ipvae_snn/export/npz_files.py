"""Integer networks in .npz files: plain numbers and arrays, nothing that could run."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ipvae_snn.files import require_file, whole_file


def write_npz(path: str | Path, kind: str, version: int, content: Mapping[str, Any]) -> None:
    """Write numbers, texts and arrays to one file, whole or not at all."""
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, format=kind, version=version, **content)


def read_npz(path: str | Path, kind: str, version: int) -> dict[str, Any]:
    """What :func:`write_npz` wrote, but for format and version; never runs code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, or written by a newer version.
    """
    path = require_file(path, f"{kind}.save")
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            content = dict(archive)
    except Exception as error:  # a damaged archive can fail anywhere inside zlib or numpy
        reason = "" if isinstance(error, ValueError) else f": {error}"
        raise ValueError(
            f"{path} cannot be read as an .npz file of numbers, as {kind}.save writes{reason}"
        ) from error
    if str(content.pop("format", None)) != kind:
        raise ValueError(f"{path} was not written by {kind}.save")
    found = content.pop("version", None)
    if not np.array_equal(found, version):
        raise ValueError(
            f"{path} has format version {found}, this release reads version {version}: "
            "update ipvae_snn"
        )
    return content
