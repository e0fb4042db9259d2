"""IDX files under the names that MNIST and its relatives have in the world."""

import gzip
import struct

import numpy as np
import pytest

from ipvae_snn import data

BYTES = np.random.default_rng(0).integers(0, 256, (20, 9, 7), dtype=np.uint8)
LABELS = np.arange(20, dtype=np.uint8)


def write(folder, name, array):
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.tobytes()
    content = gzip.compress(content) if name.endswith(".gz") else content
    (folder / name).write_bytes(content)


def write_set(folder, train, test, end="-{}-idx{}-ubyte"):
    for part, count in ((train, 20), (test, 5)):
        write(folder, part + end.format("images", 3), BYTES[:count])
        write(folder, part + end.format("labels", 1), LABELS[:count])


def check_set(dataset):
    assert dataset.train.shape == (20, 63)
    assert np.array_equal((dataset.test * 255).round().numpy(), BYTES[:5].reshape(5, 63))
    assert dataset.train_labels.tolist() == LABELS.tolist()
    assert dataset.test_labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("inside", ["", "MNIST/raw"])
@pytest.mark.parametrize(
    "end", ["-{}-idx{}-ubyte", "-{}.idx{}-ubyte", "-{}-idx{}-ubyte.gz", "-{}.idx{}"]
)
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "t10k"), ("emnist-letters-train", "emnist-letters-test"),
        ("qmnist-train", "qmnist-test"), ("Train", "Test"),
    ],
)  # fmt: skip
def test_usual_names_and_places(tmp_path, train, test, end, inside):
    write_set(tmp_path / inside, train, test, end)
    dataset = data.load(tmp_path)
    check_set(dataset)
    assert f"to train on: {train}{end.format('images', 3)} (20)" in dataset.description
    check_set(data.load(tmp_path / inside / (test + end.format("images", 3))))
    if train.lower() == "train":
        check_set(data.load("mnist", data_dir=tmp_path))


def test_files_that_are_unpacked_and_packed_count_once(tmp_path):
    write_set(tmp_path, "train", "t10k")
    write_set(tmp_path, "train", "t10k", "-{}-idx{}-ubyte.gz")
    check_set(data.load(tmp_path))


def test_several_data_sets_are_refused_and_named(tmp_path):
    write_set(tmp_path / "raw", "emnist-letters-train", "emnist-letters-test")
    write_set(tmp_path / "raw", "emnist-digits-train", "emnist-digits-test")
    with pytest.raises(ValueError, match=r"several data sets \('emnist digits', 'emnist letters'"):
        data.load(tmp_path)
    check_set(data.load(tmp_path / "raw" / "emnist-letters-train-images-idx3-ubyte"))
    write_set(tmp_path / "other", "train", "t10k")
    with pytest.raises(ValueError, match=r"of several folders: .*other', .*raw'"):
        data.load(tmp_path)


def test_images_without_labels_or_test_images(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", BYTES)
    dataset = data.load(tmp_path)
    assert [len(part) for part in dataset[:2]] == [16, 4]
    assert dataset.train_labels is None


def test_test_images_alone_are_not_learned_from(tmp_path):
    write(tmp_path, "t10k-images-idx3-ubyte", BYTES)
    with pytest.raises(ValueError, match="holds test images only"):
        data.load(tmp_path)
    assert len(data.load(tmp_path, hold_out=False).test) == 20


def test_labels_without_images_are_refused(tmp_path):
    write(tmp_path, "train-labels-idx1-ubyte", LABELS)
    with pytest.raises(ValueError, match="holds labels, but no images"):
        data.load(tmp_path)


def test_zeros_and_ones(tmp_path):
    write(tmp_path, "train-images-idx3-ubyte", (BYTES > 99).astype(np.uint8))
    assert data.load(tmp_path, hold_out=False).test.max() == 1
