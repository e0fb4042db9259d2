"""Learning from data in which values are missing, coded as NaN."""

import math

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, fit, metrics
from ipvae_snn.baselines import LCA
from ipvae_snn.models import ConvIPVAE

M, K = 16, 8
CONFIG = TrainConfig(
    iterations=150,
    batch=20,
    steps=12,
    lr=3e-2,
    beta=0.1,
    log_every=10,
    progress=False,
    missing=True,
)


def toy(count=300, *, seed=0):
    """Sums of non-negative features, and the same with a third of the values missing."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(M, 4, generator=generator) * (torch.rand(M, 4, generator=generator) > 0.5)
    x = torch.poisson(torch.full((count, 4), 1.5), generator=generator) @ features.mT
    lost = torch.rand(count, M, generator=generator) < 1 / 3
    return x, x.masked_fill(lost, math.nan), lost


def test_a_model_learns_from_incomplete_data_and_fills_it_in():
    torch.manual_seed(0)
    x, incomplete, lost = toy()
    model = IPVAE(M, K, learn_scale=False, bias=0.01)
    history = fit(model, incomplete, CONFIG, validation=incomplete[:50])
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert history[-1]["r2_val"] > history[0]["r2_val"] + 0.3
    mem = model.run(incomplete, 100, record=("mem",), every=100, seed=0, mask="nan").mem[-1]
    x_hat = model.decode(mem.exp())
    assert metrics.r2(x, x_hat, lost) > metrics.r2(x, x.mean(0).expand_as(x), lost) + 1


def test_a_convolutional_model_learns_from_incomplete_images():
    torch.manual_seed(0)
    x = torch.rand(12, 1, 10, 10)
    x[:, :, 2:4, 2:4] = math.nan
    model = ConvIPVAE(1, 3, 4, 2)
    config = TrainConfig(iterations=3, batch=4, steps=4, log_every=1, progress=False, missing=True)
    history = fit(model, x, config, validation=x[:3])
    assert all(math.isfinite(value) for row in history for value in row.values())


def test_complete_data_teach_the_same():
    x, _, _ = toy()
    weights = []
    for missing in (False, True):
        torch.manual_seed(0)
        model = IPVAE(M, K, learn_scale=False).double()
        config = TrainConfig(iterations=5, batch=8, steps=6, progress=False, missing=missing)
        fit(model, x.double(), config)
        weights.append(model.weight)
    torch.testing.assert_close(*weights, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "missing", "says"),
    [(math.nan, False, "NaN"), (math.inf, True, "NaN or infinite"), (-math.inf, True, "infinite")],
)
def test_what_is_no_data_is_refused(change, missing, says):
    x, _, _ = toy()
    x[3, 2] = change
    model = IPVAE(M, K)
    before = model.weight.clone()
    config = TrainConfig(iterations=2, batch=4, steps=2, progress=False, missing=missing)
    with pytest.raises(ValueError, match=says):
        fit(model, x, config)
    assert torch.equal(model.weight, before)


def test_models_that_cannot_leave_values_out_are_refused():
    config = TrainConfig(iterations=2, batch=4, steps=2, progress=False, missing=True)
    with pytest.raises(ValueError, match="missing belongs to"):
        fit(LCA(M, K), toy()[1], config)
    with pytest.raises(TypeError, match="missing"):
        TrainConfig(missing="yes")


def test_r2_of_some_values():
    torch.manual_seed(0)
    x, x_hat, mask = torch.randn(5, 7), torch.randn(5, 7), torch.rand(5, 7) > 0.4
    mask[4] = False
    scores = [metrics.r2(a[None, m], b[None, m]) for a, b, m in zip(x, x_hat, mask, strict=True)
              if m.any()]  # fmt: skip
    assert metrics.r2(x, x_hat, mask) == pytest.approx(float(torch.stack(scores).mean()), rel=1e-5)
    assert metrics.r2(x, x_hat, torch.ones(5, 7)) == pytest.approx(float(metrics.r2(x, x_hat)))
    for bad in (torch.zeros(5, 7), torch.ones(5, 6)):
        with pytest.raises(ValueError, match="mask"):
            metrics.r2(x, x_hat, bad)
