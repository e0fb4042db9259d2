"""Reads and writes ``.npz`` files of plain numbers: integer networks, codes of images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ipvae_snn._utils.files import atomic_write, require_file
from ipvae_snn._utils.untrusted import read_npz_arrays

MAX_BYTES = 2**30
"""Of all arrays of a file together; int16 lateral weights of 16,000 neurons take half of it."""


def write_npz(path: str | Path, kind: str, version: int, content: Mapping[str, Any]) -> None:
    """Write numbers, strings and arrays to one file, atomically.

    Raises:
        ValueError: the folder does not exist, or the content has more than :data:`MAX_BYTES`.
    """
    size = sum(np.asarray(value).nbytes for value in content.values())
    if size > MAX_BYTES - 2**16:  # the rest is for names and headers
        raise ValueError(f"{kind} of {size:,} bytes is too large for a file")
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, format=kind, version=version, **content)


def read_npz(path: str | Path, kind: str, version: int) -> dict[str, Any]:
    """What :func:`write_npz` wrote, without format and version; runs no code from the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, too large, or written by a newer version.
    """
    path = require_file(path, f"{kind}.save")
    try:
        content: dict[str, Any] = dict(read_npz_arrays(path, MAX_BYTES))
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as an .npz file of numbers, as {kind}.save writes: {error}"
        ) from error
    if str(content.pop("format", None)) != kind:
        raise ValueError(f"{path} was not written by {kind}.save")
    written = content.pop("version", None)
    if not np.array_equal(written, version):
        raise ValueError(
            f"{path} has format version {written}, this release reads version {version}: "
            "update ipvae_snn"
        )
    return content
