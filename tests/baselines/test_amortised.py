"""Amortised and hybrid baselines against exact posteriors, enumeration and autograd."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, Poisson, kl_divergence

from ipvae_snn import functional as F
from ipvae_snn.baselines import GaussianVAE, IterativeAmortisedVAE, PoissonVAE, SemiAmortisedVAE
from ipvae_snn.baselines.encoders import ENCODERS, make_encoder
from ipvae_snn.neurons.base import State

M, K, B = 12, 4, 5


def orthogonal_features():
    """Orthogonal features of different norms, for which the posterior factorises."""
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(M, K, generator=generator, dtype=torch.float64)).Q
    return basis * torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)


def with_exact_encoder(cls):
    """A model whose linear encoder is the exact posterior of N(Φz, 1) with prior N(0, 1)."""
    model = cls(M, K, encoder="linear").double()
    weight = orthogonal_features()
    precision = 1 + weight.square().sum(0)
    log_std = -0.5 * precision.log()
    with torch.no_grad():
        model.decoder.weight.copy_(weight)
        model.encoder.weight.zero_()
        model.encoder.weight[:K] = (weight / precision).T
        model.encoder.bias.zero_()
        model.encoder.bias[K:] = 2 * torch.atanh(log_std / 2)  # inverse of the bound on log_std
    return model, weight, precision


@pytest.mark.slow
def test_with_the_exact_posterior_the_free_energy_is_the_evidence():
    torch.manual_seed(0)
    model, weight, _ = with_exact_encoder(GaussianVAE)
    x = torch.randn(B, M, dtype=torch.float64)
    identity = torch.eye(M, dtype=torch.float64)
    evidence = MultivariateNormal(torch.zeros(M).double(), weight @ weight.T + identity).log_prob(x)
    with torch.no_grad():
        out = model.run(x, 20_000, record=("nll", "kl"), seed=0)
    nll, error = out.nll.mean(0), out.nll.std(0) / 20_000**0.5
    assert ((nll + out.kl[0] + evidence).abs() < 5 * error).all()


@pytest.mark.slow
def test_free_energy_of_counts_equals_the_exhaustive_sum():
    torch.manual_seed(0)
    model = PoissonVAE(M, 2, encoder="linear", init_std=0.5).double()
    x = torch.rand(1, M, dtype=torch.float64)
    with torch.no_grad():
        mem = model.sense(x)
        counts = torch.cartesian_prod(torch.arange(30.0), torch.arange(30.0)).double()
        probability = Poisson(mem.exp()).log_prob(counts).sum(-1).exp()
        prior = Poisson(model.mem_init.exp())
        nll = F.gaussian_nll(x - model.decode(counts), model.log_scale)
        evidence = torch.logsumexp(prior.log_prob(counts).sum(-1) - nll, 0)
        out = model.run(x, 20_000, record=("nll", "kl"), seed=0)
    assert float(probability.sum()) == pytest.approx(1, abs=1e-9)
    expected = float((probability * nll).sum())
    error = float(out.nll.std()) / 20_000**0.5
    assert abs(float(out.nll.mean()) - expected) < 5 * error
    divergence = kl_divergence(Poisson(mem.exp()), prior).sum()
    torch.testing.assert_close(out.kl[0, 0], divergence)
    assert expected + float(divergence) >= -float(evidence)


def test_pvae_counts_are_integers_and_their_gradient_reaches_the_encoder():
    model = PoissonVAE(M, K, encoder="mlp", width=32)
    out = model.train().run(torch.rand(B, M), 1)
    assert torch.equal(out.spk, out.spk.round())
    F.free_energy(out.nll, out.kl, 1.0, M).backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in model.parameters())


@pytest.mark.parametrize("kind", [IterativeAmortisedVAE, SemiAmortisedVAE])
@pytest.mark.parametrize("relu", [False, True])
def test_refinement_gradient_equals_autograd(kind, relu):
    torch.manual_seed(0)
    model = kind(M, K, relu=relu, width=32, init_std=0.5).double()
    x = torch.randn(B, M, dtype=torch.float64)
    parts = (0.5 * torch.randn(3, B, K, dtype=torch.float64)).unbind()
    mean, log_std, noise = (part.requires_grad_() for part in parts)
    code = model.code(mean + log_std.exp() * noise)
    nll = F.gaussian_nll(x - model.decode(code), model.log_scale).sum()
    expected = torch.autograd.grad(nll, (mean, log_std))
    state = State(code, torch.cat([mean, log_std, noise], -1))
    drive = F.drive(x, model.weight, model.log_scale)
    torch.testing.assert_close(model.gradient(model.shared()(drive, state.spk), state), expected)


def test_a_semi_amortised_timestep_is_gradient_descent_on_the_free_energy():
    torch.manual_seed(0)
    model = SemiAmortisedVAE(M, K, width=32, init_std=0.3, beta=0.7, step=1e-3).double()
    x = torch.randn(B, M, dtype=torch.float64) / 5
    with torch.no_grad():
        state, _ = model.advance(model.sense(x), model.start(model.sense(x)), model.shared())
        after, _ = model.advance(model.sense(x), state, model.shared())
    mean, log_std, noise = (part.detach() for part in state.mem.tensor_split(3, -1))
    mean, log_std = mean.requires_grad_(), log_std.requires_grad_()
    nll = F.gaussian_nll(x - model.decode(mean + log_std.exp() * noise), model.log_scale)
    kl = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(-1)
    gradients = torch.autograd.grad((nll + 0.7 * kl).sum(), (mean, log_std))
    norm = torch.cat(gradients, -1).norm(dim=-1, keepdim=True)
    scale = (5 / norm).clamp(max=1)
    new_mean, new_log_std, _ = after.mem.tensor_split(3, -1)
    expected_mean = 30 * torch.tanh((mean - 1e-3 * scale * gradients[0]) / 30)
    expected_log_std = 3 * torch.tanh((log_std - 1e-3 * scale * gradients[1]) / 3)
    torch.testing.assert_close(new_mean, expected_mean.detach())
    torch.testing.assert_close(new_log_std, expected_log_std.detach())


def test_the_first_semi_amortised_timestep_equals_the_amortised_model():
    torch.manual_seed(0)
    semi, amortised = SemiAmortisedVAE(M, K, width=32), GaussianVAE(M, K, width=32)
    amortised.load_state_dict({k: v for k, v in semi.state_dict().items() if k != "log_step"})
    x = torch.rand(B, M)
    first, whole = semi.run(x, 1, seed=0), amortised.run(x, 1, seed=0)
    for name in ("spk", "nll", "kl"):
        assert torch.equal(getattr(first, name), getattr(whole, name))


def test_semi_amortised_inference_converges_to_the_exact_posterior_from_a_wrong_guess():
    torch.manual_seed(0)
    model, weight, precision = with_exact_encoder(SemiAmortisedVAE)
    x = torch.randn(200, M, dtype=torch.float64) / 2
    with torch.no_grad():
        model.encoder.weight.zero_()  # the guess does not depend on the input
        model.log_step.fill_(-4.0)  # so that clipping is rare
        out = model.run(x, 2000, record=("mem", "nll", "kl"), seed=0)
    mean, log_std, _ = out.mem[-1000:].mean(0).tensor_split(3, -1)
    exact = x @ weight / precision
    assert float((mean - exact).square().mean() / exact.square().mean()) < 0.01
    torch.testing.assert_close(log_std.mean(0), -0.5 * precision.log(), atol=0.1, rtol=0)
    energy = (out.nll + out.kl).mean(1)
    identity = torch.eye(M, dtype=torch.float64)
    exact = MultivariateNormal(torch.zeros(M).double(), weight @ weight.T + identity)
    floor = -float(exact.log_prob(x).mean())
    assert float(energy[0] - floor) > 0.05 > abs(float(energy[-300:].mean() - floor))


def test_iterative_amortised_inference_with_closed_gates_keeps_its_initial_state():
    model = IterativeAmortisedVAE(M, K, width=32)
    with torch.no_grad():
        model.network[-1].weight.zero_()
        model.network[-1].bias[2 * K :] = 100.0
    mean, log_std, _ = model.run(torch.rand(B, M), 3, record="mem").mem[-1].tensor_split(3, -1)
    assert not mean.any()
    assert not log_std.any()


def test_no_gradient_flows_between_refinements():
    model = IterativeAmortisedVAE(M, K, width=32)
    sensed, shared = model.sense(torch.rand(B, M)), model.shared()
    state, _ = model.advance(sensed, model.start(sensed), shared)
    state.mem.retain_grad()
    after, kl = model.advance(sensed, state, shared)
    (after.spk.sum() + kl.sum()).backward()
    assert state.mem.grad is None


def test_encoder_output_shapes_and_invalid_options():
    for kind in ENCODERS:
        network = make_encoder(kind, 7 * 9, 10, width=32, image_shape=(7, 9))
        assert network(torch.rand(B, 63)).shape == (B, 10)
    with pytest.raises(ValueError, match="encoder must be one of linear, mlp, conv, got 'deep'"):
        make_encoder("deep", 63, 10)
    with pytest.raises(ValueError, match="needs image_shape"):
        GaussianVAE(63, 10, encoder="conv")
    with pytest.raises(ValueError, match="width must be at least 16"):
        PoissonVAE(63, 10, width=8)
