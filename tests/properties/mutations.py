"""Damaged copies of a valid file, reproducible by seed.

:func:`mutations` yields ``(name, content)`` pairs made from the bytes of a valid file. Any file is
damaged at the level of bytes: bits flipped, runs replaced, blocks cut, doubled, removed and
swapped, fields set to 0 or to the largest number. A checksum would catch nearly all of that, so the
content inside is damaged, too, and packed again with valid checksums: members of zip archives
(.npz, .pt), gzip streams, chunks of PNG images, segments of JPEG images, tags and pages of TIFF
images, objects of HDF5 files. ``.npy`` headers, alone or in an archive, get absurd shapes and
dtypes, and archives get members that unpack to a gibibyte of zeros or have names that split them.

>>> name, content = next(mutations(b"some valid file", count=1, seed=0))
>>> content != b"some valid file"
True
"""

import ast
import functools
import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

BOMB_BYTES = 2**30
"""Unpacked size of a deflated member of zeros."""


def mutations(content: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``count`` damaged copies of ``content``, each with the name of its damage.

    Copy n is :func:`mutated` with seed ``f"{seed}/{n}"``, independent of the count.
    """
    for n in range(count):
        yield mutated(content, f"{seed}/{n}")


def mutated(content: bytes, seed: str) -> tuple[str, bytes]:
    """The name of the damage and a damaged copy, which always differs from ``content``."""
    chance = random.Random(seed)
    while True:
        name, result = _damage(content, chance)
        if result != content:
            return name, result


def _damage(content: bytes, chance: random.Random, depth: int = 0) -> tuple[str, bytes]:
    """Where the format is known, two times in three the damage is inside the container."""
    inner = [
        mutate
        for magic, mutate in _INSIDE.items()
        if content.startswith(magic) and (depth == 0 or magic == _NPY)
    ]
    if inner and chance.random() < 2 / 3:
        return chance.choice(inner)(content, chance)
    mutator = chance.choice(_BYTES)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        content = mutator(content, chance)
    return mutator.__name__.strip("_"), content


# -- any file ---------------------------------------------------------------------------------


def _span(content: bytes, chance: random.Random) -> tuple[int, int]:
    """Start and end of a random block; short blocks and blocks near the start are likelier."""
    size = len(content)
    start = chance.randrange(size + 1)
    if chance.random() < 0.3:
        start = min(start, chance.randrange(1, 257))
    length = min(size, int(2 ** chance.uniform(0, max(1, size.bit_length()))))
    return start, min(size, start + length)


def _flip_bits(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return b"\1"
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        start, _ = _span(content, chance)
        changed[min(start, len(content) - 1)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _replace_run(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    kind = chance.randrange(3)
    byte = (b"", b"\0", b"\xff")[kind]
    run = byte * (end - start) or chance.randbytes(end - start)
    return content[:start] + run + content[end:]


def _truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.choice((0, 1, *(chance.randrange(len(content) + 1) for _ in "123456")))]


def _insert(content: bytes, chance: random.Random) -> bytes:
    start, _ = _span(content, chance)
    return content[:start] + chance.randbytes(chance.choice((1, 2, 4, 7, 300))) + content[start:]


def _double_block(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:end] + content[start:end] * chance.choice((1, 1, 3)) + content[end:]


def _remove_block(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + content[end:]


def _swap_blocks(content: bytes, chance: random.Random) -> bytes:
    length = min(2 ** chance.randrange(12), len(content) // 2)
    first = chance.randrange(len(content) - 2 * length + 1)
    second = chance.randrange(first + length, len(content) - length + 1)
    a, b = content[first : first + length], content[second : second + length]
    return content[:first] + b + content[first + length : second] + a + content[second + length :]


def _extreme_field(content: bytes, chance: random.Random) -> bytes:
    """A field of 1, 2, 4 or 8 bytes becomes 0, 1 or the largest number, in either byte order."""
    size = chance.choice((1, 2, 4, 8))
    start = min(_span(content, chance)[0], max(0, len(content) - size))
    top = 2 ** (8 * size)
    value = chance.choice((0, 1, top - 1, top // 2 - 1, top // 2, top - 2))
    field = value.to_bytes(size, chance.choice(("little", "big")))
    return content[:start] + field + content[start + size :]


def _absurd_number(content: bytes, chance: random.Random) -> bytes:
    """Digits in a text, such as a header or a configuration, become an absurd number."""
    digits = [i for i, byte in enumerate(content[:65536]) if 48 <= byte <= 57]
    if not digits:
        return _extreme_field(content, chance)
    start = end = chance.choice(digits)
    while content[end : end + 1].isdigit():
        end += 1
    numbers = (b"0", b"-1", b"1e999", b"nan", b"4294967296", b"9223372036854775808", b"9" * 400)
    return content[:start] + chance.choice(numbers) + content[end:]


_BYTES: tuple[Mutator, ...] = (
    _flip_bits, _replace_run, _truncate, _insert, _double_block, _remove_block, _swap_blocks,
    _extreme_field, _absurd_number,
)  # fmt: skip

# -- .npy headers -----------------------------------------------------------------------------

_NPY = b"\x93NUMPY"
_SHAPES = (
    "()", "(0,)", "(1,)", "(-1,)", "(-1, -1)", "(10**12,)", "(1000000000000,)", "(1000000000,)",
    "(9223372036854775807,)", "(9223372036854775808,)", "(4294967296, 4294967296)",
    "(0, 1000000000000)", "(2.0,)", "(True,)", "(None,)", "7", "'x'", "(" + "1," * 70 + ")",
    "(" * 5000, "(" + "9" * 5000 + ",)",
)  # fmt: skip
_DTYPES = (
    "'|O'", "'<f8'", "'>f4'", "'<f2'", "'|b1'", "'<c16'", "'<i8'", "'|S0'", "'<U1000000000'",
    "'|V2147483647'", "'<M8[s]'", "[('a', '<f8'), ('b', '|O')]",
    "[('a', '<f8', (1000000, 1000000))]", "None", "''", "'float'", "7", "()", "'<U8'", "'<g'", "{}",
)  # fmt: skip


def _npy(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A header with another shape or dtype, and the same, another or no body."""
    wide = content[6:7] >= b"\2"
    start = 12 if wide else 10
    length = int.from_bytes(content[8:start], "little")
    text, body = content[start : start + length].decode("latin1"), content[start + length :]
    key, values = chance.choice((("shape", _SHAPES), ("descr", _DTYPES)))
    other = {"shape": "descr", "descr": "shape"}[key]
    try:
        old = ast.literal_eval(text)[other]
    except Exception:  # a header that is damaged already
        old = (3,)
    header = (
        f"{{'descr': {values_at(key, 'descr', values, old, chance)}, 'fortran_order': "
        f"{chance.choice(('False', 'False', 'True', '2'))}, "
        f"'shape': {values_at(key, 'shape', values, old, chance)}, }}\n"
    )
    data = header.encode("latin1")
    body = chance.choice((body, body, b"", body[:3], body + b"\0" * 64))
    return f"npy_{key}", content[:6] + b"\2\0" + struct.pack("<I", len(data)) + data + body


def values_at(
    changed: str, key: str, values: tuple[str, ...], old: object, chance: random.Random
) -> str:
    """The text of a header's entry: an absurd one for the key that is changed."""
    return chance.choice(values) if key == changed else repr(old)


# -- zip archives -----------------------------------------------------------------------------


_SPLIT_NAMES = (
    "x_test.npy", "Test/x.npy", "train_test.npy", "VALIDATION.npy", "y_train.npy", "y.npy",
    "train.npy", "labels.npy", "contest.npy", "__class__.npy", "x.pkl", "x.npz", "X" * 300 + ".npy",
    "train" * 60 + ".npy",
)  # fmt: skip
"""Names that say what an array is for, or seem to."""


def _zip(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Members damaged, lost, doubled, renamed, or far larger than the file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
        stored = {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
    entries = list(members.items())
    at = chance.randrange(len(entries))
    name, member = entries[at]
    kind = chance.choice(("member",) * 12 + ("lose", "double", "rename", "empty", "bomb", "swap"))
    if kind == "member":
        what, member = _damage(member, chance, depth=1)
        entries[at], kind = (name, member), f"member_{what}"
    elif kind == "lose":
        del entries[at]
    elif kind == "double":
        entries.append((name, chance.choice(entries)[1]))
    elif kind == "rename":
        names = (
            "", "../up.npy", "a\nb.npy", "\u00fc.npy", name + ".npy", name[:-1], "x" * 60000,
            *_SPLIT_NAMES,
        )  # fmt: skip
        entries[at] = (chance.choice(names), member)
    elif kind == "empty":
        entries[at] = (name, b"")
    elif kind == "swap":
        other = chance.randrange(len(entries))
        entries[at], entries[other] = (name, entries[other][1]), (entries[other][0], member)
    else:
        return "zip_bomb", _with_bomb(entries, at)
    return f"zip_{kind}", _pack(entries, stored)


def _pack(entries: list[tuple[str, bytes]], stored: bool) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, member in entries:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.NameToInfo.pop(name, None)  # allow duplicate names
            archive.writestr(info, member)
    return packed.getvalue()


def _with_bomb(entries: list[tuple[str, bytes]], at: int) -> bytes:
    """A valid .npy member of zeros, or a member with zeros appended; deflates a thousandfold."""
    name, member = entries[at]
    header = member
    if member.startswith(_NPY):
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({BOMB_BYTES},), }}\n".encode()
        header = _NPY + b"\1\0" + struct.pack("<H", len(text)) + text
    deflated, checksum = _deflated_zeros(header)
    packed = bytearray(_pack([*entries[:at], (name, deflated), *entries[at + 1 :]], stored=True))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        infos = archive.infolist()
        local, central = infos[at].header_offset, archive.start_dir
    for info in infos[:at]:
        central += 46 + len(info.orig_filename.encode()) + len(info.extra) + len(info.comment)
    for start, method, checksum_at in ((local, 8, 14), (central, 10, 16)):
        packed[start + method : start + method + 2] = struct.pack("<H", zipfile.ZIP_DEFLATED)
        packed[start + checksum_at : start + checksum_at + 12] = struct.pack(
            "<III", checksum, len(deflated), len(header) + BOMB_BYTES
        )
    return bytes(packed)


@functools.lru_cache(maxsize=4)
def _deflated_zeros(header: bytes) -> tuple[bytes, int]:
    """A deflate stream of ``header`` and a gibibyte of zeros, and the CRC of its content."""
    block = bytes(2**20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = zlib.crc32(header)
    for _ in range(BOMB_BYTES // len(block)):
        checksum = zlib.crc32(block, checksum)
    return start + zeros * (BOMB_BYTES // len(block)) + packer.flush(), checksum


# -- other formats with checksums -------------------------------------------------------------


def _gzip(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    name, inner = _damage(gzip.decompress(content), chance, depth=1)
    return f"gzip_{name}", gzip.compress(inner, mtime=0)


def _png(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A chunk damaged, lost or doubled, with valid length and checksum."""
    chunks, start = [], 8
    while start < len(content):
        (size,) = struct.unpack(">I", content[start : start + 4])
        chunks.append((content[start + 4 : start + 8], content[start + 8 : start + 8 + size]))
        start += size + 12
    at = chance.randrange(len(chunks))
    kind = chance.choice(("damage",) * 6 + ("lose", "double"))
    name, data = chunks[at]
    if kind == "damage":
        kind, data = _damage(data or b"\0", chance, depth=1)
        chunks[at] = (name, data)
    elif kind == "lose":
        del chunks[at]
    else:
        chunks.insert(at, chunks[at])
    packed = (
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )
    return f"png_{kind}", content[:8] + b"".join(packed)


def _jpeg(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A segment damaged, lost or doubled, with a valid length: EXIF data, tables, the frame."""
    segments, start = [], 2
    while content[start : start + 1] == b"\xff" and content[start + 1] != 0xDA:
        size = int.from_bytes(content[start + 2 : start + 4], "big")
        segments.append((content[start : start + 2], content[start + 4 : start + 2 + size]))
        start += size + 2
    at = chance.randrange(len(segments))
    marker, data = segments[at]
    kind = chance.choice(("damage",) * 6 + ("lose", "double", "exif"))
    if kind == "damage":
        kind, data = _damage(data or b"\0", chance, depth=1)
        segments[at] = (marker, data[:65533])
    elif kind == "lose":
        del segments[at]
    elif kind == "exif":
        tag = struct.pack("<HHII", 0x0112, chance.randrange(14), *_two_extremes(chance))
        segments.insert(0, (b"\xff\xe1", b"Exif\0\0II*\0\x08\0\0\0\1\0" + tag + bytes(4)))
    else:
        segments.insert(at, segments[at])
    packed = b"".join(m + (len(d) + 2).to_bytes(2, "big") + d for m, d in segments)
    return f"jpeg_{kind}", content[:2] + packed + content[start:]


def _two_extremes(chance: random.Random) -> tuple[int, int]:
    values = (0, 1, 2, 3, 4, 6, 8, 9, 254, 2**16, 2**31, 2**32 - 1)
    return chance.choice(values), chance.choice(values)


def _tiff(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A tag with another number, type, count or value, or pages that begin somewhere else."""
    order = "little" if content[:2] == b"II" else "big"
    start = int.from_bytes(content[4:8], order)
    count = int.from_bytes(content[start : start + 2], order)
    changed, kind = bytearray(content), chance.choice(("tag", "tag", "tag", "page"))
    end = start + 2 + 12 * count
    if kind == "page":
        page = chance.choice((0, 8, start, end, len(content), 2**32 - 1))
        changed[end : end + 4] = page.to_bytes(4, order)
    else:
        at = start + 2 + 12 * chance.randrange(max(count, 1))
        tag = chance.choice((254, 256, 257, 258, 259, 262, 274, 277, 284, 317, 322, 338, 339, None))
        if tag:
            changed[at : at + 2] = tag.to_bytes(2, order)
        if chance.random() < 0.3:
            changed[at + 2 : at + 4] = chance.randrange(20).to_bytes(2, order)
        for field, value in zip((at + 4, at + 8), _two_extremes(chance), strict=True):
            if chance.random() < 0.5:
                changed[field : field + 4] = value.to_bytes(4, order)
    return f"tiff_{kind}", bytes(changed)


def _hdf5(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """A valid HDF5 file in which an object is missing, of another kind, too large, or a cycle."""
    import h5py
    import numpy as np

    packed = io.BytesIO(content)
    with h5py.File(packed, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = chance.choice(sorted(names))
        old = file[name]
        parent, key = file[name].parent, name.rsplit("/", 1)[-1]
        is_array = isinstance(old, h5py.Dataset)
        values = old[()] if is_array else None
        del old
        kind = chance.choice(
            ("huge", "huge_contiguous", "lose", "group", "text", "numbers", "circle", "soft_circle",
             "external", "other_shape", "other_dtype", "extreme", "bytes", "empty", "rename")
        )  # fmt: skip
        circle = file[chance.choice(["/", *name.split("/")[:1]])]
        del parent[key]
        shape = chance.choice(((10**12,), (2**20, 2**20), (2**34,), (2**60,)))
        if kind == "huge":
            parent.create_dataset(
                key, shape, "f4", chunks=(1024,) * len(shape), compression="gzip", fillvalue=0
            )
        elif kind == "huge_contiguous":  # declared but never written: needs no space in the file
            parent.create_dataset(key, shape, "f4")
        elif kind == "group":
            parent.create_group(key)
        elif kind == "rename" and is_array:
            parent[chance.choice((key + "2", key[:-1] + "\u00fc", "__class__"))] = values
        elif kind in ("circle", "soft_circle", "external", "empty"):
            parent[key] = {
                "circle": circle,
                "soft_circle": h5py.SoftLink(f"/{name}"),
                "external": h5py.ExternalLink("/nonexistent.h5", "/x"),
                "empty": h5py.Empty("f4"),
            }[kind]
        elif kind != "lose":
            parent[key] = _other_value(kind, np.asarray(values if is_array else 0.0), chance)
    return f"hdf5_{kind}", packed.getvalue()


def _other_value(kind: str, array: Any, chance: random.Random) -> Any:
    """What an HDF5 file holds instead of ``array``."""
    import numpy as np

    number = array if array.dtype.kind in "iuf" else np.ones(array.shape or 1)
    if kind == "text":
        return chance.choice(("", "x", "Affine", "\u00fc", "1e999", "[" * 3000, "{}"))
    if kind == "numbers":
        return chance.choice((0, -1, 1.5, float("nan"), np.zeros(3), np.ones((2, 2))))
    if kind == "other_shape":
        return np.resize(number, chance.choice(((), (0,), (1, 1), (3, 5), (7,), (2,) * 6)))
    if kind == "other_dtype":
        return number.astype(chance.choice(("f2", "f8", "i1", "u8", "?", "c16", "S3")))
    if kind == "extreme":
        extremes = (float("nan"), float("inf"), -1e308, 1e38, 1e-45, -1.0, 0.0)
        return number.astype("f8") * 0 + chance.choice(extremes)
    return np.void(chance.randbytes(9))


_INSIDE: dict[bytes, Callable[[bytes, random.Random], tuple[str, bytes]]] = {
    b"PK\3\4": _zip,
    b"\x1f\x8b": _gzip,
    b"\x89PNG\r\n\x1a\n": _png,
    b"\x89HDF\r\n\x1a\n": _hdf5,
    b"\xff\xd8\xff": _jpeg,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    _NPY: _npy,
}
