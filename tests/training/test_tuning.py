"""Tuning after learning: a change of units, a search within bounds, and what it leaves alone."""

import json
import math
from itertools import pairwise

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, baselines, export, fit, metrics, models, tune
from ipvae_snn.data.sources import InMemory
from ipvae_snn.training import Knobs, retuned
from tests.training.test_fit import sparse_sums

QUICK = {"num_steps": 30, "samples": 60, "trials": 7}


@pytest.fixture(scope="module")
def x():
    return sparse_sums(160)


@pytest.fixture(scope="module")
def model(x):
    torch.manual_seed(0)
    model = IPVAE(20, 12, init_std=0.1)
    config = TrainConfig(iterations=80, batch=40, steps=8, lr=0.02, beta=2.0, progress=False)
    fit(model, x, config)
    return model


@pytest.mark.parametrize("form", ["exact", "published"])
def test_fineness_is_a_change_of_units(form):
    model = IPVAE(9, 5, form=form, leak=0.2, lateral_scale=0.7, clamp=12.0, init_std=0.5).double()
    c, x = 3.0, torch.randn(4, 9, dtype=torch.float64)
    finer = retuned(model, Knobs(fineness=c))
    spk = torch.poisson(torch.full((4, 5), 0.6, dtype=torch.float64))
    with torch.no_grad():
        parts, membranes = [], []
        for each, scale in ((model, 1.0), (finer, c)):
            neuron, gram = each.neuron, each.neuron.gram()
            alpha, inhibition = neuron.log_step.exp(), (scale * spk) @ gram
            variance = neuron.tonic(gram) - neuron.log_bias.exp()
            parts.append(
                (
                    alpha * neuron.drive(x),
                    alpha * neuron.lateral_scale * inhibition,
                    alpha * neuron.log_bias.exp(),
                    scale * alpha * variance,
                    each.decode(scale * spk),
                )
            )
            mem = torch.linspace(-2, 1, 20, dtype=torch.float64).reshape(4, 5) + math.log(scale)
            membranes.append(neuron.integrate(neuron.drive(x), inhibition, mem) - math.log(scale))
    for before, after in zip(*parts, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-14, atol=1e-15)
    # The clamp of the change acts alike only where it is far from the clamp.
    torch.testing.assert_close(*membranes, rtol=1e-4, atol=1e-4)
    assert (variance.abs().max() > 0) == (form == "exact")


def test_knobs_set_what_they_are_named_after(model):
    made = retuned(model, Knobs(threshold=0.3, gain=0.8, step=0.5, clamp=2.0)).neuron
    given = model.neuron
    torch.testing.assert_close(made.log_bias.exp(), given.log_bias.exp() + 0.3)
    torch.testing.assert_close(made.log_step.exp(), given.log_step.exp() / 2)
    assert made.lateral_scale == pytest.approx(0.8)
    assert made.clamp == pytest.approx(given.clamp + 2)
    assert torch.equal(made.gram(), given.gram())
    lowest = retuned(model, Knobs(threshold=-100.0)).neuron
    torch.testing.assert_close(lowest.log_bias.exp(), torch.full((12,), 1e-6))


def test_the_model_and_the_random_state_stay_as_they_were(model, x):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    config, state = model.config(), torch.get_rng_state()
    result = tune(model.train(), x, **QUICK)
    assert model.training
    assert model.eval().config() == config
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert result.knobs != Knobs()
    assert not result.model.training


def test_equal_seeds_choose_alike(model, x):
    first = tune(model, x, **QUICK, seed=3).summary()
    torch.rand(7)
    assert tune(model, x, **QUICK, seed=3).summary() == first
    other = tune(model, x, **QUICK, seed=4).summary()
    assert other["candidates"][0] != first["candidates"][0]
    assert json.loads(json.dumps(first, allow_nan=False)) == first


def test_samples_are_read_as_tensors_are(model, x):
    few = {"num_steps": 20, "trials": 2}
    assert tune(model, InMemory(x), **few).summary() == tune(model, x, **few).summary()


def test_by_default_tuning_costs_no_spikes(model, x):
    result = tune(model, x, **QUICK)
    present = result.candidates[0]
    assert present.knobs == Knobs()
    assert result.chosen.quality.spikes <= present.quality.spikes
    assert result.chosen.quality.distance < present.quality.distance
    assert result.after.distance < result.before.distance
    assert {candidate.knobs.fineness for candidate in result.candidates} == {1.0}
    assert len(result.candidates) <= QUICK["trials"]


@pytest.mark.parametrize("factor", [0.6, 2.0])
def test_a_budget_is_kept(model, x, factor):
    present = tune(model, x, num_steps=30, samples=60, trials=1).candidates[0].quality
    result = tune(model, x, spikes_per_sample=factor * present.spikes, **QUICK)
    assert result.chosen.quality.spikes <= factor * present.spikes
    assert (result.chosen.quality.spikes > present.spikes) == (factor > 1)
    assert any((c.knobs.fineness - 1) * (factor - 1) > 0 for c in result.candidates)
    out = result.model.run(x, 30, seed=0)
    late = out.spk[-16:].sum(-1).mean()
    assert late == pytest.approx(result.chosen.quality.spikes, rel=0.2)


def test_the_chosen_one_is_the_best_that_keeps_the_bounds(model, x):
    result = tune(model, x, **QUICK)
    allowed = [c for c in result.candidates if c.quality.spikes <= result.goal.budget]
    assert result.chosen == min(allowed, key=lambda c: c.quality.distance)
    front = result.front()
    assert all(a.quality.spikes < b.quality.spikes for a, b in pairwise(front))
    for candidate in result.candidates:
        rivals = [c for c in front if c.quality.spikes <= candidate.quality.spikes]
        assert min(c.quality.distance for c in rivals) <= candidate.quality.distance


def test_with_a_bound_on_zeros_r2_alone_counts(model, x):
    result = tune(model, x, **QUICK)
    zeros = result.candidates[0].quality.zeros + 0.02
    sparser = tune(model, x, min_zeros=zeros, **QUICK)
    allowed = [c for c in sparser.candidates if c.quality.zeros >= zeros]
    allowed = [c for c in allowed if c.quality.spikes <= sparser.goal.budget]
    assert sparser.chosen == max(allowed, key=lambda c: c.quality.r2)


def test_metrics_are_those_of_single_draws(model, x):
    result = tune(model, x, num_steps=20, samples=80, trials=1, seed=5)
    rows = torch.randperm(160, generator=torch.Generator().manual_seed(5))[:80]
    with torch.no_grad(), model.seeded(5):
        state = model.run(x[rows], 4, record=()).state
        spk = model.run(x[rows], 16, record=("spk",), state=state).spk
    r2 = torch.stack([metrics.r2(x[rows], model.decode(z)) for z in spk]).mean()
    quality = result.chosen.quality
    assert quality.r2 == pytest.approx(r2.item(), abs=1e-6)
    assert quality.zeros == pytest.approx((spk == 0).double().mean().item())
    assert quality.spikes == pytest.approx(spk.double().sum(-1).mean().item())
    assert quality.distance == metrics.rate_distortion_distance(quality.r2, quality.zeros)


def test_files_and_graphs_carry_the_settings(model, x, tmp_path):
    present = tune(model, x, num_steps=20, trials=1).candidates[0].quality.spikes
    tuned = tune(model, x, spikes_per_sample=2 * present, **QUICK).model
    tuned.save(tmp_path / "model.pt")
    graph = export.to_nir(tuned)
    expected = tuned.run(x[:9], 20, seed=1)
    for again in (IPVAE.load(tmp_path / "model.pt"), export.from_nir(graph)):
        assert again.config() == tuned.config()
        out = again.run(x[:9], 20, seed=1)
        assert torch.equal(out.spk, expected.spk)
        assert torch.equal(out.mem, expected.mem)


def test_bounds_that_cannot_be_kept_are_refused_with_a_number(model, x):
    with pytest.raises(ValueError, match=r"budget of 1e-05 spikes .* takes [\d.]+ with"):
        tune(model, x, spikes_per_sample=1e-5, **QUICK)
    with pytest.raises(ValueError, match=r"with 99\.9% zeros cannot be met"):
        tune(model, x, min_zeros=0.999, num_steps=20, trials=2)
    with pytest.raises(ValueError, match="train the model first"):
        tune(IPVAE(20, 12), x, num_steps=20, trials=2)


def test_a_convolutional_model_is_tuned_as_its_unrolled_one():
    torch.manual_seed(0)
    model = models.ConvIPVAE(2, 4, 5, 2, init_std=0.2, leak=0.1)
    knobs = Knobs(threshold=0.01, gain=0.9, step=0.7, clamp=0.5, fineness=2.0)
    one = models.unrolled(retuned(model, knobs), (7, 6))
    other = retuned(models.unrolled(model, (7, 6)), knobs)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], msg=name)
    for name in ("clamp", "leak", "lateral_scale"):
        assert getattr(one.neuron, name) == pytest.approx(getattr(other.neuron, name))


def test_whole_images_are_tuned_by_what_is_measured():
    torch.manual_seed(0)
    images = torch.randn(12, 1, 24, 24).cumsum(2).cumsum(3)
    images = (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)
    model = models.ConvIPVAE(1, 8, 8, 4)
    fit(model, images, TrainConfig(iterations=60, batch=6, steps=8, lr=0.02, progress=False))
    result = tune(model, images, num_steps=30, trials=8)
    assert result.after.distance <= result.before.distance
    assert len(result.candidates) == 8
    assert isinstance(result.model, models.ConvIPVAE)
    # What is measured: of whole crops, after 30 timesteps.
    spk = model.run(images, 30, record=("spk",), seed=0).spk[-16:]
    assert result.before.zeros == pytest.approx(float((spk == 0).float().mean()), abs=0.02)
    assert result.before.spikes == pytest.approx(float(spk.flatten(2).sum(-1).mean()), rel=0.2)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: baselines.LCA(20, 4), TypeError, "got a LCA"),
        (lambda: IPVAE(20, 4, likelihood=models.Bernoulli()), TypeError, "of its own"),
        (lambda: IPVAE(16, 4), ValueError, r"shape \(N, 16\)"),
    ],
    ids=["baseline", "likelihood", "pixels"],
)
def test_models_that_cannot_be_tuned_are_refused(make, error, match, x):
    with pytest.raises(error, match=match):
        tune(make(), x)


@pytest.mark.parametrize(
    "options",
    [
        {"spikes_per_sample": 0}, {"spikes_per_sample": math.nan}, {"min_zeros": 1}, {"samples": 1},
        {"trials": 0}, {"num_steps": 0}, {"seed": -1},
    ],
    ids=str,
)  # fmt: skip
def test_options_out_of_range_are_refused(model, x, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        tune(model, x, **options)
    with pytest.raises(ValueError, match="N ≥ 4"):
        tune(model, x[:3])


def test_derived_weights_are_refused(x):
    model = IPVAE(20, 4)
    torch.nn.utils.parametrizations.weight_norm(model.decoder)
    with pytest.raises(ValueError, match="computed from others"):
        tune(model, x)


@pytest.mark.slow
def test_a_trained_model_is_better_on_held_out_samples():
    from ipvae_snn import data, evaluate

    digits = data.load("digits")
    model = IPVAE(64, 96)
    config = TrainConfig(iterations=800, lr=5e-3, beta=8.0, grad_clip=3000.0, progress=False)
    fit(model, digits.train, config)
    result = tune(model, digits.train)
    assert result.after.distance <= result.before.distance
    before, after = (
        evaluate(each, digits.test, 400).at(400)["rate_distortion_distance"]
        for each in (model, result.model)
    )
    assert after < before + 0.005
