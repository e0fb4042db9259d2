"""Metrics of constant samples and of half precision stay finite."""

import pytest
import torch

from ipvae_snn import metrics


@pytest.mark.parametrize("level", [k / 255 for k in range(0, 256, 7)])
def test_r2_of_constant_samples_is_0_or_1(level):
    blank = torch.full((1, 784), level)
    assert metrics.r2(blank, torch.zeros(1, 784)).item() in (0.0, 1.0)


def test_lifetime_sparsity_in_half_precision_does_not_overflow():
    sparsity = metrics.lifetime_sparsity(torch.full((100, 4), 50.0).half())
    assert sparsity.item() == pytest.approx(0, abs=1e-6)
