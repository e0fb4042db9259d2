"""Data that stay in their files until they are needed: the same numbers, the same refusals."""

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
from ipvae_snn.data.natural import natural_patches
from ipvae_snn.data.pictures import Pictures
from ipvae_snn.data.sources import Part, Samples, stream

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 9, 7), dtype=np.uint8)
COLOURS = RNG.integers(0, 256, (20, 3, 9, 7), dtype=np.uint8)


def write(folder, kind):
    """A data set of one kind, and what it is loaded by."""
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
            zipped = kind == "idx.gz"
            (path / (name + ".gz" if zipped else name)).write_bytes(
                gzip.compress(content) if zipped else content
            )
    else:
        path = folder / "set.npy"
        array = {
            "bytes": BYTES,
            "colours first": COLOURS,
            "doubles by columns": np.asfortranarray(RNG.random((20, 9, 7))),
            "big-endian": (BYTES.astype(np.uint16) * 257).astype(">u2"),
            "flat": RNG.random((20, 63)).astype(np.float16),
            "bools": BYTES > 99,
        }[kind]
        np.save(path, array)
    return path


KINDS = (
    "digits", "split npz", "compressed npz", "several arrays", "folder", "idx", "idx.gz", "bytes",
    "colours first", "doubles by columns", "big-endian", "flat", "bools",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_samples_are_those_in_memory(tmp_path, kind):
    source = write(tmp_path, kind)
    whole, part = (data.load(source, stream=s) for s in (False, True))
    assert isinstance(whole.train, torch.Tensor)
    assert whole[2:4] == part[2:4]
    assert part.description == whole.description + ", read as they are needed"
    for expected, found in zip(whole[:2], part[:2], strict=True):
        assert isinstance(found, Samples)
        assert (len(found), found.features) == expected.shape
        rows = torch.randperm(len(found)).repeat(2)
        assert torch.equal(found.read(rows), expected[rows])
        assert torch.equal(pickle.loads(pickle.dumps(found)).read(rows), expected[rows])
        assert found.read(rows).dtype == torch.float32
        some = torch.tensor([1, 2, 2, 1, 0, 1])  # neighbours are read at once
        assert torch.equal(found.read(some), expected[some])
        assert found.read(rows[:0]).shape == (0, found.features)
        for wrong in (-1, len(found)):
            with pytest.raises(IndexError, match="rows must be from 0 to"):
                found.read(torch.tensor([0, wrong]))
    for expected, found in zip(whole[-2:], part[-2:], strict=True):
        assert (expected is None and found is None) or torch.equal(expected, found)


@pytest.mark.parametrize("kind", ["split npz", "folder"])
def test_workers_read_the_same(tmp_path, kind):
    samples = data.load(write(tmp_path, kind), stream=True).train
    batches = [torch.tensor([7, 2]), torch.tensor([0])]
    for here, there in zip(stream(samples, batches), stream(samples, batches, 1), strict=True):
        assert torch.equal(here, there)


def test_what_would_take_much_memory_is_streamed(tmp_path, monkeypatch):
    path = write(tmp_path, "split npz")
    monkeypatch.setattr(data, "IN_MEMORY", 4 * 25 * 63)
    assert isinstance(data.load(path).train, torch.Tensor)
    monkeypatch.setattr(data, "IN_MEMORY", 4 * 25 * 63 - 1)
    assert isinstance(data.load(path).train, Samples)
    assert isinstance(data.load(path, stream=False).train, torch.Tensor)


def test_a_large_npz_is_mapped_and_must_not_be_compressed(tmp_path, monkeypatch):
    path = write(tmp_path, "split npz")
    whole = data.load(path)
    monkeypatch.setattr(data, "IN_MEMORY", 1000)
    part = data.load(path)
    assert len(pickle.dumps(part.train)) < 1000 < BYTES.size
    rows = torch.arange(20).flip(0)
    assert torch.equal(part.train.read(rows), whole.train[rows])
    assert torch.equal(part.train_labels, whole.train_labels)
    packed = write(tmp_path, "compressed npz")
    with pytest.raises(ValueError, match=r"more than 1,000 bytes: save it uncompressed"):
        data.load(packed)
    assert data.load(packed, stream=False).train.shape == (16, 63)


def test_nothing_to_train_on_stays_an_empty_tensor(tmp_path):
    dataset = data.load(write(tmp_path, "bytes"), hold_out=False, stream=True)
    assert dataset.train.shape == (0, 63)
    assert len(dataset.test) == 20


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (np.nan, "holds NaN or infinite values"),
        (-np.inf, "holds NaN or infinite values"),
        (1e300, "holds NaN or infinite values"),  # which float32 cannot hold
        (1.5, r"holds values from .* to 1\.5: rescale them to \[0, 1\]"),
        (-0.1, r"holds values from -0\.1 to"),
    ],
)
def test_a_bad_image_is_told_when_it_is_read(tmp_path, value, says):
    images = RNG.random((20, 4, 5))
    images[13, 2, 2] = value
    np.save(tmp_path / "a.npy", images)
    message = rf"^a\.npy, image 13, {says}"
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


def test_a_damaged_image_file_is_told_when_it_is_read(tmp_path):
    folder = write(tmp_path, "folder")
    damaged = folder / "07.png"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    samples = data.load(folder, hold_out=False, stream=True).test
    assert samples.read(torch.arange(7)).shape == (7, 63)
    with pytest.raises(ValueError, match=r"07\.png cannot be read as an image"):
        samples.read(torch.arange(20))


def test_a_type_that_holds_no_pixels_is_told_at_once(tmp_path):
    np.save(tmp_path / "a.npy", BYTES.astype(np.int64))
    with pytest.raises(ValueError, match="int64"):
        data.load(tmp_path / "a.npy", stream=True)


def test_files_that_change_or_go_are_told(tmp_path):
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


def test_samples_stay_readable_from_another_folder(tmp_path, monkeypatch):
    write(tmp_path, "bytes")
    write(tmp_path, "folder")
    monkeypatch.chdir(tmp_path)
    found = [data.load(name, stream=True).train for name in ("set.npy", "set")]
    os.chdir("/")
    for samples in found:
        assert samples.read(torch.tensor([0])).shape == (1, 63)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_fingerprints_tell_data_apart(tmp_path, kind):
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


def test_fingerprints_tell_splits_apart(tmp_path):
    source = write(tmp_path, "bytes")
    one, other = (data.load(source, stream=True, seed=s).train.fingerprint() for s in (0, 1))
    assert one != other


def test_photographs_are_in_memory_one_at_a_time():
    class Drawn(Pictures):
        """Photographs that count how many of them are alive."""

        shapes = frozenset([(60, 70)])
        alive = most = 0

        def __len__(self):
            return 6

        def read(self, rows):
            stack = np.random.default_rng(rows).random((1, 60, 70))
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(stack, self.went)
            return stack

        def went(self):
            self.alive -= 1

        def fingerprint(self):
            return ""

    photographs = Drawn()
    patches = natural_patches(photographs, 50)
    assert patches.shape == (50, 256)
    assert photographs.most <= 2  # the last one goes when the next has come
    assert np.array_equal(patches, natural_patches(list(photographs), 50))


def test_no_photograph_is_read_to_choose_patches_or_samples(tmp_path, monkeypatch):
    folder = write(tmp_path, "folder")
    monkeypatch.setattr(data.image_files, "read_image", lambda path: pytest.fail(f"read {path}"))
    dataset = data.load(folder, stream=True)
    assert (len(dataset.train), len(dataset.test)) == (16, 4)


def test_an_array_that_is_overwritten_in_place_is_told(tmp_path):
    path = write(tmp_path, "bytes")
    samples = data.load(path, stream=True).train
    samples.read(torch.tensor([0]))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))  # clocks of file systems may be slower than this test
    with pytest.raises(ValueError, match=r"set\.npy can no longer be read: it has been changed"):
        samples.read(torch.tensor([0]))
