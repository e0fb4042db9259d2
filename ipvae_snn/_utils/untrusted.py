"""Reads untrusted ``.npy`` and ``.npz`` files: checks sizes before it allocates, runs no code."""

import ast
import io
import math
import re
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_DEFLATED = 1032
"""Largest compression ratio of zlib, in gzip, zip and HDF5 files."""
MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # bytes, as in numpy, so that parsing takes little time and memory
_MAX_AXES = 32
_CHUNK = 2**20  # bytes to unpack at once
_PICKLE = b"\x80"  # how a bare pickle starts
_PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU]\d{1,9})")


class ForeignArrayError(ValueError):
    """An array of something else than numbers or text, such as Python objects."""


class NpyHeader(NamedTuple):
    """What the header of an ``.npy`` declares, and its length."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    header_bytes: int
    data_bytes: int


def check_npy_header(file: IO[bytes], limit_bytes: int, name: str = "the array") -> NpyHeader:
    """Read the header of an ``.npy``; leaves ``file`` at the start of the data.

    Args:
        file: a binary file, at the start of the header.
        limit_bytes: largest size of the array in memory.
        name: what messages call the array.

    Raises:
        ValueError: not an ``.npy``, a dtype other than numbers or text, or an array larger than
            ``limit_bytes``.

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
        # Python 2 wrote long integers as 28L.
        fields = ast.literal_eval(re.sub(r"(?<=\d)L(?=[,)])", "", text.decode("latin1").strip()))
        shape, descr, fortran = fields["shape"], fields["descr"], fields["fortran_order"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise ValueError(f"{name} has a damaged .npy header") from error
    if not (isinstance(descr, str) and _PLAIN_DTYPE.fullmatch(descr)):
        what = "Python objects" if descr == "|O" else repr(descr)
        message = f"{name} holds {what}: expected numbers or text"
        raise ForeignArrayError(message.replace("\n", " "))
    integers = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not integers or len(shape) > _MAX_AXES or not isinstance(fortran, bool):
        raise ValueError(f"{name} has a damaged .npy header: {str(fields)[:200]}")
    dtype = np.dtype(descr)
    # An axis of length 0 makes an array empty, but must not excuse absurd lengths of the others.
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize > limit_bytes:
        raise ValueError(
            f"{name} is declared as {descr} of shape {str(shape)[:100]}: expected at most "
            f"{limit_bytes:,} bytes"
        )
    header_bytes = len(start) + len(length) + size
    return NpyHeader(shape, dtype, fortran, header_bytes, math.prod(shape) * dtype.itemsize)


def read_npy_array(path: str | Path, limit_bytes: int) -> NDArray[Any]:
    """Read the array of an ``.npy`` file.

    Raises:
        OSError: the file is missing or unreadable.
        ValueError: as :func:`check_npy_header`, or the file has another length than its header
            declares.
    """
    path = Path(path)
    with path.open("rb") as file:
        return _read(file, limit_bytes, path.stat().st_size, str(path))


def is_foreign(archive: zipfile.ZipFile, member: zipfile.ZipInfo, left_out: list[str]) -> bool:
    """Whether a member is no array of numbers or text, but a pickle or a file of another kind.

    Reads the header only, and adds the name of such a member to ``left_out``.
    """
    foreign = not member.filename.endswith(".npy")
    if not foreign and not member.flag_bits & 1:
        with archive.open(member) as unpacked:
            start = unpacked.read(_MAX_HEADER + 12)
        foreign = start.startswith(_PICKLE)
        if start.startswith(MAGIC):
            try:
                check_npy_header(io.BytesIO(start), sys.maxsize, member.filename)
            except ForeignArrayError:
                foreign = True
            except ValueError:  # damaged: whoever reads it says so
                foreign = False
    if foreign:
        left_out.append(member.filename.removesuffix(".npy"))
    return foreign


def read_npz_arrays(
    path: str | Path, limit_bytes: int, *, left_out: list[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` file, by name.

    Args:
        path: the file.
        limit_bytes: largest size of all arrays together in memory.
        left_out: a list that gets the names of members other than arrays of numbers or text, which
            are skipped; by default they are refused.

    Raises:
        OSError: the file is missing or unreadable.
        ValueError: not an ``.npz``, damaged, with members other than arrays of numbers or text, or
            larger than ``limit_bytes``.

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
                if left_out is not None:
                    members = [m for m in members if not is_foreign(archive, m, left_out)]
                _check_members(members, limit_bytes, path)
                arrays = {}
                for member in members:
                    name = f"{member.filename!r} in {path}"
                    with archive.open(member) as unpacked:
                        array = _read(unpacked, limit_bytes, member.file_size, name)
                    arrays[member.filename.removesuffix(".npy")] = array
                return arrays
        except Exception as error:  # a damaged archive can fail anywhere inside zipfile or zlib
            if str(path) in str(error):
                raise
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path} cannot be read as an .npz file: {reason}") from error


def _check_members(members: list[zipfile.ZipInfo], limit_bytes: int, path: str | Path) -> None:
    total = sum(member.file_size for member in members)
    if total > limit_bytes:
        raise ValueError(
            f"{path} unpacks to {total:,} bytes: expected at most {limit_bytes:,} bytes"
        )
    names = Counter(member.filename for member in members)
    for member in members:
        foreign = member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        encrypted = member.flag_bits & 1
        if foreign or encrypted or not member.filename.endswith(".npy"):
            raise ValueError(f"{path} holds {member.filename!r}, which is no array of an .npz file")
        if names[member.filename] > 1:
            raise ValueError(f"{path} holds two arrays named {member.filename!r}: it is damaged")


def _read(file: IO[bytes], limit_bytes: int, size: int, name: str) -> NDArray[Any]:
    """Read an array from a file of ``size`` bytes, or from a member of an archive."""
    header = check_npy_header(file, limit_bytes, name)
    expected = header.header_bytes + header.data_bytes
    if size != expected:
        raise ValueError(f"{name} has {size:,} bytes where its header declares {expected:,}")
    data, filled = memoryview(bytearray(header.data_bytes)), 0
    while count := file.readinto(data[filled : filled + _CHUNK]):  # type: ignore[attr-defined]
        filled += count
    # zipfile compares the checksum when it meets the end: read one more byte.
    if filled < header.data_bytes or file.read(1):
        raise ValueError(f"{name} ends before its data do, or goes on after them: it is damaged")
    array = np.ndarray(header.shape, header.dtype, data, order="F" if header.fortran else "C")
    return np.array(array, order="C") if header.fortran else array
