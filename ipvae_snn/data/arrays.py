"""Images in ``.npy`` and ``.npz`` files: read from the file in batches, or unpacked if small."""

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.untrusted import NpyHeader, check_npy_header, read_npz_arrays
from ipvae_snn.data.images import FileArray, ImageArray, Joined, Split

Arrays = dict[str, NDArray[Any] | FileArray]
LABEL_PREFIXES = ("y", "label")
LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name; the last four hold two lengths."""


def read_arrays(path: Path, limit_bytes: int = sys.maxsize) -> Split:
    """Images of a ``.npy`` or ``.npz``; names of arrays that hold "train" or "test" split them.

    In an ``.npz``, arrays of one dimension or named ``y...`` or ``label...`` are no images:
    ``y_train`` labels ``x_train`` if its values are integers, others are ignored. Flat arrays are
    samples if there are no images.

    Args:
        path: the file.
        limit_bytes: the largest ``.npz`` to unpack into memory; a larger one must be uncompressed,
            and is read in batches, as every ``.npy`` is.

    Raises:
        ValueError: the file is damaged, holds Python objects, or no images.
    """
    try:
        arrays = _open(path, limit_bytes)
    except Exception as error:  # damaged archives fail in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as numpy arrays: {reason}") from error
    axes = {
        name: len(array.shape)
        for name, array in arrays.items()
        if 0 not in array.shape and not name.lower().startswith(LABEL_PREFIXES)
    }
    # Flat arrays beside images are not samples.
    names = [n for n in axes if axes[n] > 2] or [n for n in axes if axes[n] == 2]
    if not names:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"{path} holds no images: its arrays have the shapes {shapes}")
    images = {n: ImageArray(arrays[n], f"{path.name}:{n}" if n else path.name) for n in names}
    test = [n for n in names if "test" in n.lower() or "val" in n.lower()]
    train = [n for n in names if "train" in n.lower()]
    if not (train and test):
        train, test = names, []
    return Split(
        Joined([images[n] for n in train]),
        Joined([images[n] for n in test]),
        _labels(arrays, train),
        _labels(arrays, test),
    )


def _labels(arrays: Arrays, names: list[str]) -> Tensor | None:
    """``y...`` for a single ``x...``, if it exists, is as long, and holds integers."""
    x = names[0] if len(names) == 1 else ""
    y = arrays.get("y" + x[1:]) if x.startswith("x") else None
    if y is None or y.shape != arrays[x].shape[:1] or y.dtype.kind not in "biuf":
        return None
    values = y[:]
    with np.errstate(invalid="ignore"):  # NaN changes when it is converted, and so is no label
        integers = values.astype(np.int64)
    return torch.from_numpy(integers) if (integers == values).all() else None


def _open(path: Path, limit_bytes: int) -> Arrays:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            header = check_npy_header(file, sys.maxsize, path.name)
            return {"": _file_array(path, header, 0, path.stat().st_size, "it")}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) <= limit_bytes:
            return {**read_npz_arrays(path, limit_bytes)}
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError(
                f"it would unpack to more than {limit_bytes:,} bytes: save it uncompressed with "
                "numpy.savez, or as .npy, or load it with stream=False"
            )
        return {m.filename.removesuffix(".npy"): _member_array(path, archive, m) for m in members}


def _member_array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> FileArray:
    name = member.filename
    with archive.open(member) as unpacked:  # compares the local header with the directory
        header = check_npy_header(unpacked, member.file_size, name)
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(LOCAL_HEADER)
    lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    if member.compress_size != member.file_size:
        raise ValueError(f"{name!r} is damaged: it is not compressed, but its two sizes differ")
    offset = member.header_offset + LOCAL_HEADER + lengths
    return _file_array(path, header, offset, member.file_size, repr(name))


def _file_array(path: Path, header: NpyHeader, offset: int, size: int, name: str) -> FileArray:
    """The array of the ``size`` bytes at ``offset``, which are its header and its data."""
    data_offset, data_bytes = offset + header.header_bytes, size - header.header_bytes
    if data_bytes != header.data_bytes or offset + size > path.stat().st_size:
        shape, dtype = header.shape, header.dtype
        raise ValueError(
            f"{name} is damaged: {data_bytes:,} bytes for the shape {shape} of {dtype}"
        )
    return FileArray(path, header.shape, header.dtype, data_offset, header.fortran)
