"""A prior of settled codes: against sums over all codes, and SciPy's laws."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from ipvae_snn import IPVAE
from ipvae_snn.baselines import LCA, PoissonVAE
from ipvae_snn.models import (
    Bernoulli,
    CodePrior,
    ConvIPVAE,
    Gaussian,
    Likelihood,
    Poisson,
    interpolate,
)
from ipvae_snn.models.code_prior import LARGEST_SHAPE

M = 9


def known(latents, seed=0, sigma=0.6):
    """A small model, and samples of a law near its own."""
    torch.manual_seed(seed)
    model = IPVAE(M, latents, step=0.05, clamp=4.0, bias=1e-4).eval()
    with torch.no_grad():
        model.decoder.weight.copy_(torch.randn(M, latents))
        model.neuron.mem_init.fill_(-1.0)
        model.neuron.lateral.log_scale.fill_(math.log(sigma))
    z = torch.poisson(torch.full((300, latents), 0.6))
    return model, model.decode(z) + sigma * torch.randn(300, M)


def evidence(model, prior, x, most):
    """log Σ_z p(z) p(x | z) over all counts up to ``most``."""
    codes = torch.tensor(list(itertools.product(range(most + 1), repeat=model.latents))).float()
    x_hat, scale = codes @ model.decoder.weight.detach().mT, model.log_scale.exp()
    log_p = torch.distributions.Normal(x_hat, scale).log_prob(x).sum(-1)
    return torch.logsumexp(log_p.double() + prior.log_prob(codes), 0)


@pytest.mark.parametrize("latents", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("kind", ["poisson", "gamma"])
def test_the_bound_is_below_the_evidence_and_near(latents, kind):
    model, x = known(latents)
    prior = CodePrior.fit(model, x, kind=kind, num_steps=64, seed=0)
    exact = torch.stack([evidence(model, prior, row, {1: 30, 2: 20, 3: 12}.get(latents, 6))
                         for row in x[:10]])  # fmt: skip
    bound, error = prior.log_likelihood(model, x[:10], 1000, num_steps=200, seed=0)
    gap = exact - bound.double()
    assert (gap > -4 * error - 1e-3).all()
    assert abs(gap.mean()) < 0.05
    few = prior.log_likelihood(model, x[:10], 10, rounds=1, seed=0).log_likelihood
    assert few.mean() < bound.mean()


def test_the_bound_of_an_amortised_model_is_below_its_evidence_and_near():
    """Even with an encoder that has learned nothing: codes are looked for, too."""
    torch.manual_seed(3)
    model = PoissonVAE(M, 3, encoder="linear").eval()
    with torch.no_grad():
        model.decoder.weight.normal_()
        model.mem_init.fill_(-0.5)
        model.raw_log_scale.fill_(math.log(0.6))
    rate = model.mem_init.detach().exp()[None]
    learned = torch.full_like(rate, LARGEST_SHAPE), torch.ones(1), torch.zeros(1).long()
    prior = CodePrior(rate, *learned)
    x = model.decode(torch.poisson(rate.expand(10, 3))) + 0.6 * torch.randn(10, M)
    exact = torch.stack([evidence(model, prior, row, 12) for row in x])
    bound, error = prior.log_likelihood(model, x, 1000, num_steps=1, seed=0)
    gap = exact - bound.double()
    assert (gap > -4 * error - 1e-3).all()
    assert abs(gap.mean()) < 0.05
    assert CodePrior.fit(model, x, num_steps=1).rate.shape == (1, 3)


class Silent(Gaussian):
    """It says nothing of draws."""

    def __init__(self):
        super().__init__(M)

    draw = Likelihood.draw


@pytest.mark.parametrize("law", ["bernoulli", "poisson"])
def test_the_bound_under_another_decoder_is_below_the_evidence_and_near(law):
    torch.manual_seed(5)
    decoder = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, M))
    likelihood = Bernoulli() if law == "bernoulli" else Poisson()
    model = IPVAE(M, 3, decoder=decoder, likelihood=likelihood, step=0.05, clamp=4.0).eval()
    with torch.no_grad():
        decoder[2].weight.mul_(4)
        z = torch.poisson(torch.full((40, 3), 0.8))
        x = likelihood.draw(decoder(z))
        prior = CodePrior.fit(model, x, num_steps=64, seed=0)
        codes = torch.tensor(list(itertools.product(range(15), repeat=3))).float()
        eta = decoder(codes)
        exact = torch.stack(
            [torch.logsumexp(prior.log_prob(codes) - likelihood.nll(row, eta).double(), 0)
             for row in x[:10]]
        )  # fmt: skip
    bound, error = prior.log_likelihood(model, x[:10], 1000, num_steps=100, seed=0)
    gap = exact - bound.double()
    assert (gap > -4 * error - 1e-3).all()
    assert abs(gap.mean()) < 0.05


def test_laws_are_those_of_scipy():
    torch.manual_seed(0)
    rate, shape = torch.rand(2, 3) * 3 + 0.1, torch.rand(2, 3) * 2 + 0.2
    shape[1] = LARGEST_SHAPE
    weight, labels = torch.tensor([0.3, 0.7]), torch.tensor([4, 7])
    prior = CodePrior(rate, shape, weight, labels)
    spk = torch.poisson(torch.full((50, 3), 1.5))
    r, a, z = rate.double().numpy(), shape.double().numpy(), spk.numpy()
    first = stats.nbinom.logpmf(z, a[0], a[0] / (a[0] + r[0])).sum(-1)
    second = stats.poisson.logpmf(z, r[1]).sum(-1)
    expected = np.logaddexp(first + math.log(0.3), second + math.log(0.7))
    np.testing.assert_allclose(prior.log_prob(spk).numpy(), expected, rtol=1e-6)


def test_samples_have_the_moments_of_the_prior():
    model = IPVAE(M, 3, init_std=0.3)
    rate, shape = torch.tensor([[0.5, 2.0, 1.0]]), torch.tensor([[0.7, 3.0, LARGEST_SHAPE]])
    prior = CodePrior(rate, shape, torch.ones(1), torch.zeros(1, dtype=torch.int64))
    drawn = prior.sample(model, 40_000, seed=0)
    torch.testing.assert_close(drawn.spk.mean(0), rate[0], rtol=0.05, atol=0)
    variance = rate + rate**2 / shape
    torch.testing.assert_close(drawn.spk.var(0), variance[0], rtol=0.06, atol=0)
    torch.testing.assert_close(drawn.x, model.decode(drawn.spk))
    noisy = prior.sample(model, 40_000, seed=0, noise=True)
    assert torch.equal(noisy.spk, drawn.spk)
    scale = (noisy.x - drawn.x).std(0)
    torch.testing.assert_close(scale, model.log_scale.exp().detach(), rtol=0.03, atol=0)


def test_noise_is_that_of_the_pixels():
    prior = CodePrior(torch.ones(1, 3), torch.ones(1, 3), torch.ones(1), torch.zeros(1).long())
    model = IPVAE(M, 3, learn_scale=False)
    noisy, mean = (prior.sample(model, 20_000, seed=0, noise=noise).x for noise in (True, False))
    torch.testing.assert_close((noisy - mean).std(0), torch.ones(M), rtol=0.03, atol=0)
    binary = IPVAE(M, 3, likelihood=Bernoulli())
    drawn = prior.sample(binary, 20_000, seed=0, noise=True).x
    assert ((drawn == 0) | (drawn == 1)).all()
    mean = prior.sample(binary, 20_000, seed=0).x.mean(0)
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=0.02)
    with pytest.raises(TypeError, match="Silent does not say how to draw"):
        prior.sample(IPVAE(M, 3, likelihood=Silent()), 2, noise=True)


def test_classes_are_kept_apart():
    model, x = known(5)
    labels = (x[:, 0] > x[:, 0].median()).long() * 3 + 2
    prior = CodePrior.fit(model, x, labels, num_steps=64, seed=0)
    assert prior.labels.tolist() == [2, 5]
    low, high = (prior.sample(model, 500, label=label, seed=1) for label in (2, 5))
    assert (low.label == 2).all()
    assert low.x[:, 0].mean() < x[:, 0].median() < high.x[:, 0].mean()
    mixed = prior.sample(model, 500, seed=1).label
    assert 0.35 < (mixed == 2).float().mean() < 0.65
    one = CodePrior.fit(model, x, num_steps=64, seed=0)
    bounds = [p.log_likelihood(model, x[:50], 200, seed=0).log_likelihood for p in (prior, one)]
    assert bounds[0].mean() != bounds[1].mean()


def test_draws_are_seeded_and_leave_the_random_state():
    model, x = known(3)
    prior = CodePrior.fit(model, x, num_steps=8, seed=0)
    state = torch.get_rng_state()
    for call in (
        lambda seed: prior.sample(model, 5, seed=seed, noise=True).x,
        lambda seed: prior.log_likelihood(model, x[:3], 9, num_steps=8, seed=seed).log_likelihood,
        lambda seed: CodePrior.fit(model, x, num_steps=8, seed=seed).rate,
    ):
        assert torch.equal(call(3), call(3))
        assert not torch.equal(call(3), call(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_file_holds_it(tmp_path):
    model, x = known(3)
    prior = CodePrior.fit(model, x, torch.arange(300) % 3, num_steps=8, seed=0)
    prior.save(tmp_path / "prior.npz")
    back = CodePrior.load(tmp_path / "prior.npz")
    for name in ("rate", "shape", "weight", "labels"):
        assert torch.equal(getattr(back, name), getattr(prior, name))
    content = dict(np.load(tmp_path / "prior.npz"))
    for change in ({"rate": -content["rate"]}, {"labels": content["labels"][:1]}, {"weight": [1]},
                   {"shape": content["shape"] * math.nan}):  # fmt: skip
        np.savez(tmp_path / "bad.npz", **{**content, **change})
        with pytest.raises(ValueError, match="damaged"):
            CodePrior.load(tmp_path / "bad.npz")


def test_what_lies_between_begins_and_ends_with_the_inputs():
    model, x = known(4)
    between = interpolate(model, x[:2], x[2:4], 5, num_steps=50, seed=0)
    assert between.shape == (5, 2, M)
    middle = (between[0] + between[-1]) / 2
    assert (between[2] - middle).norm() < (between[0] - between[-1]).norm()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, p, x: CodePrior.fit(LCA(M, 3), x), TypeError, "model"),
        (lambda m, p, x: CodePrior.fit(ConvIPVAE(1, 2, 3, 1), x), TypeError, "flat Poisson counts"),
        (lambda m, p, x: CodePrior.fit(m, x, kind="normal"), ValueError, "kind"),
        (lambda m, p, x: CodePrior.fit(m, x, torch.arange(300)), ValueError, "two samples"),
        (lambda m, p, x: CodePrior.fit(m, x, torch.rand(300)), TypeError, "integers"),
        (lambda m, p, x: CodePrior.fit(m, x, torch.zeros(3).long()), ValueError, "shape"),
        (lambda m, p, x: p.sample(m, 0), ValueError, "count"),
        (lambda m, p, x: p.sample(m, 2, label=8), ValueError, "label must be one of"),
        (lambda m, p, x: p.sample(IPVAE(M, 4), 2), ValueError, "3 neurons"),
        (lambda m, p, x: p.log_likelihood(m, x, 1), ValueError, "draws"),
        (lambda m, p, x: interpolate(m, x, x[:2]), ValueError, "one shape"),
        (lambda m, p, x: interpolate(m, x, x, 1), ValueError, "points"),
    ],
)  # fmt: skip
def test_bad_calls_are_refused(call, error, says):
    model, x = known(3)
    prior = CodePrior.fit(model, x, num_steps=4, seed=0)
    with pytest.raises(error, match=says):
        call(model, prior, x)
