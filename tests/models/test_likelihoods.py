"""Likelihoods: densities against torch.distributions, derivatives against autograd, draws."""

import math

import pytest
import torch
from torch import distributions as D

from ipvae_snn.models import likelihoods as L

B, M = 6, 6


def values(seed=0):
    """An output of a decoder, (B, M), float64."""
    torch.manual_seed(seed)
    return torch.randn(B, M, dtype=torch.float64)


def counts():
    return torch.poisson(torch.full((B, M), 1.5, dtype=torch.float64))


def labels():
    return torch.eye(3, dtype=torch.float64)[torch.randint(3, (B, 2))].flatten(1)


def spread(law):
    """Parameters that are not what they start as."""
    for weight in law.parameters():
        torch.nn.init.uniform_(weight, -0.7, 0.7)
    return law.double()


def joint():
    return L.Joint(
        [{"name": "bernoulli", "size": 2}, {"name": "gaussian", "size": 1, "learn_scale": False},
         {"name": "categorical", "size": 3}]
    )  # fmt: skip


CASES = {
    "gaussian": (lambda: spread(L.Gaussian(M)), values,
                 lambda law, eta: D.Normal(eta, law.log_scale.exp())),
    "student-t": (lambda: spread(L.StudentT(M, 2.5)), values,
                  lambda law, eta: D.StudentT(2.5, eta, law.log_scale.exp())),
    "fixed scale": (lambda: L.StudentT(M, 2.5, learn_scale=False), values,
                    lambda law, eta: D.StudentT(2.5, eta)),
    "bernoulli": (L.Bernoulli, lambda: counts().clamp(max=1.0),
                  lambda law, eta: D.Bernoulli(logits=eta)),
    "poisson": (L.Poisson, counts, lambda law, eta: D.Poisson(eta.exp())),
    "negative-binomial": (
        lambda: spread(L.NegativeBinomial(M, 2.0)), counts,
        lambda law, eta: D.NegativeBinomial(
            law.log_dispersion.exp(), logits=eta - law.log_dispersion)),
}  # fmt: skip
ALL = {
    **{name: (make, inputs) for name, (make, inputs, _) in CASES.items()},
    "categorical": (lambda: L.Categorical(3), labels),
    "joint": (
        joint, lambda: torch.cat([counts().clamp(max=1.0)[:, :2], values()[:, :1],
                                  labels()[:, :3]], -1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_densities_are_those_of_torch(name):
    make, inputs, reference = CASES[name]
    law, eta, x = make(), values(3), inputs()
    expected = reference(law, eta)
    torch.testing.assert_close(law.each(x, eta), -expected.log_prob(x))
    torch.testing.assert_close(law.nll(x, eta), -expected.log_prob(x).sum(-1))
    torch.testing.assert_close(law.mean(eta), expected.mean)


def test_labels_have_the_density_of_torch():
    eta, x = values(3), labels()
    expected = D.OneHotCategorical(logits=eta.unflatten(1, (2, 3)))
    nll = -expected.log_prob(x.unflatten(1, (2, 3))).sum(-1)
    torch.testing.assert_close(L.Categorical(3).nll(x, eta), nll)


@pytest.mark.parametrize("name", ALL)
def test_scores_and_curvatures_are_derivatives(name):
    make, inputs = ALL[name]
    law, x, eta = make(), inputs(), values(3).requires_grad_()
    (slope,) = torch.autograd.grad(law.nll(x, eta).sum(), eta)
    torch.testing.assert_close(law.score(x, eta), -slope, rtol=1e-10, atol=1e-12)
    size, eta = 1e-5, eta.detach()
    for m in range(M):
        step = size * torch.eye(M, dtype=torch.float64)[m]
        difference = (law.score(x, eta + step) - law.score(x, eta - step)) / (2 * size)
        torch.testing.assert_close(
            law.curvature(x, eta)[:, m], -difference[:, m], rtol=1e-6, atol=1e-8
        )


def midpoint_and_truth(law, x, change, rate, offset):
    """∂/∂u of the expected NLL, as midpoint gives it and as it is, by a sum over all counts."""
    z = torch.arange(120, dtype=torch.float64)
    eta = (offset + change * z).unsqueeze(-1).requires_grad_()
    nll = law.nll(torch.full((len(z), 1), x, dtype=torch.float64), eta)
    (slope,) = torch.autograd.grad(nll.sum(), eta)
    p = torch.exp(z * math.log(rate) - rate - torch.lgamma(z + 1))
    truth = rate * ((nll[1:] - nll[:-1]).detach() * p[:-1]).sum()
    return float((p * (z + rate) / 2 * slope[:, 0] * change).sum()), float(truth)


@pytest.mark.parametrize(
    ("law", "inputs", "offset", "most"),
    [
        (L.Bernoulli(), (0.0, 1.0), -1.0, {0.5: 0.005, 1.0: 0.02}),
        (L.NegativeBinomial(1).double(), (0.0, 1.0, 3.0), -0.5, {0.5: 0.04, 1.0: 0.08}),
        (L.StudentT(1, 4.0, learn_scale=False), (1.0, 3.0), 0.0, {0.5: 0.03, 1.0: 0.22}),
    ],
    ids=["bernoulli", "negative-binomial", "student-t"],
)
def test_how_biased_midpoint_is(law, inputs, offset, most):
    for change, bound in most.items():
        errors = []
        for x in inputs:
            for rate in (0.1, 0.5, 2.0):
                found, truth = midpoint_and_truth(law, x, change, rate, offset)
                errors.append(abs(found / truth - 1))
        assert bound / 3 < max(errors) <= bound * 1.05


@pytest.mark.parametrize("change", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("rate", [0.1, 0.5, 2.0])
def test_midpoint_under_poisson_counts(change, rate):
    silent, truth = midpoint_and_truth(L.Poisson(), 0.0, change, rate, -0.5)
    assert silent / truth == pytest.approx(change / 2 / math.tanh(change / 2), rel=1e-9)
    gaussian = L.Gaussian(1, learn_scale=False)
    found, truth = midpoint_and_truth(gaussian, 3.0, change, rate, 0.0)
    assert found == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_draws_have_the_mean_of_the_law(name):
    law, eta = ALL[name][0](), values(3)[:1]
    torch.manual_seed(0)
    x = law.draw(eta.expand(40_000, M))
    law.require(x)
    tolerance = 6 * x.std(0) / 200 if name not in ("student-t", "fixed scale") else 0.1
    assert ((x.mean(0) - law.mean(eta)[0]).abs() <= tolerance).all()


def test_draws_vary_as_the_law_says():
    eta = torch.zeros(50_000, 1)
    torch.manual_seed(0)
    assert float(L.NegativeBinomial(1, 0.5).draw(eta).var()) == pytest.approx(3.0, rel=0.06)
    assert float(L.StudentT(1, 8.0).draw(eta).var()) == pytest.approx(8 / 6, rel=0.05)


@pytest.mark.parametrize(
    ("law", "x", "message"),
    [
        (L.Bernoulli(), -0.5, "Bernoulli is a law of values from 0 to 1, got x with -0.5"),
        (L.Bernoulli(), 255.0, "got x with 255"),
        (L.Poisson(), -1.0, "Poisson is a law of counts"),
        (L.NegativeBinomial(2), -1.0, "NegativeBinomial is a law of counts"),
        (L.Categorical(2), -1.0, "Categorical is a law of labels"),
        (L.Joint([{"name": "poisson", "size": 2}]), -1.0, "Poisson is a law of counts"),
    ],
)
def test_inputs_that_a_law_cannot_have_are_refused(law, x, message):
    inputs = torch.zeros(3, 2)
    law.require(inputs)
    inputs[1, 1] = x
    with pytest.raises(ValueError, match=message):
        law.require(inputs)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: L.StudentT(3, freedom=0), ValueError, "freedom"),
        (lambda: L.NegativeBinomial(3, dispersion=-1), ValueError, "dispersion"),
        (lambda: L.Categorical(1), ValueError, "labels must be at least 2"),
        (lambda: L.Joint([]), ValueError, "at least one part"),
        (lambda: L.Joint([{"name": "poisson"}]), TypeError, "name and size"),
        (lambda: L.Joint([{"name": "cauchy", "size": 1}]), ValueError, "unknown likelihood"),
        (lambda: L.Joint([{"name": "poisson", "size": 1, "rate": 2}]), ValueError, "cannot be"),
    ],
)
def test_options_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_large_log_rates_stay_numbers():
    x, eta = torch.ones(1, 2), torch.tensor([[200.0, 1e30]])
    for law in (L.Poisson(), L.NegativeBinomial(2)):
        for found in (law.nll(x, eta), law.score(x, eta), law.curvature(x, eta), law.mean(eta)):
            assert found.isfinite().all()


def test_a_law_goes_through_its_config():
    for name, (make, _) in ALL.items():
        law = make()
        again = L.LIKELIHOODS.from_config(L.LIKELIHOODS.to_config(law))
        assert type(again) is type(law), name
        assert again.config() == law.config()
    assert math.isclose(L.StudentT(2, 3.0).config()["freedom"], 3.0)
