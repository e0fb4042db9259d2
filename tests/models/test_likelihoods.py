"""The likelihoods against torch.distributions and autograd in float64."""

import pytest
import torch
from torch.distributions import Bernoulli as BernoulliLaw
from torch.distributions import Normal

from ipvae_snn.models import Likelihood
from ipvae_snn.models.likelihoods import Bernoulli, Gaussian


def of_kind(kind):
    """A likelihood, inputs it may get, and what torch makes of the decoder's output."""
    torch.manual_seed(0)
    x = torch.randn(4, 9, dtype=torch.float64)
    if kind == "bernoulli":
        return Bernoulli(), (x > 0).double(), lambda eta: BernoulliLaw(logits=eta)
    likelihood = Gaussian(9, learn_scale=kind == "gaussian").double()
    if likelihood.raw_log_scale is None:
        return likelihood, x, lambda eta: Normal(eta, 1.0)
    with torch.no_grad():
        likelihood.raw_log_scale.normal_()
    return likelihood, x, lambda eta: Normal(eta, likelihood.log_scale.exp())


@pytest.mark.parametrize("kind", ["gaussian", "gaussian of scale 1", "bernoulli"])
def test_density_mean_and_score_are_those_of_torch(kind):
    likelihood, x, law = of_kind(kind)
    eta = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(likelihood.nll(x, eta), -law(eta).log_prob(x).sum(-1))
    torch.testing.assert_close(likelihood.mean(eta), law(eta).mean)
    (by_autograd,) = torch.autograd.grad(law(eta).log_prob(x).sum(), eta)
    torch.testing.assert_close(likelihood.score(x, eta), by_autograd)
    torch.testing.assert_close(Likelihood.score(likelihood, x, eta), by_autograd)
    assert torch.autograd.gradcheck(lambda e: likelihood.score(x, e), eta)


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_large_outputs_stay_finite(kind):
    likelihood, x, _ = of_kind(kind)
    eta = torch.full_like(x, 1e3) * torch.tensor([1.0, -1.0, 1.0, -1.0]).unsqueeze(-1)
    for value in (likelihood.nll(x, eta), likelihood.mean(eta), likelihood.score(x, eta)):
        assert value.isfinite().all()
