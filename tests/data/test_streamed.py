"""Streamed samples: the same values, splits and errors as in memory."""

import gzip
import os
import pickle
import struct
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from ipvae_snn import data
from ipvae_snn.data.images import Images
from ipvae_snn.data.natural import natural_patches
from ipvae_snn.data.sources import Part, Samples, stream

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 9, 7), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (20, 3, 9, 7), dtype=np.uint8)


def write(folder, kind):
    """Write a data set of a kind; returns the source to load it by."""
    path = folder / "set.npz"
    labels = np.arange(20) % 10
    if kind == "digits":
        return "digits"
    if kind == "split npz":
        np.savez(path, x_train=BYTES, y_train=labels, x_test=BYTES[:5], y_test=labels[:5])
    elif kind == "compressed npz":
        np.savez_compressed(path, images=BYTES)
    elif kind == "several arrays":
        np.savez(path, train_a=BYTES, train_b=COLOURS / 255, test_a=BYTES[:3], train_a_id=labels)
    elif kind == "folder":
        path = folder / "set"
        path.mkdir()
        for index, pixels in enumerate(BYTES):
            Image.fromarray(pixels).save(path / f"{index:02}.png")
    elif kind.startswith("idx"):
        path = folder / "set"
        path.mkdir()
        for name, array in {
            "train-images-idx3-ubyte": BYTES,
            "train-labels-idx1-ubyte": labels.astype(np.uint8),
            "t10k-images-idx3-ubyte": BYTES[:4],
            "t10k-labels-idx1-ubyte": labels[:4].astype(np.uint8),
        }.items():
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            content = header + array.tobytes()
            if kind == "idx.gz":
                name, content = name + ".gz", gzip.compress(content)
            (path / name).write_bytes(content)
    else:
        path = folder / "set.npy"
        array = {
            "bytes": BYTES,
            "colours first": COLOURS,
            "Fortran order": np.asfortranarray(RNG.random((20, 9, 7))),
            "big-endian": (BYTES.astype(np.uint16) * 257).astype(">u2"),
            "flat": RNG.random((20, 63)).astype(np.float16),
            "bools": BYTES > 99,
        }[kind]
        np.save(path, array)
    return path


KINDS = (
    "digits",
    "split npz",
    "compressed npz",
    "several arrays",
    "folder",
    "idx",
    "idx.gz",
    "bytes",
    "colours first",
    "Fortran order",
    "big-endian",
    "flat",
    "bools",
)


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_samples_equal_those_in_memory(tmp_path, kind):
    source = write(tmp_path, kind)
    in_memory, streamed = (data.load(source, stream=s) for s in (False, True))
    assert isinstance(in_memory.train, torch.Tensor)
    assert in_memory[2:4] == streamed[2:4]
    assert streamed.description == in_memory.description + ", read as they are needed"
    for expected, samples in zip(in_memory[:2], streamed[:2], strict=True):
        assert isinstance(samples, Samples)
        assert (len(samples), samples.features) == expected.shape
        rows = torch.randperm(len(samples)).repeat(2)
        assert torch.equal(samples.read(rows), expected[rows])
        assert torch.equal(pickle.loads(pickle.dumps(samples)).read(rows), expected[rows])
        assert samples.read(rows).dtype == torch.float32
        neighbours = torch.tensor([1, 2, 2, 1, 0, 1])  # neighbours are read at once
        assert torch.equal(samples.read(neighbours), expected[neighbours])
        assert samples.read(rows[:0]).shape == (0, samples.features)
        for outside in (-1, len(samples)):
            with pytest.raises(IndexError, match="rows must be from 0 to"):
                samples.read(torch.tensor([0, outside]))
    for expected, labels in zip(in_memory[-2:], streamed[-2:], strict=True):
        assert (expected is None and labels is None) or torch.equal(expected, labels)


@pytest.mark.parametrize("kind", ["split npz", "folder"])
def test_workers_read_the_same_batches(tmp_path, kind):
    samples = data.load(write(tmp_path, kind), stream=True).train
    batches = [torch.tensor([7, 2]), torch.tensor([0])]
    alone, worker = stream(samples, batches), stream(samples, batches, workers=1)
    for expected, batch in zip(alone, worker, strict=True):
        assert torch.equal(expected, batch)


def test_samples_larger_than_the_limit_are_streamed(tmp_path, monkeypatch):
    path = write(tmp_path, "split npz")
    monkeypatch.setattr(data, "IN_MEMORY", 4 * 25 * 63)
    assert isinstance(data.load(path).train, torch.Tensor)
    monkeypatch.setattr(data, "IN_MEMORY", 4 * 25 * 63 - 1)
    assert isinstance(data.load(path).train, Samples)
    assert isinstance(data.load(path, stream=False).train, torch.Tensor)


def test_large_npz_stays_in_its_file_and_must_be_uncompressed(tmp_path, monkeypatch):
    path = write(tmp_path, "split npz")
    in_memory = data.load(path)
    monkeypatch.setattr(data, "IN_MEMORY", 1000)
    streamed = data.load(path)
    assert len(pickle.dumps(streamed.train)) < 1000 < BYTES.size
    rows = torch.arange(20).flip(0)
    assert torch.equal(streamed.train.read(rows), in_memory.train[rows])
    assert torch.equal(streamed.train_labels, in_memory.train_labels)
    compressed = write(tmp_path, "compressed npz")
    with pytest.raises(ValueError, match=r"more than 1,000 bytes: save it uncompressed"):
        data.load(compressed)
    assert data.load(compressed, stream=False).train.shape == (16, 63)


def test_without_training_images_train_is_an_empty_tensor(tmp_path):
    dataset = data.load(write(tmp_path, "bytes"), hold_out=False, stream=True)
    assert dataset.train.shape == (0, 63)
    assert len(dataset.test) == 20


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (np.nan, "holds NaN or infinite values"),
        (-np.inf, "holds NaN or infinite values"),
        (1e300, "holds NaN or infinite values"),  # beyond float32
        (1.5, r"holds values from .* to 1\.5: rescale them to \[0, 1\]"),
        (-0.1, r"holds values from -0\.1 to"),
    ],
)
def test_invalid_pixels_raise_when_they_are_read(tmp_path, value, problem):
    images = RNG.random((20, 4, 5))
    images[13, 2, 2] = value
    np.save(tmp_path / "a.npy", images)
    message = rf"^a\.npy, image 13, {problem}"
    samples = data.load(tmp_path / "a.npy", hold_out=False, stream=True).test
    assert samples.read(torch.arange(13)).shape == (13, 20)
    for read in (
        lambda: samples.read(torch.tensor([2, 13])),
        lambda: Part(samples, torch.arange(10, 20)).read(torch.arange(10)),
        lambda: list(stream(samples, torch.arange(20).split(4), workers=1)),
        lambda: data.load(tmp_path / "a.npy"),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_damaged_image_file_raises_when_it_is_read(tmp_path):
    folder = write(tmp_path, "folder")
    damaged = folder / "07.png"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    samples = data.load(folder, hold_out=False, stream=True).test
    assert samples.read(torch.arange(7)).shape == (7, 63)
    with pytest.raises(ValueError, match=r"07\.png cannot be read as an image"):
        samples.read(torch.arange(20))


def test_dtype_that_is_no_pixel_type_raises_on_load(tmp_path):
    np.save(tmp_path / "a.npy", BYTES * 1j)
    with pytest.raises(ValueError, match="complex128"):
        data.load(tmp_path / "a.npy", stream=True)


def test_changed_or_removed_files_raise(tmp_path):
    array, folder = write(tmp_path, "bytes"), write(tmp_path, "folder")
    from_array, from_folder = (data.load(p, stream=True).train for p in (array, folder))
    np.save(array, BYTES[:5])
    with pytest.raises(ValueError, match=r"set\.npy can no longer be read"):
        from_array.read(torch.tensor([0]))
    for file in folder.iterdir():
        Image.new("L", (8, 8)).save(file)
    with pytest.raises(ValueError, match=r"\.png has another size than it had"):
        from_folder.read(torch.tensor([0]))
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"\.png cannot be read"):
        from_folder.read(torch.tensor([0]))


def test_samples_are_readable_after_the_working_directory_has_changed(tmp_path, monkeypatch):
    write(tmp_path, "bytes")
    write(tmp_path, "folder")
    monkeypatch.chdir(tmp_path)
    sources = [data.load(name, stream=True).train for name in ("set.npy", "set")]
    os.chdir("/")
    for samples in sources:
        assert samples.read(torch.tensor([0])).shape == (1, 63)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_fingerprint_changes_with_a_byte_of_the_data(tmp_path, kind):
    source = write(tmp_path, kind)
    first, again = (data.load(source, stream=True).train.fingerprint() for _ in range(2))
    assert first == again
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    if kind == "idx.gz":
        content = bytearray(gzip.decompress(files[-2].read_bytes()))
        content[-1] ^= 1
        files[-2].write_bytes(gzip.compress(content))
    elif kind == "folder":
        Image.fromarray(255 - BYTES[0]).save(files[0])
    elif source.suffix == ".npz":
        arrays = dict(np.load(source))
        name = next(iter(arrays))
        np.savez(source, **{**arrays, name: arrays[name][::-1]})
    else:
        file = files[-2] if source.is_dir() else source
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    assert data.load(source, stream=True).train.fingerprint() != first


def test_fingerprints_stay_the_same_in_later_releases(tmp_path):
    """A run resumes only if the fingerprint in its checkpoint is that of its data."""
    images = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "turned.npy", np.asfortranarray(images))
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, pixels in enumerate(images):
        (folder / f"{index}.pgm").write_bytes(b"P5 5 4 255\n" + pixels.tobytes())
    fingerprints = [
        [samples.fingerprint() for samples in data.load(path, stream=True)[:2]]
        for path in (tmp_path / "a.npy", tmp_path / "turned.npy", folder)
    ]
    assert fingerprints == [
        ["4 (04fe7269) of 6×4×5 uint8 0f700778", "2 (e59469d5) of 6×4×5 uint8 0f700778"],
        ["4 (04fe7269) of 6×4×5 uint8 3e173fe7", "2 (e59469d5) of 6×4×5 uint8 3e173fe7"],
        ["4 (04fe7269) of 6 image files 696e2572", "2 (e59469d5) of 6 image files 696e2572"],
    ]


def test_fingerprint_changes_with_the_split(tmp_path):
    source = write(tmp_path, "bytes")
    one, other = (data.load(source, stream=True, seed=s).train.fingerprint() for s in (0, 1))
    assert one != other


def test_photographs_are_in_memory_one_at_a_time():
    class Counted(Images):
        """Random photographs that count how many of them are alive."""

        alive = peak = 0

        def stack(self, rows):
            photographs = np.random.default_rng(rows).random((1, 60, 70))
            self.alive += 1
            self.peak = max(self.peak, self.alive)
            weakref.finalize(photographs, self.release)
            return photographs

        def release(self):
            self.alive -= 1

        def colour(self, row):
            return self[row][None].repeat(3, 0)

        def fingerprint(self):
            return ""

    photographs = Counted(6, [(60, 70)])
    patches = natural_patches(photographs, 50)
    assert patches.shape == (50, 256)
    assert photographs.peak <= 2  # the previous one is released after the next is read
    assert np.array_equal(patches, natural_patches(list(photographs), 50))


def test_streaming_a_folder_reads_headers_only(tmp_path, monkeypatch):
    folder = write(tmp_path, "folder")
    monkeypatch.setattr(data.image_files, "read_image", lambda path: pytest.fail(f"read {path}"))
    dataset = data.load(folder, stream=True)
    assert (len(dataset.train), len(dataset.test)) == (16, 4)


def test_array_file_overwritten_in_place_raises(tmp_path):
    path = write(tmp_path, "bytes")
    samples = data.load(path, stream=True).train
    samples.read(torch.tensor([0]))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))  # time stamps of some file systems are coarser than this test
    with pytest.raises(ValueError, match=r"set\.npy can no longer be read: it has been changed"):
        samples.read(torch.tensor([0]))
