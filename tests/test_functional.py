"""The functions of the model against autograd, closed forms and torch.distributions, in float64."""

import math

import pytest
import torch
from torch.distributions import Poisson, kl_divergence

from ipvae_snn import functional as F

SHAPES = [(1, 1, 1), (3, 5, 4), (2, 4, 9)]


def problem(batch, pixels, latents):
    weight = torch.randn(pixels, latents, dtype=torch.float64)
    log_scale = 0.5 * torch.randn(pixels, dtype=torch.float64)
    x = torch.randn(batch, pixels, dtype=torch.float64)
    spk = torch.poisson(torch.rand(batch, latents, dtype=torch.float64) * 3)
    return x, weight, log_scale, spk


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaled", [True, False])
def test_gram_form_of_current_equals_residual_form(shape, scaled):
    x, weight, log_scale, spk = problem(*shape)
    log_scale = log_scale if scaled else None
    by_gram = F.drive(x, weight, log_scale) - spk @ F.gram(weight, log_scale)
    by_residual = F.drive(x - spk @ weight.mT, weight, log_scale)
    torch.testing.assert_close(by_gram, by_residual, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaled", [True, False])
def test_gram_form_of_nll_equals_residual_form_and_torch_normal(shape, scaled):
    x, weight, log_scale, spk = problem(*shape)
    log_scale = log_scale if scaled else None
    by_gram = F.gaussian_nll_gram(
        spk,
        spk @ F.gram(weight, log_scale),
        F.drive(x, weight, log_scale),
        F.input_energy(x, log_scale),
        F.nll_constant(x.shape[-1], log_scale),
    )
    mean = spk @ weight.mT
    scale = torch.ones(shape[1], dtype=torch.float64) if log_scale is None else log_scale.exp()
    by_torch = -torch.distributions.Normal(mean, scale).log_prob(x).sum(-1)
    torch.testing.assert_close(by_gram, by_torch, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(F.gaussian_nll(x - mean, log_scale), by_torch)


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_field_step_is_natural_gradient_descent_on_the_free_energy(shape):
    x, weight, log_scale, _ = problem(*shape)
    mem = torch.randn(shape[0], shape[2], dtype=torch.float64, requires_grad=True)
    bias = torch.rand(shape[2], dtype=torch.float64)
    rate = mem.exp()
    # b enters the free energy as a cost per spike.
    energy = F.gaussian_nll(x - rate @ weight.mT, log_scale) + (rate * bias).sum(-1)
    (gradient,) = torch.autograd.grad(energy.sum(), mem)
    stepped = F.membrane_step(
        mem, F.drive(x, weight, log_scale), rate @ F.gram(weight, log_scale), bias=bias
    )
    torch.testing.assert_close(stepped - mem, -gradient / rate, rtol=1e-10, atol=1e-10)


def test_leak_is_natural_gradient_descent_on_the_kl_to_the_prior():
    mem = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    prior = torch.randn(6, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(F.poisson_kl(mem, prior.expand(4, 6)).sum(), mem)
    zero = torch.zeros_like(mem)
    stepped = F.membrane_step(mem, zero, zero, step=0.5, leak=0.3, mem_rest=prior)
    torch.testing.assert_close(stepped - mem, -0.5 * 0.3 * gradient / mem.exp())


def test_rate_space_identity_divisive_normalisation():
    x, weight, log_scale, spk = problem(3, 5, 4)
    drive, inhibition = F.drive(x, weight, log_scale), spk @ F.gram(weight, log_scale)
    mem = torch.randn(3, 4, dtype=torch.float64)
    rate = F.membrane_step(mem, drive, inhibition).exp()
    torch.testing.assert_close(rate, mem.exp() * drive.exp() / inhibition.exp())


def test_kl_equals_torch_closed_form_and_sum_over_counts():
    mem, prior = torch.randn(2, 50, dtype=torch.float64) * 2
    by_torch = kl_divergence(Poisson(mem.exp()), Poisson(prior.exp()))
    torch.testing.assert_close(F.poisson_kl(mem, prior), by_torch, rtol=1e-10, atol=1e-10)
    counts = torch.arange(200, dtype=torch.float64)[:, None]
    log_p = Poisson(mem[:5].exp()).log_prob(counts)
    log_q = Poisson(prior[:5].exp()).log_prob(counts)
    by_sum = (log_p.exp() * (log_p - log_q)).sum(0)
    torch.testing.assert_close(F.poisson_kl(mem[:5], prior[:5]), by_sum, rtol=1e-8, atol=1e-8)


def test_kl_of_nearly_equal_rates_is_accurate():
    prior = torch.zeros(1)
    torch.testing.assert_close(
        F.poisson_kl(torch.tensor([1e-3]), prior), torch.tensor([5.0033e-7]), rtol=1e-3, atol=0
    )


def test_published_kl_is_the_closed_form_times_exp_delta():
    mem, prior = torch.tensor(0.9), torch.tensor(0.3)
    ratio = F.poisson_kl(mem, prior, form="published") / F.poisson_kl(mem, prior)
    assert ratio == pytest.approx(math.exp(0.6), rel=1e-5)
    with pytest.raises(ValueError, match="'exact' or 'published'"):
        F.poisson_kl(mem, prior, form="other")


@pytest.mark.parametrize("c", [2.0, 5.0, 10.0])
def test_soft_clamp_is_bounded_monotone_and_linear_in_the_middle(c):
    v = torch.linspace(-1000, 1000, 2001, dtype=torch.float64)
    clamped = F.soft_clamp(v, c)
    assert clamped.max() <= c
    assert clamped.min() >= F.MEM_FLOOR - 1e-3
    assert (clamped.diff() >= 0).all()
    low = torch.tensor(c - 9.5 if c - 9.5 > -8 else -7.5, dtype=torch.float64)
    assert abs(F.soft_clamp(low, c) - low) < 1e-3
    assert F.soft_clamp(v, None) is v


@pytest.mark.parametrize("clamp", [None, 3.0])
def test_membrane_step_gradients(clamp):
    options = {"dtype": torch.float64, "requires_grad": True}
    mem, drive, inhibition = (torch.randn(2, 3, **options) for _ in range(3))
    step, bias = torch.rand((), **options), torch.rand(3, **options)
    rest = torch.randn(3, **options)

    def stepped(mem, drive, inhibition, step, bias, rest):
        return F.membrane_step(
            mem, drive, inhibition, step=step, bias=bias, leak=0.2, mem_rest=rest, clamp=clamp
        )

    assert torch.autograd.gradcheck(stepped, (mem, drive, inhibition, step, bias, rest))


def test_batched_weights_that_do_not_broadcast_are_refused():
    with pytest.raises(ValueError, match="do not broadcast over their leading axes"):
        F.drive(torch.ones(2, 1, 1), torch.ones(3, 1, 4))
