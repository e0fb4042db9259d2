"""Arrays out of ``.npy`` and ``.npz`` files that may be damaged: sizes are checked before memory is
taken, and nothing in a file is run."""

import ast
import math
import re
import zipfile
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_DEFLATED = 1032
"""Bytes that a byte can stand for in files packed by zlib: gzip, zip, HDF5."""
MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # bytes, as in numpy: what is parsed is short
_MAX_AXES = 32
_PIECE = 2**20  # bytes that are unpacked at once
_PLAIN = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU]\d{1,9})")


class NpyHeader(NamedTuple):
    """What an ``.npy`` says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    header_bytes: int
    data_bytes: int


def check_npy_header(file: IO[bytes], limit_bytes: int, name: str = "the array") -> NpyHeader:
    """Read the header of an ``.npy``, and leave ``file`` where the data begin.

    Args:
        file: open for reading bytes, at its start.
        limit_bytes: how large the array may be in memory.
        name: what messages call the array.

    Raises:
        ValueError: no ``.npy``, neither numbers nor text, or larger than ``limit_bytes``.

    >>> import io
    >>> file = io.BytesIO()
    >>> np.save(file, np.zeros((2, 3), dtype=np.int16))
    >>> _ = file.seek(0)
    >>> check_npy_header(file, limit_bytes=100).data_bytes
    12
    """
    start = file.read(8)
    wide = start == MAGIC + b"\2\0"
    length = file.read(4 if wide else 2)
    size = int.from_bytes(length, "little")
    text = file.read(size) if size <= _MAX_HEADER else b""
    if start not in (MAGIC + b"\1\0", MAGIC + b"\2\0") or len(text) != size:
        raise ValueError(f"{name} is no array of an .npy file, or its header is damaged")
    try:
        said = ast.literal_eval(text.decode("latin1").strip())
        shape, descr, fortran = said["shape"], said["descr"], said["fortran_order"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise ValueError(f"{name} has a damaged .npy header") from error
    if not (isinstance(descr, str) and _PLAIN.fullmatch(descr)):
        raise ValueError(f"{name} holds {descr!r}: expected numbers or text".replace("\n", " "))
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or len(shape) > _MAX_AXES or not isinstance(fortran, bool):
        raise ValueError(f"{name} has a damaged .npy header: {str(said)[:200]}")
    dtype = np.dtype(descr)
    most = math.prod(max(n, 1) for n in shape) * dtype.itemsize
    if most > limit_bytes:
        raise ValueError(
            f"{name} is declared as {descr} of shape {str(shape)[:100]}: expected at most "
            f"{limit_bytes:,} bytes"
        )
    data_bytes = math.prod(shape) * dtype.itemsize
    header_bytes = len(start) + len(length) + size
    return NpyHeader(shape, dtype, fortran, header_bytes, data_bytes)


def read_npy_array(path: str | Path, limit_bytes: int) -> NDArray:
    """The array in an ``.npy`` file.

    Raises:
        OSError: no such file, or it cannot be read.
        ValueError: as :func:`check_npy_header`, or the file is not as long as its header says.
    """
    path = Path(path)
    with path.open("rb") as file:
        header = check_npy_header(file, limit_bytes, str(path))
        return _read(file, header, path.stat().st_size, str(path))


def read_npz_arrays(path: str | Path, limit_bytes: int) -> dict[str, NDArray]:
    """The arrays in an ``.npz`` file, by name.

    Args:
        path: of the file.
        limit_bytes: how large all arrays together may be in memory.

    Raises:
        OSError: no such file, or it cannot be opened.
        ValueError: no ``.npz``, damaged, with anything in it but numbers and text, or larger than
            ``limit_bytes``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez_compressed(f"{folder}/a.npz", numbers=np.arange(3))
    ...     read_npz_arrays(f"{folder}/a.npz", limit_bytes=1000)
    {'numbers': array([0, 1, 2])}
    """
    with Path(path).open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check_members(members, limit_bytes, path)
                return {_name(m): _member(archive, m, limit_bytes, path) for m in members}
        except Exception as error:  # a damaged archive can fail anywhere inside zipfile or zlib
            if str(path) in str(error):
                raise
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} cannot be read as an .npz file: {reason}") from error


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _check_members(members: list[zipfile.ZipInfo], limit_bytes: int, path: str | Path) -> None:
    total = sum(member.file_size for member in members)
    if total > limit_bytes:
        raise ValueError(
            f"{path} unpacks to {total:,} bytes: expected at most {limit_bytes:,} bytes"
        )
    names = [member.filename for member in members]
    for member in members:
        packed = member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if packed or member.flag_bits & 1 or not member.filename.endswith(".npy"):
            raise ValueError(f"{path} holds {member.filename!r}, which is no array of an .npz file")
        if names.count(member.filename) > 1:
            raise ValueError(f"{path} holds two arrays named {member.filename!r}: it is damaged")


def _member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int, path: str | Path
) -> NDArray:
    name = f"{member.filename!r} in {path}"
    with archive.open(member) as file:
        header = check_npy_header(file, limit, name)
        return _read(file, header, member.file_size, name)


def _read(file: IO[bytes], header: NpyHeader, size: int, name: str) -> NDArray:
    expected = header.header_bytes + header.data_bytes
    if size != expected:
        raise ValueError(f"{name} has {size:,} bytes where its header declares {expected:,}")
    data, filled = memoryview(bytearray(header.data_bytes)), 0
    while got := file.readinto(data[filled : filled + _PIECE]):  # type: ignore[attr-defined]
        filled += got
    # At its end, not before, a zip archive compares the checksum: one more byte is asked for.
    if filled < header.data_bytes or file.read(1):
        raise ValueError(f"{name} ends before all of its numbers have come: it is damaged")
    array = np.ndarray(header.shape, header.dtype, data, order="F" if header.fortran else "C")
    return np.array(array, order="C") if header.fortran else array
