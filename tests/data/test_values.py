"""The range of the values of a whole set decides how they are read, not their type alone."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from ipvae_snn import data
from ipvae_snn.data.pixels import Scale, find_scale

BYTES = np.random.default_rng(0).integers(0, 256, (20, 9, 7), dtype=np.uint8)
BYTES[:, 0, :2] = 0, 255
BINARY = (BYTES > 99).astype(np.uint8)


def all_samples(dataset):
    parts = [dataset.train, dataset.test]
    return torch.cat(
        [p if isinstance(p, torch.Tensor) else p.read(torch.arange(len(p))) for p in parts]
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stored", "taken_as"),
    [
        (BYTES.astype(float), "0…255"),
        (BYTES.astype(np.float16), "0…255"),
        (BYTES.astype(np.int16), "0…255"),
        (BYTES.astype(np.int64), "0…255"),
        (BYTES.astype(np.uint16), "0…255"),
        (BYTES * np.float32(257), "0…65535"),
        (BYTES.astype(np.uint16) * 4, "0…1023"),
        (BYTES.astype(np.uint16) * 16, "0…4095"),
        (BYTES.astype(">u2") * 64, "0…16383"),
        (BYTES.astype(np.int32) * 257, "0…65535"),
        (BYTES / 127.5 - 1, "-1…1"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.dtype),
)
def test_stored_pixels_of_any_range_become_the_same_images(tmp_path, stored, taken_as, stream):
    np.save(tmp_path / "a.npy", stored)
    np.save(tmp_path / "b.npy", BYTES)
    dataset, expected = (data.load(tmp_path / f"{n}.npy", stream=stream) for n in "ab")
    torch.testing.assert_close(all_samples(dataset), all_samples(expected), atol=5e-3, rtol=0)
    assert f"taken as {taken_as}" in dataset.description


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "dtype", [np.uint8, np.uint16, np.int64, bool, np.float32, np.int8], ids=str
)
def test_images_of_zeros_and_ones_are_not_divided(tmp_path, dtype, stream):
    np.save(tmp_path / "a.npy", BINARY.astype(dtype))
    dataset = data.load(tmp_path / "a.npy", stream=stream)
    assert set(all_samples(dataset).unique().tolist()) == {0.0, 1.0}
    assert "values from 0 to 1, taken as 0…1" in dataset.description


def test_signs_are_black_and_white(tmp_path):
    np.save(tmp_path / "a.npy", BINARY.astype(np.int8) * 2 - 1)
    assert set(all_samples(data.load(tmp_path / "a.npy")).unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (BYTES % 10, "0 to 9"),
        (BYTES.astype(np.int64) % 21, "0 to 20"),
        (BYTES.astype(np.int16) - 128, "-128 to 127"),
        ((BYTES // 2).astype(np.int8), "0 to 127"),
        (BYTES.astype(np.uint32) * 70_000, "0 to 1.785e+07"),
    ],
    ids=["labels", "labels, int64", "signed", "int8", "32 bits"],
)
def test_integers_that_fill_no_range_are_refused_when_they_are_opened(
    tmp_path, stored, found, stream
):
    np.save(tmp_path / "a.npy", stored)
    with pytest.raises(ValueError, match=rf"a\.npy holds values from {re.escape(found)}: rescale"):
        data.load(tmp_path / "a.npy", stream=stream)


@pytest.mark.parametrize(
    "stored",
    [BYTES % 17 / 1.0, BYTES / 2.55, BYTES / 255 - 0.5, BYTES / 25.5 - 5],
    ids=["0 to 16", "percent", "centred", "whitened"],
)
def test_floats_that_fill_no_range_are_refused_when_they_are_opened(tmp_path, stored):
    np.save(tmp_path / "a.npy", stored)
    for stream in (False, True):
        with pytest.raises(ValueError, match=r"^a\.npy holds values .*: rescale them to \[0, 1\]"):
            data.load(tmp_path / "a.npy", stream=stream)


@pytest.mark.parametrize(
    ("stored", "taken_as"),
    [
        (BYTES / np.float32(255) * np.float32(1.0000001), "0…1"),
        (BYTES / np.float32(255) - np.float32(1e-8), "0…1"),
        (BYTES * np.float32(1.0000001), "0…255"),
        ((BYTES / np.float32(127.5) - 1) * np.float32(1.0000001), "-1…1"),
    ],
    ids=["above", "below", "bytes", "signed"],
)
def test_rounding_brings_no_value_beyond_the_range(tmp_path, stored, taken_as):
    np.save(tmp_path / "a.npy", stored)
    for stream in (False, True):
        dataset = data.load(tmp_path / "a.npy", stream=stream)
        assert (all_samples(dataset).min(), all_samples(dataset).max()) == (0, 1)
        assert f"taken as {taken_as}" in dataset.description


def test_a_few_wrong_images_are_named_and_counted(tmp_path):
    images = BYTES / 255
    images[[3, 8, 9]] *= 16
    np.save(tmp_path / "a.npy", images)
    with pytest.raises(ValueError, match=r"image 3, holds .* \(and 2 more like it, of 20 read\)"):
        data.load(tmp_path / "a.npy", hold_out=False)


def test_a_split_has_one_scale(tmp_path):
    dark = BYTES[:5] // 8
    np.savez(tmp_path / "a.npz", x_train=BYTES, x_test=dark)
    assert torch.equal(
        data.load(tmp_path / "a.npz").test, torch.from_numpy(dark.reshape(5, 63) / np.float32(255))
    )


def test_zeros_and_ones_beside_bytes_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=BYTES, masks=BINARY)
    with pytest.raises(ValueError, match=r"a\.npz:masks holds values in 0…1, others there 0…255"):
        data.load(tmp_path / "a.npz")


def test_a_value_beyond_the_range_of_a_sample_is_refused_when_it_is_read(tmp_path):
    images = np.zeros((9000, 24, 24))
    images[1:] = 0.5
    images[1] = 300.0  # not among the rows that are looked at first
    np.save(tmp_path / "a.npy", images)
    samples = data.load(tmp_path / "a.npy", stream=True, hold_out=False).test
    with pytest.raises(ValueError, match=r"image 1, holds values from 300 to 300"):
        samples.read(torch.arange(3))


@pytest.mark.parametrize("stored", ["masks", "12 bits", "floats"])
def test_files_of_a_folder_have_one_scale(tmp_path, stored):
    suffix, images = {
        "masks": ("png", BINARY),
        "12 bits": ("png", BYTES.astype(np.uint16) * 16),
        "floats": ("tif", BYTES.astype(np.float32)),
    }[stored]
    images[0] = 0  # a black one
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{index:02}.{suffix}")
    samples = all_samples(data.load(tmp_path, hold_out=False))
    assert samples[0].max() == 0
    assert samples.amax(1)[1:].min() > 0.99


def test_a_folder_of_masks_beside_images_is_refused(tmp_path):
    for name, images in (("images", BYTES), ("masks", BINARY)):
        (tmp_path / name).mkdir()
        for index, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / name / f"{index:02}.png")
    with pytest.raises(ValueError, match=r"masks holds values in 0…1, others there 0…255"):
        data.load(tmp_path)


def test_the_range_is_that_of_several_files(tmp_path):
    for index, level in enumerate((100, 30, 200, 70)):
        Image.fromarray(np.full((4, 4), level, np.uint8)).save(tmp_path / f"{index}.png")
    assert "8-bit values from 30 to 200, taken as 0…255" in data.load(tmp_path).description


def test_maps_of_labels_in_files_are_refused_with_their_number(tmp_path):
    for index, pixels in enumerate(BYTES % 20):
        Image.fromarray(pixels).save(tmp_path / f"{index:02}.png")
    with pytest.raises(ValueError, match=r"00\.png holds values from 0 to 19: .* of 20 read"):
        data.load(tmp_path)


def test_the_fingerprint_tells_how_values_are_read(tmp_path):
    np.save(tmp_path / "a.npy", BINARY)
    np.save(tmp_path / "b.npy", BYTES)
    prints = [data.load(tmp_path / f"{n}.npy", stream=True).train.fingerprint() for n in "ab"]
    assert "as 0…1" in prints[0]
    assert "as" not in prints[1]


@pytest.mark.parametrize(
    ("dtype", "low", "high", "scale"),
    [
        ("uint8", 0, 0, Scale()),
        ("uint8", 0, 2, None),
        ("uint8", 0, 63, None),
        ("uint8", 200, 255, Scale(0.0, 255)),
        ("uint16", 0, 256, Scale(0.0, 1023)),
        ("float32", 0, 127, None),
        ("float32", 0, 255.5, None),
        ("float32", -1, 0.5, None),
        ("float32", -0.995, 0.995, Scale(-1.0, 1.0)),
    ],
)
def test_the_scale_of_a_range(dtype, low, high, scale):
    assert find_scale(dtype, low, high) == scale
