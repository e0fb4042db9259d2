"""Whitening: exact inverse, a flat spectrum, independent colours, files."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from ipvae_snn.models.whitening import LEAST, LOWEST, WHITENINGS, Whitening


def photographs(count=3, channels=1, size=(60, 80), slope=1.2, dtype=torch.float64):
    """Random images whose amplitudes fall as f^-slope, with correlated channels."""
    random = np.random.default_rng(0)
    f = np.hypot(np.arange(size[0])[:, None] / (2 * size[0]), np.arange(size[1]) / (2 * size[1]))
    f[0, 0] = f[0, 1]
    noise = random.standard_normal((count, channels, *size))
    images = idctn(noise * f**-slope, axes=(-2, -1), norm="ortho")
    mixing = np.eye(channels) + 0.8
    images = np.einsum("dc,nchw->ndhw", mixing, images)
    return torch.from_numpy(0.5 + 0.1 * images / images.std()).to(dtype)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (20, 33), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_inverse_is_exact(channels, size):
    whitening = Whitening.fit(photographs(channels=channels))
    images = torch.rand(2, channels, *size, dtype=torch.float64)
    torch.testing.assert_close(whitening.inverse(whitening(images)), images, rtol=0, atol=1e-10)
    single = images.float()
    torch.testing.assert_close(whitening.inverse(whitening(single)), single, rtol=0, atol=1e-3)


def test_it_multiplies_the_coefficients_of_the_cosine_transform():
    whitening = Whitening([[2.0]], [0.3], slope=1.1, cutoff=0.4)
    image = torch.rand(1, 12, 17, dtype=torch.float64)
    f = np.hypot(np.arange(12)[:, None] / 24, np.arange(17) / 34)
    gain = (f**2 + LOWEST**2) ** 0.55 * np.maximum(np.exp(-((f / 0.4) ** 4)), LEAST)
    expected = 2 * idctn(dctn(image[0].numpy() - 0.3, norm="ortho") * gain, norm="ortho")
    np.testing.assert_allclose(whitening(image)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("slope", [0.8, 1.2])
def test_it_finds_the_slope(slope):
    assert Whitening.fit(photographs(slope=slope)).slope == pytest.approx(slope, abs=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_values_have_unit_variance_and_channels_are_uncorrelated(channels):
    images = photographs(channels=channels, count=6)
    rows = Whitening.fit(images)(images).movedim(1, 0).flatten(1)
    covariance = rows @ rows.mT / rows.shape[1]
    torch.testing.assert_close(covariance, torch.eye(channels).double(), rtol=0, atol=1e-6)


def test_images_of_different_sizes():
    images = [photographs(size=size)[0] for size in ((40, 50), (64, 30))]
    assert Whitening.fit(images)(images[1]).shape == (1, 64, 30)


def test_it_is_plain_data():
    whitening = Whitening.fit(photographs(channels=3))
    again = WHITENINGS.from_config(WHITENINGS.to_config(whitening))
    images = torch.rand(2, 3, 9, 9)
    assert torch.equal(again(images), whitening(images))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: Whitening.fit([]), ValueError, "at least one"),
        (lambda: Whitening.fit(torch.full((2, 1, 9, 9), 0.5)), ValueError, "contrast"),
        (lambda: Whitening.fit([torch.rand(1, 9, 9), torch.rand(3, 9, 9)]), ValueError, "channels"),
        (lambda: Whitening.fit(torch.ones(2, 1, 9, 9).long()), TypeError, "floating"),
        (lambda: Whitening.fit(torch.rand(2, 9, 9)), ValueError, r"\(C, H, W\)"),
        (lambda: Whitening([[1.0, 0.0]], [0.0]), ValueError, "as many rows"),
        (lambda: Whitening([[1.0, 1.0], [1.0, 1.0]], [0.0, 0.0]), ValueError, "inverse"),
        (lambda: Whitening([[1.0]], [0.0])(torch.rand(2, 3, 8, 8)), ValueError, "shape"),
        (lambda: Whitening([[1.0]], [0.0])(torch.full((1, 8, 8), torch.nan)), ValueError, "NaN"),
    ],
)
def test_what_cannot_be_whitened_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
