"""What was not seen is filled in, with an interval."""

import math

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, fit, metrics
from ipvae_snn.baselines import LCA
from ipvae_snn.models import Bernoulli, ConvIPVAE, impute
from ipvae_snn.models.imputation import _between

M, K, SIGMA = 20, 6, 0.3


def known(count=400):
    """A model with the features and the σ of its data, and these with a third missing."""
    torch.manual_seed(0)
    features = torch.rand(M, K) * (torch.rand(M, K) > 0.5)
    model = IPVAE(M, K, step=0.02, clamp=4.0, bias=1e-6).eval()
    with torch.no_grad():
        model.decoder.weight.copy_(features)
        model.neuron.mem_init.fill_(0.7)
        model.neuron.lateral.log_scale.fill_(math.log(SIGMA))
    x = torch.poisson(torch.full((count, K), 2.0)) @ features.mT
    x = x + SIGMA * torch.randn(count, M)
    lost = torch.rand(count, M) < 1 / 3
    return model, x, lost


def test_the_mean_is_near_and_the_interval_holds_what_it_says():
    model, x, lost = known()
    filled = impute(model, x.masked_fill(lost, math.nan), num_steps=400, seed=0)
    torch.testing.assert_close(filled.x[~lost], x[~lost], rtol=0, atol=0)
    torch.testing.assert_close(filled.x[lost], filled.mean[lost], rtol=0, atol=0)
    error = (filled.mean - x)[lost].square().mean()
    assert error < 0.4 * (x - x.mean(0))[lost].square().mean()
    inside = ((x > filled.low) & (x < filled.high))[lost].float().mean()
    assert 0.86 < inside < 0.94
    assert metrics.r2(x, filled.x, lost) > 0.5


@pytest.mark.parametrize("wrong", [0.2, 5.0])
def test_calibration_makes_up_for_a_wrong_sigma(wrong):
    model, x, _ = known()
    with torch.no_grad():
        model.neuron.lateral.log_scale.add_(math.log(wrong))
    # Seeded like the draws: what is hidden must not be what the mask is made of.
    lost = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 1 / 3
    filled, plain = (
        impute(model, x, ~lost, num_steps=100, draws=32, calibrate=calibrate, seed=0)
        for calibrate in (True, False)
    )
    inside, plain_inside = (
        float(((x > out.low) & (x < out.high))[lost].float().mean()) for out in (filled, plain)
    )
    assert 0.86 < inside < 0.94
    assert abs(plain_inside - 0.9) > 0.06
    assert plain.stretch == 1
    assert filled.stretch != 1


def test_complete_samples_make_intervals_right_for_what_is_never_seen():
    """The last values are missing of all: the others tell nothing of them."""
    model, x, _ = known()
    x = x.clone()
    x[:, -3:] += 3 * torch.randn(len(x), 3, generator=torch.Generator().manual_seed(8))
    seen = torch.arange(M) < M - 3
    new, complete = x[: len(x) // 2], x[len(x) // 2 :]
    inside = []
    for calibrate in (True, complete):
        out = impute(model, new, seen, num_steps=60, draws=24, calibrate=calibrate, seed=0)
        within = (new >= out.low) & (new <= out.high)
        inside.append(float(within[:, ~seen].float().mean()))
    assert inside[0] < 0.8
    assert 0.86 < inside[1] < 0.94
    for wrong, error in ((complete[:, 1:], ValueError), (complete.long(), TypeError),
                         (complete[:0], ValueError), (complete / 0, ValueError)):  # fmt: skip
        with pytest.raises(error, match="calibrate"):
            impute(model, new, seen, num_steps=2, draws=2, calibrate=wrong)


@pytest.mark.parametrize("shown", [1, 3, 8])
def test_few_seen_values_make_no_interval_narrower(shown):
    """A few tell nothing about a share of nine tenths."""
    model, x, _ = known(20)
    seen = torch.arange(M)[None] < shown
    for seed, row in enumerate(x):
        assert impute(model, row[None], seen, num_steps=20, draws=16, seed=seed).stretch >= 1


def test_two_draws_that_agree_make_no_interval_without_bound():
    model, x, lost = known(100)
    filled = impute(model, x, ~lost, num_steps=50, draws=2, seed=0)
    assert filled.stretch < 20
    assert (filled.high - filled.low).max() < 1000
    inside = ((x > filled.low) & (x < filled.high))[lost].float().mean()
    assert 0.85 < inside < 0.95


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="of shape \\(N, M\\)"):
        impute(IPVAE(M, K), torch.rand(0, M))


def test_an_input_without_seen_values_has_no_calibration():
    filled = impute(IPVAE(M, K), torch.full((1, M), math.nan), num_steps=5, draws=4)
    assert filled.stretch == 1
    assert all(part.isfinite().all() for part in filled[:4])


def test_levels_are_nested_and_draws_are_seeded():
    model, x, lost = known(20)
    options = {"num_steps": 50, "draws": 40, "calibrate": False, "seed": 3}
    narrow, wide = (impute(model, x, ~lost, level=level, **options) for level in (0.5, 0.95))
    assert (wide.low <= narrow.low).all()
    assert (wide.high >= narrow.high).all()
    again = impute(model, x, ~lost, level=0.5, **options)
    assert all(torch.equal(a, b) for a, b in zip(narrow[:4], again[:4], strict=True))
    bare = impute(model, x, ~lost, noise=False, **options)
    assert bare.stretch == 1
    assert (bare.high - bare.low).mean() < (wide.high - wide.low).mean()


def test_large_sets_are_inferred_in_parts(monkeypatch):
    model, x, lost = known(7)
    whole = impute(model, x, ~lost, num_steps=9, draws=4, seed=0)
    monkeypatch.setattr("ipvae_snn.models.imputation.TOGETHER", 2 * 4 * M)
    parts = impute(model, x, ~lost, num_steps=9, draws=4, seed=0)
    torch.testing.assert_close(parts.x[~lost], whole.x[~lost])
    assert parts.mean.shape == whole.mean.shape == x.shape


def test_quantiles_are_those_of_torch():
    torch.manual_seed(0)
    values = torch.randn(37, 5)
    for share in (0.0, 0.05, 0.5, 0.95, 1.0):
        expected = values.quantile(share, dim=0)
        torch.testing.assert_close(_between(values.sort(0).values, share), expected)


def test_images_are_filled_in():
    torch.manual_seed(0)
    model = ConvIPVAE(2, 3, 4, 2).eval()
    x = torch.randn(3, 2, 9, 7)
    x[:, :, 3:5, 2:4] = math.nan
    filled = impute(model, x, num_steps=5, draws=4)
    assert all(part.shape == x.shape and part.isfinite().all() for part in filled[:4])
    assert torch.equal(filled.x[:, :, 0], x[:, :, 0])


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"draws": 1}, ValueError, "draws"),
        ({"level": 1.0}, ValueError, "level"),
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"noise": 1}, TypeError, "noise"),
        ({"calibrate": 1}, TypeError, "calibrate"),
        ({"mask": torch.ones(3)}, ValueError, "broadcast"),
    ],
)
def test_bad_options_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        impute(IPVAE(M, K), torch.rand(2, M), **options)


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="an IPVAE or a ConvIPVAE, got LCA"):
        impute(LCA(M, K), torch.rand(2, M))


def test_binary_pixels_are_filled_in():
    """Two kinds of images, of which a half tells the other."""
    torch.manual_seed(0)
    x = torch.cat([torch.ones(40, 4), torch.zeros(40, 4)]).repeat(1, 2)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8))
    model = IPVAE(8, 3, decoder=network, likelihood=Bernoulli())
    fit(model, x, TrainConfig(iterations=150, batch=40, steps=8, lr=2e-2, beta=0.1, progress=False))
    mask = torch.ones(8)
    mask[4:] = 0
    filled = impute(model, x, mask, num_steps=50, draws=16, calibrate=False, seed=0)
    assert torch.equal(filled.x[:, :4], x[:, :4])
    assert ((filled.x[:, 4:] > 0.5) == (x[:, 4:] > 0.5)).float().mean() > 0.95
    assert ((filled.mean >= 0) & (filled.mean <= 1)).all()
    assert ((filled.low <= filled.mean) & (filled.mean <= filled.high)).all()


def test_a_film_is_refused():
    with pytest.raises(ValueError, match="samples that stay"):
        impute(IPVAE(M, K), torch.rand(4, 2, M))


@pytest.mark.parametrize("kind", ["flat", "map"])
def test_samples_that_diverge_are_inferred_more_slowly(kind):
    torch.manual_seed(0)
    if kind == "flat":
        model, x = IPVAE(16, 32, step=0.8, clamp=10.0), 4 * torch.randn(6, 16)
    else:
        model, x = ConvIPVAE(1, 8, 4, 2, step=0.8, clamp=10.0), 4 * torch.randn(6, 1, 8, 8)
    with torch.no_grad():
        model.decoder.weight.normal_(std=0.4)
    mask = (torch.rand(x.shape) < 0.7).float()
    before = model.neuron.log_step.detach().clone()
    filled = impute(model, x, mask, num_steps=100, draws=16, calibrate=False, seed=0)
    assert torch.equal(model.neuron.log_step, before)
    spk = model.run(x, 100, record=(), mask=mask, seed=0).state.spk
    plain = model.reconstruct(spk, x)

    def left(values):
        return (mask * (x - values).square()).flatten(1).sum(1)

    silent = left(torch.zeros_like(x))
    assert (left(plain) > silent).any()  # it does diverge
    assert (left(filled.mean) <= silent).all()
