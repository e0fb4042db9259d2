"""Training learns, is reproducible, follows its schedules and refuses bad input."""

import copy
import math

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, evaluate, fit, surrogate


def sparse_sums(count=600, pixels=20, latents=8, seed=0):
    """Sparse sums of random features, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(latents, pixels, generator=generator)
    active = (torch.rand(count, latents, generator=generator) < 0.2).float()
    x = active @ features + 0.1 * torch.randn(count, pixels, generator=generator)
    return x - x.mean(1, keepdim=True)


QUICK = {"iterations": 12, "batch": 20, "steps": 4, "progress": False, "log_every": 5}


def test_it_learns_the_features_of_the_data():
    x = sparse_sums()
    model = IPVAE(20, 16)
    before = evaluate(model, x[500:], 30).at(30)["r2"]
    config = TrainConfig(iterations=400, batch=50, steps=16, beta=2.0, progress=False)
    history = fit(model, x[:500], config)
    after = evaluate(model, x[500:], 200)
    assert before < 0.1
    assert after.at(200)["r2"] > 0.5
    assert after.at(200)["zeros"] > 0.6
    assert history[-1]["loss"] < history[0]["loss"] + 24


@pytest.mark.parametrize("own_generator", [False, True])
def test_a_seed_fixes_weights_and_metrics(own_generator):
    def train():
        generator = torch.Generator() if own_generator else None
        torch.manual_seed(5)
        model = IPVAE(20, 8, spike_grad=surrogate.midpoint(generator=generator))
        torch.rand(torch.randint(1, 50, ()).item())
        history = fit(model, sparse_sums(), TrainConfig(**QUICK))
        return model, history, evaluate(model, sparse_sums(50), 20)

    first, first_history, first_result = train()
    model, history, result = train()
    state = torch.get_rng_state()
    for name, value in first.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert history == first_history
    assert result == first_result
    model.run(sparse_sums(10), 100)
    assert evaluate(model, sparse_sums(50), 20) == first_result
    other = copy.deepcopy(model)
    torch.set_rng_state(state)
    fit(other, sparse_sums(), TrainConfig(**{**QUICK, "seed": 1}))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(other.decoder.weight, model.decoder.weight)


def test_schedules_follow_the_recipe():
    config = TrainConfig(
        iterations=100, batch=5, steps=2, beta=10.0, beta_ramp=0.1, clamp_ramp=0.2, warmup=0.05,
        lr=0.01, log_every=1, progress=False,
    )  # fmt: skip
    model = IPVAE(20, 8, clamp=6.0)
    rows = fit(model, sparse_sums(), config)
    assert rows[0]["beta"] == pytest.approx(1e-4)
    assert rows[5]["beta"] == pytest.approx(1e-4 + (10 - 1e-4) * 0.5)
    assert all(r["beta"] == 10 for r in rows[10:])
    assert rows[0]["clamp"] == 2.0
    assert rows[10]["clamp"] == pytest.approx(4.0)
    assert rows[-1]["clamp"] == model.neuron.clamp == 6.0
    assert [r["grad_clip"] for r in rows[4:6]] == [900.0, 300.0]
    assert rows[0]["lr"] == pytest.approx(0.002)
    assert max(r["lr"] for r in rows) == pytest.approx(0.01)
    half_way = 5 + 95 / 2
    expected = 1e-5 + (0.01 - 1e-5) * (1 + math.cos(math.pi * (52 - 5) / 95)) / 2
    assert rows[int(half_way)]["lr"] == pytest.approx(expected)
    assert rows[-1]["lr"] < 2e-5


def test_the_temperature_of_relaxed_estimators_is_annealed():
    model = IPVAE(20, 8, spike_grad=surrogate.eat(1.0))
    fit(model, sparse_sums(), TrainConfig(**QUICK))
    assert model.neuron.spike_grad.temp == pytest.approx(0.01)


@pytest.mark.parametrize("name", sorted(surrogate.ESTIMATORS))
def test_every_estimator_trains(name):
    model = IPVAE(20, 8, spike_grad=surrogate.from_config({"name": name}))
    history = fit(model, sparse_sums(), TrainConfig(**QUICK))
    assert all(math.isfinite(v) for row in history for v in row.values())


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (torch.rand(5, 19), ValueError),
        (torch.rand(0, 20), ValueError),
        (torch.rand(20), ValueError),
        (torch.ones(5, 20, dtype=torch.uint8), TypeError),
        (torch.full((5, 20), math.nan), ValueError),
    ],
)
def test_bad_data_leaves_the_model_unchanged(data, error):
    model = IPVAE(20, 8)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error):
        fit(model, data, TrainConfig(**QUICK))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "option",
    [
        {"iterations": 0}, {"batch": -1}, {"steps": 2.5}, {"lr": 0.0}, {"beta": math.nan},
        {"warmup": 2.0}, {"seed": -1}, {"grad_clip": math.inf}, {"burn_in": -1}, {"burn_in": 16},
    ],
    ids=str,
)  # fmt: skip
def test_bad_configs_are_refused(option):
    with pytest.raises((ValueError, TypeError), match=next(iter(option))):
        TrainConfig(**option)


def test_burn_in_counts_in_the_kl_but_not_in_the_error():
    x = sparse_sums()
    config = TrainConfig(**{**QUICK, "iterations": 1, "beta": 3.0, "burn_in": 3, "beta_ramp": 0.0})
    model = IPVAE(20, 8)
    weights = copy.deepcopy(model.state_dict())
    row = fit(model, x, config)[0]
    model.load_state_dict(weights)
    model.neuron.clamp = config.clamp_start
    with model.seeded(config.seed):
        first = torch.randperm(len(x), generator=torch.Generator().manual_seed(config.seed))[:20]
        out = model.train().run(x[first], 4, record=("nll", "kl"))
    expected = (out.nll[3:].mean() + 3.0 * out.kl.mean()) * 256 / 20
    assert row["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_divergence_stops_before_the_weights_change():
    model = IPVAE(20, 8)
    bad = sparse_sums() * 1e25
    with pytest.raises((FloatingPointError, ValueError), match=r"diverged|NaN"):
        fit(model, bad, TrainConfig(**QUICK))
    assert all(torch.isfinite(v).all() for v in model.state_dict().values())
    assert model.neuron.clamp == 5.0
