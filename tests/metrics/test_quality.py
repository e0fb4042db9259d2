"""Metrics against values by hand, scikit-learn and the published convergence rule."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score

from ipvae_snn import IPVAE, evaluate, metrics
from ipvae_snn.baselines import IGVAE
from ipvae_snn.metrics import quality


def test_r2_equals_scikit_learn():
    x, x_hat = torch.randn(2, 20, 30, dtype=torch.float64)
    by_sklearn = np.mean([r2_score(a, b) for a, b in zip(x.numpy(), x_hat.numpy(), strict=True)])
    assert metrics.r2(x, x_hat).item() == pytest.approx(by_sklearn)
    constant = torch.ones(2, 4)
    x_hat = torch.stack([constant[0], constant[0] + 1])
    assert metrics.r2_per_sample(constant, x_hat).tolist() == [1.0, 0.0]


def test_mse_units():
    x, x_hat = torch.randn(2, 20, 30)
    assert metrics.mse(x, x_hat).item() == pytest.approx(
        30 * ((x - x_hat) ** 2).mean().item(), 1e-5
    )
    assert metrics.mse_per_dim(x, x_hat).item() == pytest.approx(
        1000 * ((x - x_hat) ** 2).mean().item(), 1e-5
    )


def test_sparsity_limits_and_formula():
    one_of_n = torch.eye(8)
    assert metrics.lifetime_sparsity(one_of_n).item() == pytest.approx(1)
    assert metrics.population_sparsity(one_of_n).item() == pytest.approx(1)
    assert metrics.lifetime_sparsity(torch.ones(8, 3)).item() == pytest.approx(0, abs=1e-6)
    assert metrics.lifetime_sparsity(torch.zeros(8, 3)).item() == 1  # silent neurons count 1
    z = torch.poisson(torch.rand(50, 9) * 4)
    n = 50
    by_hand = [(1 - sum(c) ** 2 / (n * sum(v * v for v in c))) / (1 - 1 / n) for c in z.T.tolist()]
    assert metrics.lifetime_sparsity(z).item() == pytest.approx(sum(by_hand) / 9, rel=1e-5)
    torch.testing.assert_close(metrics.population_sparsity(z), metrics.lifetime_sparsity(z.T))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_unchecked_forms_equal_the_checked_ones_to_the_bit(dtype):
    """All timesteps at once, (T, B, M) and (T, B, K), against one timestep after another."""
    x, x_hat = torch.randn(50, 144).to(dtype), torch.randn(9, 50, 144).to(dtype)
    spk = torch.poisson(torch.rand(9, 50, 37)).to(dtype)
    spk[:, 0] = 0
    x[1] = 0.5
    x_hat[:, 1] = 0.5
    r2, error = quality.r2_of(x, x_hat), quality.squared_error_of(x, x_hat)
    zeros, population = quality.zeros_of(spk), quality.sparsity_of(spk, dim=-1)
    lifetime = quality.sparsity_of(spk, dim=-2)
    for t in range(9):
        assert torch.equal(r2[t], metrics.r2_per_sample(x, x_hat[t]))
        assert torch.equal(r2.mean(-1)[t], metrics.r2(x, x_hat[t]))
        assert torch.equal(error.mean(-1)[t], metrics.mse(x, x_hat[t]))
        assert torch.equal(zeros[t], metrics.zeros(spk[t]))
        assert torch.equal(population.mean(-1)[t], metrics.population_sparsity(spk[t]))
        assert torch.equal(lifetime.mean(-1)[t], metrics.lifetime_sparsity(spk[t]))


def test_zeros_and_distance():
    assert metrics.zeros(torch.tensor([0.0, 1, 0, 5])).item() == 0.5
    assert metrics.rate_distortion_distance(0.83, 0.773) == pytest.approx(0.2836, abs=1e-4)


def plain_convergence_step(r2):
    """The rule of the paper with a polynomial fit by NumPy."""
    in_a_row = 0
    for t in range(60, len(r2) + 1):
        slope = np.polyfit(np.arange(60), r2[t - 60 : t], 1)[0] / 60
        in_a_row = in_a_row + 1 if abs(slope) < 1e-5 else 0
        if in_a_row == 5:
            return t - 4
    return None


@pytest.mark.parametrize("tau", [3.0, 10.0, 20.0, 400.0])
def test_convergence_step_equals_the_plain_rule(tau):
    rng = np.random.default_rng(0)
    r2 = 0.8 * (1 - np.exp(-np.arange(1, 300) / tau)) + rng.normal(0, 0.002, 299)
    assert metrics.convergence_step(r2.tolist()) == plain_convergence_step(r2)
    assert metrics.convergence_step(r2[:50].tolist()) is None


def test_probe_accuracy():
    labels = torch.arange(90) % 3
    features = torch.nn.functional.one_hot(labels).float() + 0.1 * torch.randn(90, 3)
    args = (features[:60], labels[:60], features[60:], labels[60:])
    assert metrics.probe_accuracy(*args) == 1.0


def test_probe_accuracy_chooses_the_strength_on_training_samples():
    torch.manual_seed(0)
    labels = torch.arange(1200) % 2
    features = torch.randn(1200, 100)
    features[:, 0] += 2.0 * labels  # one useful feature of 100
    features[:, 1:] *= torch.logspace(-3, 3, 99)
    train, test = slice(0, 300), slice(300, None)
    args = (features[train], labels[train], features[test], labels[test])

    def accuracy(fit_on, score_on, strength):
        mean, std = features[fit_on].mean(0), features[fit_on].std(0, correction=0)
        x, x_test = ((features[rows] - mean) / std for rows in (fit_on, score_on))
        probe = LogisticRegression(C=strength, max_iter=1000).fit(x, labels[fit_on])
        return probe.score(x_test, labels[score_on])

    held_out = torch.arange(300) % 10 == 9
    parts = held_out.logical_not().nonzero()[:, 0], held_out.nonzero()[:, 0]
    strengths = (10.0, 0.1, 0.001)
    best = max(strengths, key=lambda strength: accuracy(*parts, strength))
    scores = {strength: accuracy(train, test, strength) for strength in strengths}
    assert len(set(scores.values())) == 3
    assert metrics.probe_accuracy(*args, strengths=strengths) == pytest.approx(scores[best])


@pytest.mark.parametrize("strengths", [(), (0.0,), (math.nan,), ("1",)])
def test_probe_accuracy_refuses_odd_strengths(strengths):
    labels = torch.arange(20) % 2
    with pytest.raises((ValueError, TypeError), match="strength"):
        metrics.probe_accuracy(
            torch.rand(20, 2), labels, torch.rand(20, 2), labels, strengths=strengths
        )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: metrics.r2(torch.zeros(2, 3), torch.zeros(3, 2)), ValueError),
        (lambda: metrics.mse(torch.zeros(0, 3), torch.zeros(0, 3)), ValueError),
        (lambda: metrics.r2(np.zeros(3), np.zeros(3)), TypeError),
        (lambda: metrics.zeros(torch.zeros(0)), ValueError),
        (lambda: metrics.lifetime_sparsity(torch.zeros(2, 3, 4)), ValueError),
        (lambda: metrics.lifetime_sparsity(torch.ones(1, 4)), ValueError),
        (lambda: metrics.population_sparsity(torch.ones(4, 1)), ValueError),
    ],
)
def test_refused_arguments(call, error):
    with pytest.raises(error):
        call()


def test_r2_of_blank_samples_is_finite():
    assert math.isfinite(metrics.r2(torch.zeros(2, 3), torch.ones(2, 3)))


def test_evaluation_with_sample_seeds_does_not_depend_on_batches():
    model, x, seeds = IPVAE(12, 10, init_std=0.4), torch.randn(30, 12), torch.arange(30) ** 3
    whole = evaluate(model, x, 25, batch=30, sample_seeds=seeds)
    parts = evaluate(model, x, 25, batch=7, chunk=20, sample_seeds=seeds)
    assert whole.curves["zeros"] == pytest.approx(parts.curves["zeros"], rel=5e-7)
    for name, curve in whole.curves.items():
        assert curve == pytest.approx(parts.curves[name], rel=1e-4, abs=1e-6), name
    assert evaluate(model, x, 25, batch=7).curves["zeros"] != whole.curves["zeros"]
    with pytest.raises(TypeError, match="IPVAE"):
        evaluate(IGVAE(12, 10), x, 5, sample_seeds=seeds)
    with pytest.raises(ValueError, match="sample_seeds"):
        evaluate(model, x, 5, sample_seeds=seeds[:5])
