"""Evaluation at every timestep equals the metrics of a plain run, in batches and in chunks."""

import math

import pytest
import torch

from ipvae_snn import IPVAE, evaluate, metrics, surrogate
from ipvae_snn.baselines import LCA
from ipvae_snn.models import CodePrior
from tests.training.test_fit import sparse_sums


def test_evaluation_equals_metrics_of_a_plain_run():
    model, x = IPVAE(20, 8, init_std=0.3).eval(), sparse_sums(40)
    result = evaluate(model, x, 25, chunk=7, seed=3)
    with torch.no_grad():
        out = model.run(x, 25, record=("spk", "mem"), seed=3)
    for t in (1, 7, 8, 25):
        z, values = out.spk[t - 1], result.at(t)
        x_hat = model.decode(z)
        assert values["r2"] == pytest.approx(metrics.r2(x, x_hat).item(), abs=1e-5)
        by_rates = metrics.r2(x, model.decode(out.mem[t - 1].exp()))
        assert values["r2_map"] == pytest.approx(by_rates.item(), abs=1e-5)
        assert values["mse"] == pytest.approx(metrics.mse(x, x_hat).item(), rel=1e-5)
        assert values["zeros"] == pytest.approx(metrics.zeros(z).item())
        assert values["spikes"] == pytest.approx(z.sum(-1).mean().item())
        assert values["lifetime_sparsity"] == pytest.approx(metrics.lifetime_sparsity(z).item())
        assert values["population_sparsity"] == pytest.approx(
            metrics.population_sparsity(z).item(), rel=1e-5
        )


def test_rates_are_measured_at_some_timesteps_and_linear_in_between():
    model, x = IPVAE(20, 8, init_std=0.3).eval(), sparse_sums(40)
    found = evaluate(model, x, 45, chunk=7, seed=3).curves["r2_map"]
    with torch.no_grad():
        out = model.run(x, 45, record=("mem",), seed=3)
    measured = [float(metrics.r2(x, model.decode(mem.exp()))) for mem in out.mem]
    for t in (*range(1, 17), 32, 45):
        assert found[t - 1] == pytest.approx(measured[t - 1], abs=1e-5)
    assert found[23] == pytest.approx((found[15] + found[31]) / 2)


def test_evaluation_in_batches_covers_every_sample():
    model, x = IPVAE(20, 8, init_std=0.3, spike_grad=surrogate.rounded()), sparse_sums(40)
    whole, parts = evaluate(model, x, 12), evaluate(model, x, 12, batch=7)
    for name, values in whole.curves.items():
        assert parts.curves[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name
    assert model.training  # left in the mode it had


def test_bits_per_dimension_are_the_bound_of_a_prior():
    torch.manual_seed(0)
    model, x = IPVAE(8, 4), torch.rand(12, 8)
    prior = CodePrior.fit(model, x, num_steps=8, seed=0)
    result = evaluate(model, x, num_steps=3, batch=5, prior=prior)
    bits, error = result.bits_per_dim
    bound = prior.log_likelihood(model, x, seed=1).log_likelihood / (8 * math.log(2))
    assert bits == pytest.approx(float(-bound.mean()), abs=0.05)
    assert error == pytest.approx(float(bound.std()) / math.sqrt(12), rel=0.2)
    assert result.summary()["bits_per_dim"] == [bits, error]
    assert "bits_per_dim" not in evaluate(model, x, num_steps=3).summary()
    for other, wrong in ((LCA(8, 4), prior), (model, 1)):
        with pytest.raises(TypeError, match="must"):
            evaluate(other, x, num_steps=10**9, prior=wrong)  # before anything is run
    with pytest.raises(ValueError, match="the prior is of 4 neurons"):
        evaluate(IPVAE(8, 5), x, num_steps=10**9, prior=prior)
