"""Which files of a folder are read: links, hidden files, names of other encodings."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from ipvae_snn import data
from ipvae_snn.data.folders import files_below

BYTES = np.random.default_rng(0).integers(0, 256, (20, 9, 7), dtype=np.uint8)


def write_images(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(BYTES[:count]):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


@pytest.mark.parametrize("linked", [("train", "test"), ("test",), ("train",)])
def test_linked_folders_are_read(tmp_path, linked):
    for name, count in (("train", 6), ("test", 4)):
        if name in linked:
            write_images(tmp_path / "elsewhere" / name, count)
            (tmp_path / "d").mkdir(exist_ok=True)
            (tmp_path / "d" / name).symlink_to(tmp_path / "elsewhere" / name)
        else:
            write_images(tmp_path / "d" / name, count)
    dataset = data.load(tmp_path / "d")
    assert [len(part) for part in dataset[:2]] == [6, 4]
    assert "to train on: train (6); held out: test (4)" in dataset.description


def test_linked_folders_are_read_once_and_loops_end(tmp_path):
    folder = write_images(tmp_path / "d" / "second", 6)
    (tmp_path / "d" / "first").symlink_to(folder)
    for name, target in (("loop", "d"), ("self", "d/second"), ("root", "..")):
        (folder / name).symlink_to(tmp_path / target)
    dataset = data.load(tmp_path / "d")
    assert [len(part) for part in dataset[:2]] == [4, 2]
    assert "read: second (6)" in dataset.description


def test_links_to_missing_images_are_refused_and_counted(tmp_path):
    write_images(tmp_path, 4)
    for name in ("x", "y"):
        (tmp_path / f"{name}.png").symlink_to("annex/not/fetched")
    (tmp_path / "z.png").symlink_to("z.png")
    with pytest.raises(ValueError, match=r"x\.png cannot be .* \(and 2 more like it, of 7 read\)"):
        data.load(tmp_path)


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path, monkeypatch):
    write_images(tmp_path / "test", 4)
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("test"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="test"):
        list(files_below(tmp_path))


@pytest.mark.parametrize("result", ["metrics.json", "checkpoint.pt"])
def test_only_figures_of_runs_are_left_out(result, tmp_path):
    for name in ("train", "test", "train/figures"):
        write_images(tmp_path / name, 4)
        (tmp_path / name / result).write_text("{}")
    assert [len(part) for part in data.load(tmp_path)[:2]] == [4, 4]


@pytest.mark.parametrize("name", [b"caf\xe9", b"\x1b[31mred\nline"])
def test_names_that_cannot_be_printed(tmp_path, name):
    folder = write_images(tmp_path / "d" / os.fsdecode(name), 5)
    path = folder / os.fsdecode(name + b".png")
    Image.fromarray(BYTES[5]).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(path)
    dataset = data.load(tmp_path / "d", stream=True, hold_out=False)
    assert dataset.test.read(torch.arange(6)).shape == (6, 63)
    assert dataset.description.isprintable()
    assert "6 image files" in dataset.test.fingerprint()
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"\.png cannot be read as an image") as error:
        data.load(tmp_path / "d")
    assert str(error.value).isprintable()


def test_what_is_there_instead_of_images_is_named(tmp_path):
    for name in ("a.heic", "b.heic", "train.csv", "data_batch_1", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds no images: .*, but '\.heic', '.*'$") as error:
        data.load(tmp_path)
    assert "'.csv'" in str(error.value)
    assert "'data_batch_1'" in str(error.value)


def test_hidden_idx_files_and_other_files_called_idx(tmp_path):
    write_images(tmp_path, 5)
    for name in (".git/pack.idx", "train.idx", "._train-images-idx3-ubyte"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert "read: " in data.load(tmp_path).description
