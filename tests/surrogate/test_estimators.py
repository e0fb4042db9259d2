"""Estimators: the distribution of their counts, and their gradients against enumeration."""

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from scipy import stats

from ipvae_snn import surrogate
from ipvae_snn.surrogate import bernoulli, eat, gumbel, midpoint, rate, rounded

EXACT = [midpoint(), rate(), bernoulli(4), rounded()]
RELAXED = [eat(0.5), eat(0.1, "sigmoid"), gumbel(0.3)]
ALL = EXACT + RELAXED
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def seeded(estimator, seed=0):
    estimator = copy.copy(estimator)
    estimator.generator = torch.Generator().manual_seed(seed)
    return estimator


@pytest.mark.parametrize("estimator", ALL, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shape_dtype_and_sign(estimator, dtype):
    mem = torch.linspace(-8, 4, 60).reshape(3, 4, 5).to(dtype)
    for spk in (seeded(estimator)(mem), seeded(estimator).sample(mem)):
        assert spk.shape == mem.shape
        assert spk.dtype == dtype
        assert (spk >= 0).all()
    assert (spk == spk.round()).all()


@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_exact_estimators_emit_integers_in_training(estimator):
    spk = estimator(torch.linspace(-8, 4, 500, requires_grad=True))
    assert (spk == spk.round()).all()


@pytest.mark.parametrize("estimator", ALL, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_membranes_give_finite_counts_and_gradients(estimator, dtype):
    mem = torch.tensor([-100.0, -30.0, 0.0, 4.0, 100.0], dtype=dtype, requires_grad=True)
    spk = seeded(estimator)(mem)
    spk.sum().backward()
    assert torch.isfinite(spk).all()
    assert torch.isfinite(mem.grad).all()


@pytest.mark.parametrize("log_rate", [-8.0, -3.0, 0.0, 1.5, 4.0, 8.0, 10.0])
def test_counts_are_poisson(log_rate):
    n = 200_000
    mem = torch.full((n,), log_rate, dtype=torch.float64)
    spk = seeded(midpoint(), seed=5).sample(mem).numpy()
    mean = float(torch.exp(mem[0]))
    assert spk.mean() == pytest.approx(mean, abs=5 * (mean / n) ** 0.5)
    # Var of the sample variance of a Poisson: (μ4 − σ⁴)/n with μ4 = λ + 3λ².
    spread = ((mean + 2 * mean**2) / n) ** 0.5
    assert spk.var() == pytest.approx(mean, abs=6 * spread)
    assert goodness_of_fit(spk, stats.poisson(mean)) > 1e-6


@pytest.mark.parametrize("substeps", [1, 3, 8])
def test_bernoulli_counts_are_binomial_and_approach_poisson(substeps):
    mem = torch.full((100_000,), 0.5)
    spk = seeded(bernoulli(substeps), seed=5).sample(mem).numpy()
    fire = float(-torch.expm1(-mem[0].exp() / substeps))
    assert goodness_of_fit(spk, stats.binom(substeps, fire)) > 1e-6
    many = seeded(bernoulli(4000), seed=5).sample(mem).numpy()
    assert goodness_of_fit(many, stats.poisson(float(mem[0].exp()))) > 1e-6


def goodness_of_fit(counts, law):
    """p-value of a chi-square test, in bins of at least 10 expected counts."""
    edges, low = [], int(law.ppf(1e-9))
    for k in range(low, int(law.ppf(1 - 1e-9)) + 1):
        since = edges[-1] if edges else -1
        if (law.cdf(k) - law.cdf(since)) * len(counts) >= 10:
            edges.append(k)
    edges = [-1, *edges[:-1], float("inf")]
    expected = [(law.cdf(b) - law.cdf(a)) * len(counts) for a, b in pairwise(edges)]
    observed = [((counts > a) & (counts <= b)).sum() for a, b in pairwise(edges)]
    if len(expected) < 2:
        return 1.0
    return stats.chisquare(observed, expected).pvalue


@pytest.mark.parametrize("estimator", [surrogate.midpoint(), surrogate.bernoulli(4)], ids=repr)
def test_draw_equals_sample_without_validation(estimator):
    mem = torch.randn(20, 30)
    torch.manual_seed(1)
    a = estimator.sample(mem)
    torch.manual_seed(1)
    assert torch.equal(a, estimator.draw(mem))
    with pytest.raises(ValueError, match="NaN"):
        estimator.sample(mem * float("nan"))


# -- gradients ------------------------------------------------------------------------------------
# f(z) = ½|x − Φz|², two neurons, exact gradient of E[f] by enumeration over their counts.

PHI = torch.tensor([[1.0, 0.4], [-0.3, 0.8], [0.2, -0.5]], dtype=torch.float64)
X = torch.tensor([1.0, 0.5, -0.7], dtype=torch.float64)


def objective(spk):
    return 0.5 * (X - spk @ PHI.T).square().sum(-1)


def exact_gradient(mem, law):
    """d E[f]/du by automatic differentiation of the sum over all count pairs up to 40."""
    mem = mem.clone().requires_grad_()
    counts = torch.arange(41, dtype=torch.float64)
    p = law(counts[:, None], mem)  # (41, 2)
    joint = p[:, None, 0] * p[None, :, 1]
    pairs = torch.stack(torch.meshgrid(counts, counts, indexing="ij"), dim=-1)
    (gradient,) = torch.autograd.grad((joint * objective(pairs)).sum(), mem)
    return gradient


def poisson_law(k, mem):
    return torch.exp(k * mem - mem.exp() - torch.lgamma(k + 1))


def binomial_law(n):
    def law(k, mem):
        fire = -torch.expm1(-mem.exp() / n)
        choose = torch.lgamma(torch.tensor(n + 1.0)) - torch.lgamma(k + 1)
        choose = choose - torch.lgamma((n - k).clamp(min=0) + 1)
        p = torch.exp(choose + k * fire.log() - (n - k) * mem.exp() / n)
        return torch.where(k <= n, p, torch.zeros_like(p))

    return law


def sampled_gradient(estimator, mem, draws=200_000):
    mem = mem.expand(draws, 2).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(seeded(estimator)(mem)).sum(), mem)
    return gradient.mean(0), gradient.var(0)


MEMBRANES = [(-2.0, -1.0), (0.0, 0.3), (1.0, 1.6)]


@pytest.mark.parametrize("mem", MEMBRANES)
@pytest.mark.parametrize(
    ("estimator", "law"),
    [(midpoint(), poisson_law), (bernoulli(1), binomial_law(1)), (bernoulli(5), binomial_law(5))],
    ids=["midpoint", "bernoulli(1)", "bernoulli(5)"],
)
def test_gradients_of_quadratic_objectives_are_unbiased(estimator, law, mem):
    """Summed over all counts, without sampling: E[w f'(z)] = d E[f]/du to rounding."""
    mem = torch.tensor(mem, dtype=torch.float64)
    counts = torch.arange(41, dtype=torch.float64)
    p = law(counts[:, None], mem)
    weight = estimator.slope(counts[:, None], mem.exp().expand(41, 2))
    pairs = torch.stack(torch.meshgrid(counts, counts, indexing="ij"), dim=-1)
    joint = p[:, None, 0] * p[None, :, 1]
    slope = -(X - pairs @ PHI.T) @ PHI
    both = torch.stack([weight[:, None, 0].expand(41, 41), weight[None, :, 1].expand(41, 41)], -1)
    expected = (joint[..., None] * both * slope).sum((0, 1))
    torch.testing.assert_close(expected, exact_gradient(mem, law), rtol=1e-6, atol=1e-8)


def test_bernoulli_slope_approaches_midpoint():
    spk, rates = torch.arange(6.0, dtype=torch.float64), torch.full((6,), 1.3, dtype=torch.float64)
    fine = bernoulli(1_000_000).slope(spk, rates)
    torch.testing.assert_close(fine, midpoint().slope(spk, rates), rtol=1e-4, atol=1e-4)


# Largest bias allowed, relative to the exact gradient; measured values are printed (pytest -s).
BIAS = [
    (midpoint(), 0.01),
    (eat(1.0), 0.8),
    (eat(0.1), 0.05),
    (eat(0.1, "sigmoid"), 0.3),
    (gumbel(0.1), 0.3),
]


@pytest.mark.parametrize("mem", MEMBRANES)
@pytest.mark.parametrize(("estimator", "allowed"), BIAS, ids=repr)
def test_sampled_gradients_against_enumeration(estimator, allowed, mem):
    mem = torch.tensor(mem, dtype=torch.float64)
    exact = exact_gradient(mem, poisson_law)
    mean, variance = sampled_gradient(estimator, mem)
    noise = (variance / 200_000).sqrt()
    bias = ((mean - exact).norm() / exact.norm()).item()
    print(
        f"\n{estimator!r:40} at u = {mem.tolist()}: exact {exact.tolist()}, bias {bias:.4f}, "
        f"variance {variance.tolist()}"
    )
    assert bias <= allowed + 4 * (noise.norm() / exact.norm()).item()


@pytest.mark.parametrize("estimator", RELAXED, ids=repr)
def test_pathwise_gradient_equals_finite_differences(estimator):
    """The derivative for fixed noise equals finite differences, in float64."""
    mem = torch.tensor([[-1.0, 0.2], [0.7, 1.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: seeded(estimator, 4)(u), mem)


def test_rate_is_biased_where_midpoint_is_not():
    mem = torch.tensor(MEMBRANES[1], dtype=torch.float64)
    exact = exact_gradient(mem, poisson_law)
    mean, _ = sampled_gradient(rate(), mem)
    # For quadratic f the straight-through estimator loses exactly λ G_kk / 2 per neuron.
    lost = 0.5 * mem.exp() * PHI.square().sum(0)
    torch.testing.assert_close(mean, exact - lost, rtol=0.03, atol=0.01)


@pytest.mark.parametrize("temp", [0.05, 0.5, 1.0])
def test_cubic_indicator_keeps_the_mean_exact(temp):
    mem = torch.full((200_000,), 0.4, dtype=torch.float64)
    spk = seeded(eat(temp))(mem)
    assert spk.mean().item() == pytest.approx(mem[0].exp().item(), abs=5 * (1.5 / 200_000) ** 0.5)


def test_sigmoid_indicator_overestimates_the_mean():
    """By 6% at temp 0.5 and λ = 1, as in the literature."""
    spk = seeded(eat(0.5, "sigmoid"))(torch.zeros(400_000, dtype=torch.float64))
    assert spk.mean().item() == pytest.approx(1.06, abs=0.01)


@pytest.mark.parametrize("estimator", [eat(0.01), eat(0.01, "sigmoid"), gumbel(0.01)], ids=repr)
def test_relaxed_counts_become_poisson_as_temp_falls(estimator):
    mem = torch.full((20_000,), 0.5, dtype=torch.float64)
    spk = seeded(estimator, 3)(mem).round().numpy()
    assert goodness_of_fit(spk, stats.poisson(float(mem[0].exp()))) > 1e-6


@pytest.mark.parametrize("estimator", RELAXED, ids=repr)
def test_high_rates_are_split_not_truncated(estimator):
    mem = torch.full((4000,), 6.0, dtype=torch.float64, requires_grad=True)
    spk = seeded(estimator)(mem)
    (gradient,) = torch.autograd.grad(spk.sum(), mem)
    assert spk.mean().item() == pytest.approx(403.4, rel=0.02)
    assert gradient.mean().item() == pytest.approx(403.4, rel=0.05)


# -- as objects -----------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ALL, ids=repr)
def test_printable_picklable_comparable(estimator):
    again = pickle.loads(pickle.dumps(estimator))
    assert again == estimator
    assert repr(again) == repr(estimator)
    assert copy.deepcopy(seeded(estimator)) == estimator
    assert surrogate.from_config(surrogate.to_config(estimator)) == estimator


def test_estimators_with_different_options_differ():
    assert eat(0.1) != eat(0.2)
    assert midpoint() != rate()


@pytest.mark.parametrize("estimator", [e for e in ALL if not isinstance(e, rounded)], ids=repr)
def test_the_generator_fixes_the_draw(estimator):
    mem = torch.zeros(1000)
    first, again = seeded(estimator, 1)(mem), seeded(estimator, 1)(mem)
    assert torch.equal(first, again)
    assert not torch.equal(first, seeded(estimator, 2)(mem))


@pytest.mark.parametrize("estimator", EXACT, ids=repr)
def test_vmap_and_compile(estimator):
    mem = torch.zeros(6, 4)
    spk = torch.func.vmap(estimator, randomness="different")(mem)
    assert spk.shape == mem.shape
    grads = torch.func.vmap(torch.func.grad(lambda u: estimator(u).sum()), randomness="different")
    assert torch.isfinite(grads(mem)).all()
    compiled = torch.compile(lambda u: estimator(u), fullgraph=True, backend="aot_eager")
    u = mem.clone().requires_grad_()
    compiled(u).sum().backward()
    assert torch.isfinite(u.grad).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: eat(0.0), "temp"),
        (lambda: eat(1.5), "temp"),
        (lambda: eat(0.5, "square"), "indicator"),
        (lambda: gumbel(-1.0), "temp"),
        (lambda: bernoulli(0), "substeps"),
        (lambda: bernoulli(-2), "substeps"),
        (lambda: midpoint(-0.1), "floor"),
        (lambda: rounded(2.0), "floor"),
        (lambda: surrogate.from_config({"name": "atan"}), "unknown estimator"),
        (lambda: surrogate.from_config({"name": "eat", "tmp": 1}), "cannot be made"),
    ],
)
def test_invalid_options_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_unknown_callables_have_no_config():
    with pytest.raises(TypeError, match="midpoint"):
        surrogate.to_config(torch.relu)
