"""Damaged and malicious data files raise ``ValueError`` before memory is allocated."""

import gzip
import io
import os
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from ipvae_snn import data
from ipvae_snn.data.image_files import image_shape, read_image
from ipvae_snn.data.readers import read_idx
from tests.properties import valid_data
from tests.properties.fuzz_files import KINDS, attempt, valid_content
from tests.properties.mutations import mutations

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 9, 7), dtype=np.uint8)
MIB = 2**20
SAMPLE_KINDS = [name for name, kind in KINDS.items() if kind.make.__module__ == valid_data.__name__]


@pytest.fixture(autouse=True)
def _limit_memory():
    """No file in this module needs more than a few megabytes."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB


def idx(shape, body=b""):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + body


@pytest.mark.parametrize("kind", SAMPLE_KINDS)
def test_mutated_files_are_read_or_raise_value_error(tmp_path, kind):
    suffix, read = KINDS[kind].suffix, KINDS[kind].read
    for damage, content in mutations(valid_content(kind), count=25, seed=11):
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(content)
        result, message = attempt(path, read)
        assert result in ("accepted", "ValueError"), (damage, message)
        assert message == "" or str(path.name) in message, message


# -- IDX ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        idx((2**32 - 1, 2**32 - 1, 2**32 - 1), bytes(100)),
        gzip.compress(idx((2**32 - 1, 2**32 - 1, 2**32 - 1), bytes(100))),
        gzip.compress(idx((2**20, 28, 28), bytes(100))),
        gzip.compress(idx((10, 3, 3), bytes(91))),
        gzip.compress(idx((10, 3, 3), bytes(89))),
        idx((10, 3, 3), bytes(91)),
        idx((2,) * 40, bytes(100)),
        idx((), b"x"),
        gzip.compress(idx((10, 3, 3), bytes(90)))[:-4],
    ],
    ids=[
        "huge shape",
        "huge shape, gzip",
        "large shape, gzip",
        "too long, gzip",
        "too short, gzip",
        "too long",
        "40 axes",
        "no axis",
        "truncated checksum",
    ],
)
def test_idx_of_another_length_than_its_header_declares(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=r"a (is no IDX file|is damaged|cannot be read)"):
        read_idx(tmp_path / "a")


def test_gzip_bomb_is_not_unpacked(tmp_path):
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(idx((10, 3, 3), bytes(90)))]
    parts += [packer.compress(bytes(MIB)) for _ in range(200)]
    (tmp_path / "bomb.gz").write_bytes(b"".join([*parts, packer.flush()]))
    with pytest.raises(ValueError, match=r"not as many values as its shape \(10, 3, 3\)"):
        read_idx(tmp_path / "bomb.gz")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (BYTES, np.zeros(19, np.uint8)),
        (BYTES, np.zeros((20, 1), np.uint8)),
        (BYTES[:0], np.zeros(0, np.uint8)),
        (BYTES[:, 0], np.zeros(20, np.uint8)),
    ],
    ids=["fewer labels", "labels of two axes", "no images", "flat images"],
)
def test_mnist_of_unfitting_shapes(tmp_path, images, labels):
    for part in ("train", "t10k"):
        for array, name in ((images, "images-idx3"), (labels, "labels-idx1")):
            content = idx(array.shape, array.tobytes())
            (tmp_path / f"{part}-{name}-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected \(N, H, W\) and \(N,\)"):
        data.load(tmp_path)


# -- arrays ---------------------------------------------------------------------------------------


def npy(shape, descr="|u1", body=b""):
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + body


@pytest.mark.parametrize("stream", [None, True, False])
@pytest.mark.parametrize(
    "content",
    [
        npy((10**12,)),
        npy((10**12, 28, 28), "<f4", bytes(1000)),
        npy((10, 9, 7), body=bytes(629)),
        npy((10, 9, 7), body=bytes(631)),
        npy((10, 9, 7), "|O", bytes(630 * 8)),
        npy((2**40, 2**40, 2**40)),
    ],
    ids=["huge shape", "huge images", "too short", "too long", "objects", "overflow"],
)
def test_npy_of_another_length_than_its_header_declares(tmp_path, content, stream):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read as numpy arrays"):
        data.load(tmp_path / "a.npy", stream=stream)


def write_zip_bomb(path, rows):
    """Write an archive whose member holds 100 MiB of zeros, and a header that declares ``rows``."""
    deflate = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w", deflate) as archive, archive.open("x.npy", "w") as member:
        member.write(npy((rows, MIB)))
        for _ in range(100):
            member.write(bytes(MIB))


def test_compressed_npz_that_unpacks_to_more_than_the_limit(tmp_path, monkeypatch):
    write_zip_bomb(tmp_path / "a.npz", 100)
    monkeypatch.setattr(data, "IN_MEMORY", 50 * MIB)
    with pytest.raises(ValueError, match=r"more than 52,428,800 bytes: save it uncompressed"):
        data.load(tmp_path / "a.npz")


def test_npz_member_longer_than_its_header_declares(tmp_path):
    write_zip_bomb(tmp_path / "a.npz", 1)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as numpy arrays"):
        data.load(tmp_path / "a.npz")


def test_streamed_npz_with_a_damaged_member(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "IN_MEMORY", 100)
    for name, shape in (("long", (1, 9, 7)), ("short", (2000, 9, 7)), ("huge", (10**12,))):
        path = tmp_path / f"{name}.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", npy(shape, body=bytes(630)))
        with pytest.raises(ValueError, match=rf"{name}\.npz cannot be read as numpy arrays"):
            data.load(path)


def test_npz_with_an_empty_member(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as numpy arrays"):
        data.load(path)


@pytest.mark.parametrize(
    "labels",
    [np.array(list("abcdefghij" * 2)), np.full(20, np.nan), np.full(20, 0.5), np.ones(20) * 1j],
    ids=["text", "NaN", "halves", "complex"],
)
def test_labels_that_are_not_integers_are_ignored(tmp_path, labels):
    np.savez(tmp_path / "a.npz", x=BYTES, y=labels)
    dataset = data.load(tmp_path / "a.npz")
    assert dataset.train.shape == (16, 63)
    assert dataset.train_labels is None


def test_values_beyond_float32_raise(tmp_path):
    np.save(tmp_path / "a.npy", np.full((6, 4, 4), 1e300))
    with pytest.raises(ValueError, match="NaN or infinite"):
        data.load(tmp_path / "a.npy")


def test_named_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="neither a folder nor a file"):
        data.load(tmp_path / "a.npy")


# -- images ---------------------------------------------------------------------------------------


def png(width, height):
    """A grey PNG of a valid header and an empty data chunk."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    end = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + end
    )


@pytest.mark.parametrize("side", [4_000, 9_000, 10_000, 20_000, 60_000, 2**31 - 1])
@pytest.mark.parametrize("read", [read_image, image_shape])
def test_image_header_that_declares_a_huge_size(tmp_path, side, read):
    (tmp_path / "a.png").write_bytes(png(side, side))
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: its header promises"):
        read(tmp_path / "a.png")


def test_blank_webp_that_declares_a_huge_size(tmp_path):
    frame = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + struct.pack("<I", 16382 | 4999 << 14) + b"\0"
    content = b"WEBP" + frame
    (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)
    with pytest.raises(ValueError, match=r"a\.webp cannot be read as an image"):
        read_image(tmp_path / "a.webp")


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        *((suffix, None) for suffix in ("png", "jpg", "tif", "gif", "bmp", "pgm", "webp")),
        ("jpg", {"progressive": True}),
        ("tif", {}),
        ("tif", {"compression": "jpeg"}),
    ],
)
def test_truncated_image_raises_and_is_not_padded(tmp_path, suffix, options):
    path = tmp_path / f"a.{suffix}"
    if options is None:
        valid_data.make_image(path)
    else:
        pixels = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, **options)
    whole, content = read_image(path), path.read_bytes()
    rejected = 0
    for cut in np.linspace(0, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:cut])
        try:
            truncated = read_image(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            rejected += 1
        else:  # the bytes cut off hold no pixels
            assert np.array_equal(truncated, whole)
    assert rejected >= 38


def test_postscript_named_png_is_not_opened(tmp_path):
    """Pillow would run Ghostscript, an interpreter, on this file."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n(x) print\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(script)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        image_shape(tmp_path / "a.png")
