"""Crops of whole images: each number its crop, evenly over all images, resumable."""

import pytest
import torch

from ipvae_snn.data import Crops


def numbered(height, width, first):
    """An image whose every pixel has a value of its own."""
    return (first + torch.arange(height * width, dtype=torch.float64)).view(1, height, width)


def test_a_number_gives_the_same_crop_in_any_batch():
    crops = Crops(torch.rand(3, 2, 20, 30), (8, 10), count=50)
    rows = torch.tensor([4, 17, 4])
    found = crops.read(rows)
    assert found.shape == (3, 2, 8, 10)
    assert torch.equal(found[0], found[2])
    assert torch.equal(crops.read(torch.tensor([17]))[0], found[1])
    assert not torch.equal(Crops(crops.images, (8, 10), seed=1).read(rows), found)


def test_crops_are_parts_of_their_images_and_cover_them():
    images = [numbered(9, 12, 0), numbered(30, 24, 1000)]
    crops = Crops(images, 4, count=3000).read(torch.arange(3000))[:, 0]
    assert (crops[:, 0, 1:] - crops[:, 0, :-1] == 1).all()
    seen = set(crops.flatten().tolist())
    assert seen == {*range(108), *range(1000, 1720)}
    share = float((crops[:, 0, 0] < 1000).double().mean())
    assert share == pytest.approx(108 / 828, abs=0.03)


def test_the_whole_image_is_a_crop():
    image = torch.rand(3, 8, 8)
    assert torch.equal(Crops([image], 8).read(torch.tensor([3]))[0], image)


def test_fingerprints_tell_them_apart():
    images = torch.rand(2, 1, 10, 10)
    made = [Crops(images, 4), Crops(images, 5), Crops(images, 4, seed=1), Crops(images + 1, 4)]
    assert len({crops.fingerprint() for crops in made}) == 4
    assert Crops(images.clone(), 4).fingerprint() == made[0].fingerprint()


@pytest.mark.parametrize(
    ("images", "size", "error", "says"),
    [
        ([], 4, ValueError, "at least one"),
        ([torch.rand(1, 8, 8), torch.rand(3, 8, 8)], 4, ValueError, "one C"),
        ([torch.rand(8, 8)], 4, ValueError, r"\(C, H, W\)"),
        ([torch.rand(1, 8, 3)], 4, ValueError, "smaller"),
        ([torch.ones(1, 8, 8).long()], 4, TypeError, "floating"),
        ([torch.full((1, 8, 8), torch.nan)], 4, ValueError, "NaN"),
        ([torch.rand(1, 8, 8)], 0, ValueError, "size"),
    ],
)
def test_bad_images_are_refused(images, size, error, says):
    with pytest.raises(error, match=says):
        Crops(images, size)
