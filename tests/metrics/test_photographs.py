"""Entropy against a count of bits, PSNR and SSIM against their definitions."""

import collections
import math

import pytest
import torch

from ipvae_snn import metrics


def test_entropy_is_that_of_the_histogram_of_each_feature():
    spk = torch.poisson(torch.tensor([0.1, 1.0, 5.0])[:, None, None].expand(3, 9, 7).contiguous())
    bits = 0.0
    for feature in spk:
        values = feature.flatten().tolist()
        for count in collections.Counter(values).values():
            bits += count * math.log2(len(values) / count)
    assert float(metrics.entropy(spk, 0)) == pytest.approx(bits)
    assert float(metrics.entropy(spk.movedim(0, -1))) == pytest.approx(bits)


def test_entropy_of_silence_and_of_one_value_is_nothing():
    assert metrics.entropy(torch.zeros(2, 5), 0) == 0
    assert metrics.entropy(torch.full((2, 5), 7.0), 0) == 0


@pytest.mark.parametrize("spk", [torch.tensor([[0.5, 1.0]]), torch.tensor([[-1.0, 1.0]])])
def test_what_is_no_count_is_refused(spk):
    with pytest.raises(ValueError, match="counts"):
        metrics.entropy(spk, 0)


def test_entropy_refuses_a_dimension_that_is_not_there():
    with pytest.raises(ValueError, match="dimension"):
        metrics.entropy(torch.zeros(2, 5), 2)


def test_psnr_and_ssim():
    pytest.importorskip("skimage")
    image = torch.rand(3, 20, 24)
    noisy = image + 0.05 * torch.randn(image.shape)
    error = float((image - noisy.clamp(0, 1)).square().mean())
    assert metrics.psnr(image, noisy) == pytest.approx(-10 * math.log10(error), abs=1e-3)
    assert metrics.psnr(image, image) == math.inf
    assert metrics.ssim(image, image) == pytest.approx(1)
    assert 0 < metrics.ssim(image, noisy) < 1
    with pytest.raises(ValueError, match="7×7"):
        metrics.ssim(image[:, :5], image[:, :5])
    with pytest.raises(ValueError, match="one shape"):
        metrics.psnr(image, image[:1])
