"""A likelihood of one's own, Student's t: trained, evaluated, checked, saved, loaded, resumed."""

import inspect
import math

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, evaluate, fit
from ipvae_snn.diagnostics import check
from ipvae_snn.models import LIKELIHOODS, Likelihood

# -- the addition ---------------------------------------------------------------------------------


@LIKELIHOODS.register("own-student-t")
class StudentT(Likelihood):
    """Pixels that are off by much now and then: Student's t of ``freedom`` degrees about η.

    Args:
        freedom: degrees of freedom.
    """

    def __init__(self, freedom=3.0):
        super().__init__()
        self.freedom = freedom

    def nll(self, x, eta):
        n = self.freedom
        constant = math.lgamma((n + 1) / 2) - math.lgamma(n / 2) - math.log(n * math.pi) / 2
        return ((n + 1) / 2 * torch.log1p((x - eta).square() / n) - constant).sum(-1)

    def mean(self, eta):
        return eta


# -- what it is good for --------------------------------------------------------------------------

CONFIG = TrainConfig(
    iterations=200, batch=20, steps=8, lr=2e-2, beta=0.5, checkpoint_every=100, log_every=50,
    progress=False,
)  # fmt: skip


def data():
    """Sparse combinations of a few features, with outliers."""
    torch.manual_seed(3)
    x = torch.poisson(torch.full((200, 4), 0.5)) @ torch.randn(4, 9)
    return x + 8.0 * torch.randn(200, 9) * (torch.rand(200, 9) < 0.02)


def test_the_addition_is_short():
    assert len(inspect.getsource(StudentT).splitlines()) <= 40


def test_its_density_is_that_of_torch():
    x, eta = torch.randn(5, 9), torch.randn(5, 9)
    expected = -torch.distributions.StudentT(3.0, eta).log_prob(x).sum(-1)
    torch.testing.assert_close(StudentT().nll(x, eta), expected)


def test_it_learns_and_travels(tmp_path):
    x = data()
    torch.manual_seed(0)
    model = IPVAE(9, 8, likelihood=StudentT(2.5), init_std=0.3)
    history = fit(model, x[:160], CONFIG, checkpoint=tmp_path / "a.ckpt")
    assert history[-1]["nll"] < history[0]["nll"] - 0.5
    result = evaluate(model, x[160:], 100)
    assert result.at(100)["r2_map"] > max(0.3, result.at(1)["r2_map"])
    assert check(model, x[160:], num_steps=80)["poisson"].healthy
    model.save(tmp_path / "model.pt")
    loaded = IPVAE.load(tmp_path / "model.pt")
    assert loaded.decoded.likelihood.freedom == 2.5
    assert evaluate(loaded, x[160:], 20).curves == evaluate(model, x[160:], 20).curves
    again = IPVAE(9, 8, likelihood=StudentT(2.5), init_std=0.3)
    assert fit(again, x[:160], CONFIG, checkpoint=tmp_path / "a.ckpt") == history
    assert torch.equal(again.weight, model.weight)
    other = IPVAE(9, 8, likelihood=StudentT(9.0), init_std=0.3)
    with pytest.raises(ValueError, match="likelihood = "):
        fit(other, x[:160], CONFIG, checkpoint=tmp_path / "a.ckpt")
