"""Images out of ``.npy`` and ``.npz``: left there, or unpacked if that takes little memory."""

import sys
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ipvae_snn._utils.untrusted import check_npy_header, read_npz_arrays
from ipvae_snn.data.pictures import Images, InFile, Ready, Stack, joined

Arrays = dict[str, NDArray | InFile]
LABELS = ("y", "label")
ALONE = ""
"""The name of the only array of an ``.npy``."""
LOCAL_HEADER = 30
"""Bytes before the name of a member of a zip archive; the lengths of name and extra end them."""


def read_arrays(path: Path, limit_bytes: int = sys.maxsize) -> Images:
    """Images of a ``.npy`` or ``.npz``; arrays with "train" or "test" in their name are split so.

    Of an ``.npz``, arrays of one dimension and those named ``y...`` or ``label...`` are labels
    (``y_train`` for ``x_train``, whole numbers) or ignored; flat arrays are samples if there are
    no images.

    Args:
        path: of the file.
        limit_bytes: how much an ``.npz`` may unpack to; one with more must not be compressed, and
            is left where it is, as every ``.npy``.

    Raises:
        ValueError: the file is damaged, holds Python objects, or no images.
    """
    try:
        arrays = _open(path, limit_bytes)
    except Exception as error:  # damaged archives fail in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as numpy arrays: {reason}") from error
    chosen = {
        name: array
        for name, array in arrays.items()
        if len(array.shape) >= 2 and 0 not in array.shape and not name.lower().startswith(LABELS)
    }
    stacked = {name: array for name, array in chosen.items() if len(array.shape) > 2}
    chosen = stacked or chosen  # flat arrays beside images are something else
    if not chosen:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"{path} holds no images: its arrays have the shapes {shapes}")
    stacks = {name: Stack(array, _called(path, name)) for name, array in chosen.items()}
    test = [n for n in stacks if "test" in n.lower() or "val" in n.lower()]
    train = [n for n in stacks if "train" in n.lower()]
    if not (train and test):
        train, test = list(stacks), []
    return Images(
        joined([stacks[n] for n in train]),
        joined([stacks[n] for n in test]) if test else Ready(),
        _labels(arrays, train),
        _labels(arrays, test),
    )


def _called(path: Path, name: str) -> str:
    return f"{path.name}:{name}" if name else path.name


def _labels(arrays: Arrays, names: list[str]) -> NDArray | None:
    """``y...`` of a single ``x...``, where it is there, of the same length and of whole numbers."""
    if len(names) != 1 or not names[0].startswith("x"):
        return None
    found = arrays.get("y" + names[0][1:])
    if found is None or found.shape != arrays[names[0]].shape[:1] or found.dtype.kind not in "biuf":
        return None
    values = found[:]
    with np.errstate(invalid="ignore"):  # NaN is no label, either
        labels = values.astype(np.int64)
    return labels if (labels == values).all() else None


def _open(path: Path, limit_bytes: int) -> Arrays:
    with path.open("rb") as file:
        packed = file.read(2) == b"PK"
        if not packed:
            file.seek(0)
            header = check_npy_header(file, sys.maxsize, path.name)
            size = path.stat().st_size
            if size != header.header_bytes + header.data_bytes:
                raise ValueError(
                    f"it is damaged: {size - header.header_bytes:,} bytes for the shape "
                    f"{header.shape} of {header.dtype}"
                )
            return {
                ALONE: InFile(path, header.shape, header.dtype, header.header_bytes, header.fortran)
            }
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > limit_bytes:
            return {
                member.filename.removesuffix(".npy"): _in_file(archive, member, path, limit_bytes)
                for member in archive.infolist()
            }
    return {**read_npz_arrays(path, limit_bytes)}


def _in_file(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, limit_bytes: int
) -> InFile:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"it would unpack to more than {limit_bytes:,} bytes: save it uncompressed with "
            "numpy.savez, or as .npy, or load it with stream=False"
        )
    with archive.open(member) as inside:
        header = check_npy_header(inside, member.file_size, member.filename)
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(LOCAL_HEADER)
    lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    start = member.header_offset + LOCAL_HEADER + lengths + header.header_bytes
    whole = header.header_bytes + header.data_bytes == member.file_size == member.compress_size
    if not whole or start + header.data_bytes > path.stat().st_size:
        raise ValueError(f"{member.filename!r} is damaged: not as long as its shape says")
    return InFile(path, header.shape, header.dtype, start, header.fortran)
