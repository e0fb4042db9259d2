"""Loading of unusual data: bit depths, colour modes, stray files, small sets, odd labels."""

import gzip
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import io

from ipvae_snn import data
from ipvae_snn.data.readers import read_idx

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (20, 9, 7), dtype=np.uint8)


def write_images(folder, count, shape=(40, 50)):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
        io.imsave(folder / f"{index}.png", pixels, check_contrast=False)


def test_sixteen_bit_images_keep_their_intensities(tmp_path):
    ramp = np.arange(64).reshape(8, 8) * 1000
    for index in range(4):
        (tmp_path / f"{index}.pgm").write_bytes(b"P5\n8 8\n65535\n" + ramp.astype(">u2").tobytes())
        Image.fromarray(ramp.astype(np.int32)).save(tmp_path / f"{index}i.tif")
        Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / f"{index}.tif")
        io.imsave(tmp_path / f"{index}.png", ramp.astype(np.uint16), check_contrast=False)
    rows = torch.cat(data.load(tmp_path)[:2])
    expected = torch.from_numpy(ramp.reshape(1, -1) / 65535).float()
    torch.testing.assert_close(rows, expected.expand(16, 64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "CMYK"])
def test_other_image_modes(tmp_path, mode):
    for index in range(4):
        image = Image.fromarray(BYTES[index]).convert(mode)
        image.save(tmp_path / f"{index}.{'tif' if mode == 'CMYK' else 'png'}")
    rows = torch.cat(data.load(tmp_path)[:2])
    assert rows.shape == (4, 63)
    assert rows.std() > 0.2


def test_stray_files_and_run_folders_are_ignored(tmp_path):
    write_images(tmp_path, 5)
    (tmp_path / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "folder.png").mkdir()
    write_images(tmp_path / "runs" / "a" / "figures", 3, (200, 200))
    (tmp_path / "runs" / "a" / "metrics.json").write_text("{}")
    dataset = data.load(tmp_path)
    assert len(dataset.train) + len(dataset.test) == 5


def test_small_collections_hold_out_two_samples(tmp_path):
    np.save(tmp_path / "a.npy", BYTES[:4])
    dataset = data.load(tmp_path / "a.npy")
    assert (len(dataset.train), len(dataset.test)) == (2, 2)
    whole = data.load(tmp_path / "a.npy", hold_out=False)
    assert (len(whole.train), len(whole.test)) == (0, 4)


@pytest.mark.parametrize(
    "labels", [np.zeros((20, 1), dtype=np.int64), np.zeros((20, 10), dtype=np.uint8)]
)
def test_two_dimensional_labels_are_not_read_as_images(tmp_path, labels):
    np.savez(tmp_path / "a.npz", x_train=BYTES, y_train=labels, x_test=BYTES, y_test=labels)
    assert data.load(tmp_path / "a.npz").train.shape == (20, 63)


def test_flat_arrays_beside_images_are_ignored(tmp_path):
    np.savez(tmp_path / "a.npz", x=BYTES, packed=np.zeros((20, 99), dtype=np.uint8))
    assert data.load(tmp_path / "a.npz").train.shape == (16, 63)


def test_corrupt_compressed_data_raises_value_error(tmp_path):
    noise = RNG.integers(0, 256, (50, 20, 20), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", x=noise)
    raw = bytearray((tmp_path / "a.npz").read_bytes())
    raw[5000:5100] = bytes(100)
    (tmp_path / "a.npz").write_bytes(raw)
    with pytest.raises(ValueError, match="cannot be read"):
        data.load(tmp_path / "a.npz")
    idx = struct.pack(">BBBB3I", 0, 0, 8, 3, *noise.shape) + noise.tobytes()
    raw = bytearray(gzip.compress(idx))
    raw[5000:5100] = bytes(100)
    (tmp_path / "b.gz").write_bytes(raw)
    with pytest.raises(ValueError, match="cannot be read"):
        read_idx(tmp_path / "b.gz")


def test_a_header_written_by_python_2(tmp_path):
    np.save(tmp_path / "a.npy", BYTES)
    content = (tmp_path / "a.npy").read_bytes().replace(b"(20, 9, 7), }  ", b"(20L, 9L, 7), }")
    (tmp_path / "a.npy").write_bytes(content)
    assert len(data.load(tmp_path / "a.npy", hold_out=False).test) == 20


@pytest.mark.parametrize("source", [BYTES, torch.zeros(4, 4), None, b"a", 3], ids=type)
def test_a_source_that_is_no_name_is_refused(source):
    with pytest.raises(TypeError, match="name of a data set or a path, got"):
        data.load(source)


@pytest.mark.parametrize(
    "options",
    [{"patches": (-1, 5)}, {"patches": (10,)}, {"patch_size": 1}, {"seed": -1}],
    ids=str,
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=r"must|patches"):
        data.load("digits", **options)
