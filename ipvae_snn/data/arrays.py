"""Images in ``.npy`` and ``.npz`` files: read from the file in batches, or unpacked if small."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ipvae_snn._utils.text import printable
from ipvae_snn._utils.untrusted import NpyHeader, check_npy_header, is_foreign, read_npz_arrays
from ipvae_snn.data.images import (
    FileArray,
    ImageArray,
    Joined,
    Split,
    StoredArray,
    find_encoding,
    move_axis_first,
)
from ipvae_snn.data.layout import image_axis
from ipvae_snn.data.splits import counts_of, divide, listed, part_of, words

Arrays = dict[str, StoredArray]
LABEL_WORDS = frozenset(("y", "label", "labels", "target", "targets", "class", "classes"))
LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name; the last four hold two lengths."""


def read_arrays(path: Path, limit_bytes: int = sys.maxsize, axis: int | None = None) -> Split:
    """Images of a ``.npy`` or ``.npz``; words such as "train" and "test" in names split them.

    In an ``.npz``, arrays of one dimension or named as labels (``y...``, ``..._labels``) are no
    images: ``y_train`` labels ``x_train`` if its values are integers, others are ignored. Flat
    arrays are samples if there are no images. Members that are no arrays of numbers are left out.

    Args:
        path: the file.
        limit_bytes: the largest ``.npz`` to unpack into memory; a larger one must be uncompressed,
            and is read in batches, as every ``.npy`` is.
        axis: the axis that counts the images, by default that which the shape tells.

    Raises:
        ValueError: the file is damaged, holds no images, is split by half, or has an unclear shape.
    """
    left_out: list[str] = []
    try:
        arrays = _open(path, limit_bytes, left_out)
    except Exception as error:  # damaged archives fail in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as numpy arrays: {reason}") from error
    notes = [f"left out, as no array of numbers: {listed(left_out)}"] if left_out else []
    numbers = {n for n, array in arrays.items() if array.dtype.kind in "biuf"} or set(arrays)
    axes = {
        name: len(array.shape)
        for name, array in arrays.items()
        if name in numbers and 0 not in array.shape and not _is_label(name)
    }
    # Flat arrays beside images are not samples.
    names = [n for n in axes if axes[n] > 2] or [n for n in axes if axes[n] == 2]
    if not names:
        shapes = {name: array.shape for name, array in arrays.items()}
        also = f"; {notes[0]}" if notes else ""
        raise ValueError(f"{path} holds no images: its arrays have the shapes {shapes}{also}")
    train, test, others = divide(names, str(path))
    stacks = {}
    for name in train + test:
        label = printable(f"{path.name}:{name}" if name else path.name)
        along = image_axis(arrays[name], label, axis)
        if along:
            arrays[name] = move_axis_first(arrays[name], along)
            notes.append(f"{name or 'its'} axis {along} counts the images".lstrip())
        stacks[name] = (label, arrays[name])
    encoding = find_encoding(dict(stacks.values()))
    images = {name: ImageArray(array, label, encoding) for name, (label, array) in stacks.items()}
    if list(arrays) != [""]:  # the name of the array of an .npy
        notes = [*counts_of(*({n: len(images[n]) for n in part} for part in (train, test))), *notes]
    if others:
        notes.append(f"not read: {listed(others)}")
    return Split(
        Joined([images[n] for n in train]),
        Joined([images[n] for n in test]),
        _labels(arrays, train),
        _labels(arrays, test),
        (*notes, *encoding.notes),
    )


def _is_label(name: str) -> bool:
    return any(w in LABEL_WORDS or (w[0] == "y" and part_of(w)) for w in words(name))


def _labels(arrays: Arrays, names: list[str]) -> Tensor | None:
    """``y...`` or ``...labels`` for a single ``x...``, if it exists, is as long, holds integers."""
    (x,) = names if len(names) == 1 else ("",)
    if not x:
        return None
    of_part = [n for n, y in arrays.items() if _is_label(n) and part_of(n) == part_of(x)]
    named = f"{'Y' if x[0] == 'X' else 'y'}{x[1:]}", f"y{x[1:]}"
    exact = [n for n in named if x[0] in "xX" and n in of_part]
    fitting = exact[:1] or [n for n in of_part if arrays[n].shape == arrays[x].shape[:1]]
    y = arrays[fitting[0]] if len(fitting) == 1 else None
    if y is None or y.shape != arrays[x].shape[:1] or y.dtype.kind not in "biuf":
        return None
    values = y[:]
    with np.errstate(invalid="ignore"):  # NaN changes when it is converted, and so is no label
        integers = values.astype(np.int64)
    return torch.from_numpy(integers) if (integers == values).all() else None


def _open(path: Path, limit_bytes: int, left_out: list[str]) -> Arrays:
    """The arrays by name; adds the names of members of another kind to ``left_out``."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            header = check_npy_header(file, sys.maxsize, path.name)
            return {"": _file_array(path, header, 0, path.stat().st_size, "it")}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) <= limit_bytes:
            return {**read_npz_arrays(path, limit_bytes, left_out=left_out)}
        members = [member for member in members if not is_foreign(archive, member, left_out)]
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
