"""Which axis of an array counts the images: told by its shape, or asked for."""

import numpy as np
import pytest
import torch

from ipvae_snn import data

RNG = np.random.default_rng(0)


def smooth(count, height, width):
    """Smooth images, such that neighbouring pixels are alike and images are not."""
    images = np.cumsum(np.cumsum(RNG.normal(size=(count, height, width)), 1), 2)
    images -= images.min((1, 2), keepdims=True)
    return images / images.max((1, 2), keepdims=True)


def save(path, array, order):
    np.save(path, np.asfortranarray(array) if order == "F" else array)
    return path


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("last", "first"),
    [
        (RNG.random((60, 60, 7)), lambda a: np.moveaxis(a, -1, 0)),
        (RNG.random((10, 10, 200)), lambda a: np.moveaxis(a, -1, 0)),
        (RNG.random((16, 16, 3, 20)), lambda a: np.moveaxis(a, -1, 0)),
        (RNG.random((16, 12, 1, 20)), lambda a: np.moveaxis(a, -1, 0)),
    ],
    ids=["few", "many", "colours", "grey"],
)
def test_images_stacked_along_the_last_axis(tmp_path, last, first, stream, order):
    path = save(tmp_path / "a.npy", last, order)
    np.save(tmp_path / "b.npy", first(last))
    found, given, expected = (
        data.load(tmp_path / f"{name}.npy", stream=stream, axis=axis, treat="samples")
        for name, axis in (("a", None), ("a", -1), ("b", 0))
    )
    for dataset in (found, given):
        for part, other in zip(dataset[:2], expected[:2], strict=True):
            rows = torch.arange(len(part))
            pixels, others = (p.read(rows) if stream else p for p in (part, other))
            assert torch.equal(pixels, others)
        assert f"its axis {last.ndim - 1} counts the images" in dataset.description
    assert "axis" not in expected.description
    if stream:
        assert found.train.fingerprint() != expected.train.fingerprint()
    assert path.exists()


def test_natural_images_stacked_along_the_last_axis_are_cut_into_patches(tmp_path):
    np.save(tmp_path / "a.npy", np.moveaxis(smooth(10, 128, 128), 0, -1))
    dataset = data.load(tmp_path / "a.npy", patches=(20, 5))
    assert "20 from 8 images, 5 held out from 2 others" in dataset.description


@pytest.mark.parametrize(
    ("array", "other"),
    [
        (RNG.random((28, 28, 20)), "20 images of 28×28"),
        (RNG.random((100, 130, 9)), "9 images of 100×130"),
        (np.moveaxis(smooth(40, 60, 70), 0, -1), "40 images of 60×70, as their smoothness says"),
        (RNG.random((48, 64, 3)), "one image of 3 colour"),
        (RNG.random((64, 1000)), "1000 samples of 8×8 pixels, one a column"),
        (RNG.random((40, 40, 3, 1)), "1 images of 40×40 in 3 colour"),
        (RNG.random((40, 50, 3, 4)), "4 images of 40×50 in 3 colour"),
        (RNG.random((100, 90, 5, 1)), "5 images of 100×90 in 1 colour"),
        (RNG.random((28, 28, 20, 3)), "20 images of 28×28 in 3 colour"),
    ],
    ids=[
        "square",
        "elongated",
        "smooth",
        "one image",
        "columns",
        "one colour image",
        "four colour images",
        "grey behind",
        "colours behind",
    ],
)
def test_a_shape_that_leaves_doubt_is_refused_with_the_argument_to_give(tmp_path, array, other):
    np.savez(tmp_path / "a.npz", x=array)
    message = rf"a\.npz:x has shape .*{other}.*axis=-[12] \(--axis 0"
    with pytest.raises(ValueError, match=message) as error:
        data.load(tmp_path / "a.npz")
    last = -2 if "axis=-2" in str(error.value) else -1
    for axis, count in ((0, len(array)), (last, array.shape[last])):
        dataset = data.load(tmp_path / "a.npz", axis=axis, treat="samples", hold_out=False)
        assert len(dataset.test) == count


@pytest.mark.parametrize("shape", [(90, 130), (128, 128), (64, 64)])
def test_one_image_is_not_taken_for_its_rows(tmp_path, shape):
    (image,) = smooth(1, *shape)
    np.save(tmp_path / "a.npy", (255 * image).astype(np.uint8))
    with pytest.raises(ValueError, match=r"a\.npy has shape .* looks like one image: .*--axis 0"):
        data.load(tmp_path / "a.npy")
    assert len(data.load(tmp_path / "a.npy", axis=0, hold_out=False).test) == shape[0]
    np.save(tmp_path / "b.npy", image[None])
    assert data.load(tmp_path / "b.npy", hold_out=False, treat="samples").shape == shape


@pytest.mark.parametrize(
    "shape",
    [(20, 9, 7), (20, 4, 5), (5, 60, 60), (20, 20, 20), (500, 40, 4), (20, 63), (100, 150)],
)
def test_images_counted_by_the_first_axis_need_no_argument(tmp_path, shape):
    np.save(tmp_path / "a.npy", RNG.random(shape))
    assert len(data.load(tmp_path / "a.npy", hold_out=False, treat="samples").test) == shape[0]


@pytest.mark.parametrize("make", [lambda: smooth(40, 60, 70), lambda: smooth(40, 30, 20)[:, :9]])
def test_smooth_images_and_films_need_no_argument(tmp_path, make):
    images = make()
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "film.npy", np.linspace(images[0], images[1], 40))
    for name in ("a", "film"):
        dataset = data.load(tmp_path / f"{name}.npy", hold_out=False, treat="samples")
        assert len(dataset.test) == 40
    flat = np.linspace(images[0], images[1], 40)[:, :8, :8].reshape(40, 64)
    np.save(tmp_path / "flat.npy", flat)
    assert len(data.load(tmp_path / "flat.npy", hold_out=False).test) == 40


@pytest.mark.parametrize(
    ("shape", "size"),
    [((10, 1, 4, 4), 16), ((10, 4, 4, 1), 16), ((10, 3, 4, 4), 16), ((10, 4, 4, 3), 16)],
)
def test_colours_first_or_last_of_small_square_images(tmp_path, shape, size):
    np.save(tmp_path / "a.npy", RNG.random(shape))
    assert data.load(tmp_path / "a.npy").train.shape == (8, size)


@pytest.mark.parametrize("shape", [(3, 8, 8, 50), (10, 4, 4, 4), (10, 8, 8, 2), (2, 2, 2, 2, 2)])
def test_other_shapes_are_refused_with_the_argument_to_give(tmp_path, shape):
    np.save(tmp_path / "a.npy", RNG.random(shape))
    with pytest.raises(ValueError, match=r"a\.npy has shape .*name it: axis=-1"):
        data.load(tmp_path / "a.npy")


@pytest.mark.parametrize("axis", [-5, 3, 1.5, "last"])
def test_an_axis_that_is_not_there_is_refused(tmp_path, axis):
    np.save(tmp_path / "a.npy", RNG.random((20, 9, 7)))
    with pytest.raises((ValueError, TypeError), match="axis"):
        data.load(tmp_path / "a.npy", axis=axis)
