"""``data.load`` on valid and invalid sources; whitening against its formula."""

import gzip
import struct

import numpy as np
import pytest
import torch
from skimage import io

from ipvae_snn import data
from ipvae_snn.data.natural import natural_patches, standardise, whiten
from ipvae_snn.data.readers import read_idx

RNG = np.random.default_rng(0)


def photo(height=90, width=100, seed=0):
    """A random image with the 1/f spectrum of natural images."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    spectrum = np.fft.fft2(rng.normal(size=(height, width))) / np.maximum(np.hypot(fy, fx), 0.01)
    image = np.fft.ifft2(spectrum).real
    return (image - image.min()) / (image.max() - image.min())


@pytest.mark.parametrize("cycles", [4, 16, 24])
def test_whitening_gain_follows_the_formula(cycles):
    size = 128
    f = cycles / size
    grating = 0.5 + 0.3 * np.sin(2 * np.pi * f * np.arange(size) + 1.0)[None].repeat(size, 0)
    out = whiten(grating)[32:-32, 32:-32]
    gain = out.std() / (grating - 0.5)[32:-32, 32:-32].std()
    assert gain == pytest.approx(f * np.exp(-((f / 0.4) ** 4)), rel=0.05)


def test_whitening_flattens_a_natural_spectrum():
    def slope(image):
        power = np.abs(np.fft.fft2(image - image.mean())) ** 2
        f = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
        rings = [(f > a) & (f < a + 0.02) for a in np.arange(0.03, 0.2, 0.02)]
        return np.polyfit(range(len(rings)), [np.log(power[r].mean()) for r in rings], 1)[0]

    image = photo(256, 256)
    assert slope(image) < -0.3
    assert abs(slope(whiten(image))) < 0.1


def test_patches_are_standardised_reproducible_and_from_every_image():
    images = [photo(seed=s) for s in range(3)]
    patches = natural_patches(images, 300, seed=1)
    assert patches.shape == (300, 256)
    assert patches.dtype == np.float32
    np.testing.assert_allclose(patches.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(patches.std(1), 1, atol=1e-4)
    assert np.array_equal(patches, natural_patches(images, 300, seed=1))
    assert not np.array_equal(patches, natural_patches(images, 300, seed=2))


def test_blank_patches_are_replaced():
    half_blank = photo(120, 120)
    half_blank[:, 60:] = 0.5
    patches = natural_patches([half_blank, np.full((60, 60), 0.3)], 200)
    assert len(patches) == 200
    assert np.isfinite(patches).all()
    np.testing.assert_allclose(patches.std(1), 1, atol=1e-4)
    with pytest.raises(ValueError, match="blank"):
        natural_patches([np.zeros((60, 60))], 10)
    assert len(standardise(np.ones((4, 9)))) == 0


def test_natural_is_split_by_image():
    dataset = data.load("natural", patches=(500, 100))
    assert dataset.train.shape == (500, 256)
    assert dataset.test.shape == (100, 256)
    assert dataset.kind == "patches"
    assert "from 7 images" in dataset.description
    assert "from 2 others" in dataset.description
    assert torch.equal(dataset.train, data.load("natural", patches=(500, 100)).train)


def test_digits():
    dataset = data.load("digits")
    assert dataset.train.shape[1] == 64
    assert len(dataset.train) + len(dataset.test) == 1797
    assert 0 <= dataset.train.min() < dataset.train.max() <= 1
    assert len(dataset.train_labels) == len(dataset.train)
    assert (dataset.shape, dataset.kind) == ((8, 8), "samples")


# -- arrays ---------------------------------------------------------------------------------------

BYTES = RNG.integers(0, 256, (20, 9, 7), dtype=np.uint8)


def test_npz_with_a_split_and_labels(tmp_path):
    path = tmp_path / "a.npz"
    labels = np.arange(20)
    np.savez(path, x_train=BYTES, y_train=labels, x_test=BYTES[:5], y_test=labels[:5])
    dataset = data.load(path)
    assert dataset.train.shape == (20, 63)
    assert dataset.test.shape == (5, 63)
    torch.testing.assert_close(dataset.test[0, 0].item(), BYTES[0, 0, 0] / 255)
    assert dataset.test_labels.tolist() == [0, 1, 2, 3, 4]
    assert "samples of 9×7 as they are, in [0, 1], 20 to train on" in dataset.description


def test_arrays_of_a_split_are_joined_and_ids_ignored(tmp_path):
    path = tmp_path / "a.npz"
    wide, tall = RNG.random((2, 3, 80, 100)).astype(np.float32)[0], RNG.random((2, 100, 80))
    np.savez(path, train_wide=wide, train_tall=tall, test_wide=wide[:1], train_wide_id=np.arange(3))
    dataset = data.load(path, patches=(40, 10))
    assert dataset.kind == "patches"
    assert "40 from 5 images, 10 held out from 1 others" in dataset.description


def test_array_without_split_holds_out_every_fifth_image(tmp_path):
    np.save(tmp_path / "a.npy", BYTES)
    dataset = data.load(tmp_path / "a.npy")
    assert (len(dataset.train), len(dataset.test)) == (16, 4)
    rows = {tuple(row) for row in torch.cat([dataset.train, dataset.test]).tolist()}
    assert len(rows) == 20


@pytest.mark.parametrize(
    "array",
    [
        BYTES[..., None],
        BYTES[..., None].repeat(3, -1),
        np.moveaxis(BYTES[..., None].repeat(3, -1), -1, 1),
        BYTES.astype(np.uint16) * 257,
        BYTES / 255,
        (BYTES / 255).astype(np.float16),
    ],
    ids=["grey", "rgb", "channels first", "uint16", "float64", "float16"],
)
def test_layouts_and_dtypes_of_the_same_pixels(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", BYTES)
    a, b = data.load(tmp_path / "a.npy"), data.load(tmp_path / "b.npy")
    torch.testing.assert_close(a.train, b.train, atol=1e-3, rtol=1e-3)


def test_flat_samples(tmp_path):
    np.save(tmp_path / "a.npy", RNG.random((10, 36)))
    np.save(tmp_path / "b.npy", RNG.random((10, 35)))
    assert data.load(tmp_path / "a.npy").shape == (6, 6)
    assert data.load(tmp_path / "b.npy").shape == (1, 35)
    with pytest.raises(ValueError, match="flat samples"):
        data.load(tmp_path / "a.npy", treat="patches")


def test_photographs_without_split_may_all_be_test_images(tmp_path):
    np.save(tmp_path / "a.npy", np.stack([photo(seed=s) for s in range(3)]))
    dataset = data.load(tmp_path / "a.npy", patches=(30, 12), hold_out=False)
    assert dataset.train.shape == (0, 256)
    assert dataset.test.shape == (12, 256)
    assert "0 from 0 images, 12 held out from 3 others" in dataset.description


def test_treat_overrides_the_choice_by_image_size(tmp_path):
    np.save(tmp_path / "small.npy", RNG.random((6, 60, 60)))
    np.save(tmp_path / "large.npy", RNG.random((6, 65, 65)))
    assert data.load(tmp_path / "small.npy").kind == "samples"
    assert data.load(tmp_path / "small.npy", treat="patches", patches=(20, 4)).kind == "patches"
    assert data.load(tmp_path / "large.npy", patches=(20, 4)).kind == "patches"
    assert data.load(tmp_path / "large.npy", treat="samples").train.shape == (4, 65 * 65)


# -- folders and IDX ------------------------------------------------------------------------------


def write_images(folder, count, shape=(40, 50), suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
        io.imsave(folder / f"{index}.{suffix}", pixels, check_contrast=False)


def test_folder_of_images(tmp_path):
    write_images(tmp_path / "grey", 6)
    write_images(tmp_path / "colour", 6, (90, 80, 3), "jpg")
    assert data.load(tmp_path / "grey").train.shape == (4, 2000)
    assert data.load(tmp_path / "colour", patches=(30, 6)).train.shape == (30, 256)


def test_folder_with_its_own_split(tmp_path):
    write_images(tmp_path / "d" / "train", 5)
    write_images(tmp_path / "d" / "test", 2)
    dataset = data.load(tmp_path / "d")
    assert (len(dataset.train), len(dataset.test)) == (5, 2)


def idx_bytes(array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.tobytes()


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_from_idx(tmp_path, zipped):
    labels = np.arange(20, dtype=np.uint8) % 10
    for name, array in {
        "train-images-idx3-ubyte": BYTES,
        "train-labels-idx1-ubyte": labels,
        "t10k-images-idx3-ubyte": BYTES[:4],
        "t10k-labels-idx1-ubyte": labels[:4],
    }.items():
        content = idx_bytes(array)
        path = tmp_path / (name + ".gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    for dataset in (data.load(tmp_path), data.load("mnist", data_dir=tmp_path)):
        assert dataset.train.shape == (20, 63)
        assert dataset.test_labels.tolist() == [0, 1, 2, 3]


def test_mnist_npz_and_natural_images_of_the_data_folder(data_dir):
    dataset = data.load("mnist", data_dir=data_dir)
    assert dataset.train.shape == (60_000, 784)
    assert dataset.train.mean().item() == pytest.approx(0.1307, abs=1e-3)
    scenes = data.load(data_dir / "natural_images.npz", patches=(200, 50))
    assert "from 200 images, 50 held out from 100 others" in scenes.description


# -- errors ---------------------------------------------------------------------------------------


def write_invalid(tmp_path, kind):
    path = tmp_path / "d"
    if kind == "missing":
        return path
    if kind in ("empty folder", "no image", "unreadable", "empty image", "one image", "sizes"):
        path.mkdir()
    if kind == "no image":
        (path / "readme.txt").write_text("hello")
    elif kind in ("unreadable", "empty image"):
        write_images(path, 2)
        (path / "x.png").write_bytes(b"" if kind == "empty image" else b"\x89PNG but not really")
    elif kind == "one image":
        write_images(path, 1)
    elif kind == "sizes":
        write_images(path / "a", 2)
        write_images(path / "b", 2, (30, 30))
    elif kind == "text file":
        path = tmp_path / "d.txt"
        path.write_text("hello")
    elif kind == "truncated npz":
        path = tmp_path / "d.npz"
        np.savez(path, x=BYTES)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "objects":
        path = tmp_path / "d.npy"
        np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    elif kind == "labels only":
        path = tmp_path / "d.npz"
        np.savez(path, y=np.arange(5))
    elif kind in ("nan", "range", "text", "5-d", "too small"):
        path = tmp_path / "d.npy"
        array = {
            "nan": np.full((4, 8, 8), np.nan),
            "range": RNG.random((4, 8, 8)) * 16,
            "text": np.full((4, 8, 8), "x"),
            "5-d": np.zeros((2, 2, 2, 2, 2), dtype=np.uint8),
            "too small": np.zeros((4, 10, 70), dtype=np.uint8),
        }[kind]
        np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("empty folder", "holds no images"),
        ("no image", "holds no images"),
        ("unreadable", r"x\.png cannot be read"),
        ("empty image", r"x\.png cannot be read"),
        ("one image", "at least 4 are needed"),
        ("sizes", "different sizes"),
        ("text file", "neither a folder nor"),
        ("truncated npz", "cannot be read"),
        ("objects", "cannot be read"),
        ("labels only", "holds no images"),
        ("nan", "NaN"),
        ("range", r"rescale them to \[0, 1\]"),
        ("text", "expected integers or floats"),
        ("5-d", "expected images"),
        ("too small", "too small"),
    ],
)
def test_sources_without_usable_images_raise(tmp_path, kind, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(write_invalid(tmp_path, kind), patches=(20, 5))


@pytest.mark.parametrize("cut", [0, 3, 10, 50])
def test_truncated_idx(tmp_path, cut):
    path = tmp_path / "a"
    path.write_bytes(idx_bytes(BYTES)[:cut])
    with pytest.raises(ValueError, match=r"IDX|damaged"):
        read_idx(path)


def test_invalid_options():
    with pytest.raises(ValueError, match="treat"):
        data.load("digits", treat="whole")
    with pytest.raises(FileNotFoundError, match="no MNIST"):
        data.load("mnist", data_dir="nowhere")
