"""The iterative baselines against closed forms, autograd and an independent solver."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ipvae_snn import TrainConfig, evaluate, fit
from ipvae_snn import functional as F
from ipvae_snn.baselines import (
    IGVAE,
    LCA,
    GaussianVAE,
    IterativeAmortisedVAE,
    PoissonVAE,
    SemiAmortisedVAE,
)
from ipvae_snn.baselines.gaussian_code import gaussian_kl
from ipvae_snn.neurons.base import State

M, K, B = 12, 20, 5


def samples(count=200):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(M, 6, generator=generator)
    return torch.randn(count, 6, generator=generator) @ features.mT


@pytest.fixture
def igvae(request):
    torch.manual_seed(0)
    model = IGVAE(M, K, relu=getattr(request, "param", False), init_std=0.3).double()
    with torch.no_grad():
        model.mem_init.uniform_(-0.3, 0.3)
        model.raw_log_scale.uniform_(-0.3, 0.3)
    return model


BASELINES = {
    "iG": lambda: IGVAE(M, K),
    "iG-relu": lambda: IGVAE(M, K, relu=True),
    "LCA": lambda: LCA(M, K),
    "LCA, nonnegative": lambda: LCA(M, K, nonnegative=True),
    "VAE": lambda: GaussianVAE(M, K, encoder="mlp", width=32),
    "VAE, relu": lambda: GaussianVAE(M, K, encoder="linear", relu=True),
    "P-VAE": lambda: PoissonVAE(M, K, encoder="conv", width=32, image_shape=(3, 4)),
    "iterative-amortised": lambda: IterativeAmortisedVAE(M, K, width=32),
    "semi-amortised": lambda: SemiAmortisedVAE(M, K, width=32),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "VAE, relu" else []) for n in BASELINES],
)
def test_a_baseline_is_trained_and_evaluated_like_the_ipvae(name):
    torch.manual_seed(0)
    model, x = BASELINES[name](), samples()
    one_pass = isinstance(model, GaussianVAE | PoissonVAE)  # timesteps are draws of one posterior
    config = TrainConfig(
        iterations=400 if one_pass else 80,
        batch=20,
        steps=12,
        lr=1e-2,
        beta=1.0,
        beta_start=1.0,
        weight_decay=0.0,
        log_every=10,
        progress=False,
    )
    history = fit(model, x, config)
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert "clamp" not in history[0]
    result = evaluate(model, samples(), num_steps=40)
    assert result.at(40)["r2"] > (0.1 if isinstance(model, PoissonVAE) else 0.3)
    if not one_pass:
        assert result.at(40)["r2"] > result.at(1)["r2"]
    assert result.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", BASELINES)
def test_equal_seeds_give_equal_runs_whole_or_resumed(name):
    torch.manual_seed(0)
    model, x = BASELINES[name](), samples(B)
    whole = model.run(x, 10, seed=1)
    assert torch.equal(whole.spk, model.run(x, 10, seed=1).spk)
    assert whole.spk.shape == (10, B, K)
    assert whole.nll.shape == whole.kl.shape == (10, B)
    torch.manual_seed(3)
    first = model.run(x, 4)
    both = torch.cat([first.spk, model.run(x, 6, state=first.state).spk])
    torch.manual_seed(3)
    torch.testing.assert_close(both, model.run(x, 10).spk)
    assert torch.equal(model.run(x, 10, every=5, record="spk", seed=1).spk, whole.spk[4::5])


@pytest.mark.parametrize("igvae", [False, True], indirect=True, ids=["iG", "iG-relu"])
def test_a_gaussian_timestep_is_natural_gradient_descent(igvae):
    model, x = igvae, samples(B).double()
    parts = 0.4 * torch.randn(3, B, K, dtype=torch.float64)
    mean, log_std, noise = (part.requires_grad_() for part in parts.unbind())
    code = model.code(mean + log_std.exp() * noise)
    nll = F.gaussian_nll(x - model.decode(code), model.log_scale).sum()
    by_mean, by_log_std = torch.autograd.grad(nll, (mean, log_std), retain_graph=True)
    state = State(code, torch.cat([mean, log_std, noise], -1))
    with torch.no_grad():
        model.log_bias.fill_(-60)
        model.log_step.copy_(torch.tensor([1e-4, 2e-4]).log())  # so small that bounds are linear
        after, kl = model.advance(model.sense(x), state, model.shared())
    new_mean, new_log_std, _ = after.mem.tensor_split(3, -1)
    std = log_std.exp()

    def bounded(v, bound):
        return bound * torch.tanh(v / bound)

    expected_mean = bounded(mean - 1e-4 * std.square() * by_mean, 7.0)
    expected_log_std = bounded(log_std - 2e-4 * 0.5 * by_log_std, 2.0)
    torch.testing.assert_close(new_mean, expected_mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(new_log_std, expected_log_std, atol=1e-6, rtol=0)
    divergence = kl_divergence(Normal(new_mean, new_log_std.exp()), Normal(mean, std))
    torch.testing.assert_close(kl, divergence.sum(-1))


def test_gaussian_kl_equals_torch():
    mean, log_std, prior_mean, prior_log_std = torch.randn(4, 100, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(prior_mean, prior_log_std.exp()))
    torch.testing.assert_close(gaussian_kl(mean, log_std, prior_mean, prior_log_std), expected)


@pytest.mark.parametrize("igvae", [False, True], indirect=True, ids=["iG", "iG-relu"])
def test_mean_code_is_the_mean_of_draws(igvae):
    mem = torch.randn(1, 3 * K, dtype=torch.float64)
    mean, log_std, _ = mem.tensor_split(3, -1)
    draws = torch.randn(200_000, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if igvae.log_gain is not None:
            igvae.log_gain.uniform_(-0.5, 0.5)
        code = igvae.code(mean + log_std.exp() * draws)
        error = (code.mean(0) - igvae.mean_code(mem)[0]).abs()
        assert (error < 5 * code.std(0) / 200_000**0.5 + 1e-12).all()


def test_igvae_has_the_published_number_of_parameters_on_mnist():
    counts = [sum(p.numel() for p in IGVAE(784, 512, relu=r).parameters()) for r in (False, True)]
    assert counts == [403_730, 404_242]


@pytest.mark.parametrize("nonnegative", [False, True])
def test_lca_converges_to_the_minimum_of_the_lasso(nonnegative):
    torch.manual_seed(0)
    model = LCA(M, K, sparsity=0.3, nonnegative=nonnegative).double()
    x = samples(B).double() / 5
    out = model.run(x, 5000, record=("spk",), every=5000)
    code = out.spk[-1].detach()
    pull = ((x - model.decode(code)) @ model.weight).detach()  # −∂/∂a of ½‖x − Φa‖²
    active = code != 0
    assert 0 < active.sum() < active.numel() / 2
    torch.testing.assert_close(
        pull[active], model.sparsity * code.sign()[active], atol=1e-6, rtol=0
    )
    most = pull[~active] if nonnegative else pull[~active].abs()
    assert float(most.max()) <= model.sparsity + 1e-6
    assert not nonnegative or bool((code >= 0).all())


def test_lca_energy_falls():
    torch.manual_seed(0)
    model = LCA(M, K, sparsity=0.1)
    out = model.run(samples(B), 60, record=("nll", "kl"))
    energy = (out.nll + out.kl).detach().mean(1)
    assert (energy[5:].diff() <= 1e-4).all()


def test_bad_input_is_refused():
    model = LCA(M, K)
    for x, message in (
        (torch.rand(B, M + 1), r"x must have shape \(B, 12\)"),
        (torch.full((B, M), torch.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            model.run(x, 3)
    with pytest.raises(ValueError, match="num_steps must be given"):
        model.run(torch.rand(B, M))
    with pytest.raises(ValueError, match="changes over 3 timesteps"):
        model.run(torch.rand(3, B, M), 4)
    with pytest.raises(ValueError, match="sparsity must be a finite number"):
        LCA(M, K, sparsity=0)
