"""Names that say which images are held out: of folders, arrays and files."""

import numpy as np
import pytest
import torch
from PIL import Image

from ipvae_snn import data
from ipvae_snn.data.splits import part_of

BYTES = np.random.default_rng(0).integers(0, 256, (20, 9, 7), dtype=np.uint8)
PAIRS = [
    ("Train", "Test"), ("training", "testing"), ("train", "val"), ("TRAIN", "VALID"),
    ("Training Set", "Validation Set"), ("train2017", "val2017"), ("trainval", "eval"),
    ("train_val", "test"), ("train", "Held-Out"), ("learning", "evaluation"), ("trn", "tst"),
    ("my_train_images", "my_test_images"), ("train", "holdout"), ("train", "dev"),
]  # fmt: skip


def write_images(folder, images, prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{prefix}{index:02}.png")


def samples(images):
    return torch.from_numpy(images.reshape(len(images), -1) / np.float32(255))


@pytest.mark.parametrize("inside", ["{}", "images/{}", "{}/digits", "a/{}"])
@pytest.mark.parametrize(("train", "test"), PAIRS)
def test_folders_split_as_they_are_named(tmp_path, train, test, inside):
    write_images(tmp_path / inside.format(train), BYTES[:12])
    write_images(tmp_path / inside.format(test), BYTES[12:])
    dataset = data.load(tmp_path)
    assert torch.equal(dataset.train, samples(BYTES[:12]))
    assert torch.equal(dataset.test, samples(BYTES[12:]))
    assert f"to train on: {inside.format(train)} (12); held out: {inside.format(test)} (8)" in (
        dataset.description
    )


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *PAIRS, ("x_train", "x_test"), ("X_train", "X_test"), ("Xtrain", "Xtest"),
        ("train_images", "test_images"), ("trainImages", "valImages"), ("x_tr", "x_te"),
        ("trainimages", "testimages"), ("images.train", "images.val"),
    ],
)  # fmt: skip
def test_arrays_split_as_they_are_named(tmp_path, train, test):
    np.savez(tmp_path / "a.npz", **{test: BYTES[12:], train: BYTES[:12]})
    dataset = data.load(tmp_path / "a.npz")
    assert torch.equal(dataset.train, samples(BYTES[:12]))
    assert torch.equal(dataset.test, samples(BYTES[12:]))
    assert f"to train on: {train} (12); held out: {test} (8)" in dataset.description


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("contest", None), ("latest", None), ("greatest_hits", None), ("values", None),
        ("interval", None), ("medieval", None), ("trained", None), ("strain", None),
        ("devices", None), ("x", None), ("", None), ("t10k-images.idx3-ubyte", "test"),
        ("étesté", None), ("XTrain", "train"), ("TESTImages", "test"),
        ("Test", "test"), ("x_test_2", "test"), ("TrainingData", "train"), ("2024test", "test"),
    ],
)  # fmt: skip
def test_only_whole_words_count(name, part):
    assert part_of(name) == part


@pytest.mark.parametrize("known", ["train", "Test", "validation"])
def test_a_split_by_half_is_refused(tmp_path, known):
    write_images(tmp_path / "d" / known, BYTES[:6])
    write_images(tmp_path / "d" / "queries", BYTES[6:])
    np.savez(tmp_path / "a.npz", **{f"x_{known}": BYTES[:6], "queries": BYTES[6:]})
    for source in (tmp_path / "d", tmp_path / "a.npz"):
        with pytest.raises(ValueError, match=r"is split by half: .*'queries'"):
            data.load(source)


def test_what_is_neither_is_not_read_and_named(tmp_path):
    write_images(tmp_path / "d" / "train", BYTES[:6])
    write_images(tmp_path / "d" / "val", BYTES[6:10])
    write_images(tmp_path / "d" / "test", BYTES[10:12])
    write_images(tmp_path / "d" / "preview", BYTES[12:13])
    np.savez(
        tmp_path / "a.npz", train=BYTES[:6], val=BYTES[6:10], test=BYTES[10:12], preview=BYTES[12:]
    )
    for source in (tmp_path / "d", tmp_path / "a.npz"):
        dataset = data.load(source)
        assert (len(dataset.train), len(dataset.test)) == (6, 6)
        assert "not read: 'preview" in dataset.description


def test_test_images_alone_are_evaluated_but_not_learned_from(tmp_path):
    write_images(tmp_path / "d" / "test", BYTES)
    np.savez(tmp_path / "a.npz", x_test=BYTES, y_test=np.arange(20))
    for source in (tmp_path / "d", tmp_path / "a.npz"):
        with pytest.raises(ValueError, match=r"holds test images only.*x?_?test \(20\)"):
            data.load(source)
        dataset = data.load(source, hold_out=False)
        assert (len(dataset.train), len(dataset.test)) == (0, 20)
    assert dataset.test_labels.tolist() == list(range(20))
    assert len(data.load(tmp_path / "d" / "test").train) == 16  # named by the user


def test_training_images_alone_are_split(tmp_path):
    write_images(tmp_path / "d" / "train", BYTES)
    np.savez(tmp_path / "a.npz", x_train=BYTES)
    for source in (tmp_path / "d", tmp_path / "a.npz"):
        assert [len(part) for part in data.load(source)[:2]] == [16, 4]


def test_a_class_named_train_beside_others(tmp_path):
    for name in ("train/train", "train/bus", "test/train", "test/bus"):
        write_images(tmp_path / name, BYTES[:5])
    dataset = data.load(tmp_path)
    assert "train/train (5); held out: test/bus (5), test/train (5)" in dataset.description


@pytest.mark.parametrize("name", ["train/test", "test/train", "train_test"])
def test_names_that_say_both_are_refused(tmp_path, name):
    write_images(tmp_path / name, BYTES)
    with pytest.raises(ValueError, match="names images to train on and held-out ones"):
        data.load(tmp_path)


@pytest.mark.parametrize("name", ["img_{}_{:02}", "{1}_{0}", "COCO_{}2014_{:012}", "a-{}-{}"])
def test_any_word_splits_if_all_files_are_named(tmp_path, name):
    for index, pixels in enumerate(BYTES):
        part = "train" if index < 12 else "val"
        Image.fromarray(pixels).save(tmp_path / (name.format(part, index) + ".png"))
    assert [len(part) for part in data.load(tmp_path)[:2]] == [12, 8]
    Image.fromarray(BYTES[0]).save(tmp_path / "photo of a test.png")
    Image.fromarray(BYTES[0]).save(tmp_path / "photo.png")
    assert [len(part) for part in data.load(tmp_path)[:2]] == [17, 5]  # by number


def test_names_of_files_split_a_folder_without_others(tmp_path):
    write_images(tmp_path / "a", BYTES[:12], "train_")
    write_images(tmp_path / "a", BYTES[12:], "test_")
    assert torch.equal(data.load(tmp_path / "a").test, samples(BYTES[12:]))
    write_images(tmp_path / "b", BYTES[:12], "photo")
    write_images(tmp_path / "b", BYTES[12:], "test")
    with pytest.raises(ValueError, match=r"is split by half: 'test' .* 'photo00.png'"):
        data.load(tmp_path / "b")
    write_images(tmp_path / "b", BYTES[:1], "a photo of a train")
    with pytest.raises(ValueError, match=r"is split by half: 'test' .* 'others', 'photo00.png'"):
        data.load(tmp_path / "b")
    write_images(tmp_path / "c", BYTES, "test")  # nothing is named otherwise
    write_images(tmp_path / "d", BYTES[:12], "bus")
    write_images(tmp_path / "d", BYTES[12:], "train")
    for name in "cd":
        assert [len(part) for part in data.load(tmp_path / name)[:2]] == [16, 4]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("x_train", "y_train"), ("X_train", "y_train"), ("train_images", "train_labels"),
        ("trainx", "train_targets"), ("images", "labels"), ("x", "y"), ("Xtrain", "Ytrain"),
    ],
)  # fmt: skip
def test_labels_are_found_by_name(tmp_path, images, labels):
    np.savez(tmp_path / "a.npz", **{images: BYTES, labels: np.arange(20), "weights": np.ones(20)})
    assert data.load(tmp_path / "a.npz", hold_out=False).test_labels.tolist() == list(range(20))
