"""What is seen of a training while it runs changes nothing of it."""

import copy

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, fit, metrics, surrogate
from ipvae_snn._utils.seeding import combine
from ipvae_snn.baselines import IGVAE
from ipvae_snn.training import Stopped
from ipvae_snn.training.checkpoint import read_checkpoint
from tests.training.test_checkpoint import SamplesThatSignal, X, equal, recipe, weights

X_VAL = torch.randn(7, 12, generator=torch.Generator().manual_seed(2))


class DrawsFromTorch(surrogate.Exact):
    """An estimator from outside the package, which knows nothing of its seeded blocks."""

    def sample(self, mem):
        return torch.poisson(mem.exp())

    def slope(self, spk, rate):
        return rate


def make(name="midpoint"):
    torch.manual_seed(3)
    if name == "baseline":
        return IGVAE(12, 10)
    estimators = {
        "midpoint": surrogate.midpoint,
        "relaxed": lambda: surrogate.eat(1.0, generator=torch.Generator()),
        "from outside": DrawsFromTorch,
    }
    return IPVAE(12, 10, init_std=0.3, spike_grad=estimators[name]())


def without_r2(history):
    return [{name: value for name, value in row.items() if name != "r2_val"} for row in history]


@pytest.mark.parametrize("name", ["midpoint", "relaxed", "from outside", "baseline"])
def test_a_measured_and_watched_training_is_the_same_to_the_bit(name):
    plain, model, seen = make(name), make(name), []
    state = torch.get_rng_state()
    history = fit(plain, X, recipe())
    measured = fit(
        model, X, recipe(), validation=X_VAL, watch=lambda rows: seen.append(copy.deepcopy(rows))
    )
    assert equal(weights(model), weights(plain))
    assert without_r2(measured) == history
    assert seen == [measured[: n + 1] for n in range(len(measured))]
    assert torch.equal(torch.get_rng_state(), state)


def test_r2_is_that_of_single_draws_at_the_last_trained_timestep():
    model, config = make("relaxed"), recipe(seed=5)
    history = fit(model, X, config, validation=X_VAL)
    with torch.no_grad():
        out = model.run(X_VAL, config.steps, record=(), seed=combine(5, "validation"))
    expected = float(metrics.r2(X_VAL, model.decode(out.state.spk)))
    assert history[-1]["r2_val"] == expected
    assert (out.state.spk == out.state.spk.round()).all()


def test_it_is_measured_in_the_first_row_every_fifth_and_the_last():
    config = recipe(iterations=27, log_every=2)
    rows = fit(make(), X, config, validation=X_VAL)
    assert [row["iteration"] for row in rows if "r2_val" in row] == [2, 12, 22, 27]


def test_samples_of_which_no_r2_can_be_computed_end_no_training():
    rows = fit(make(), X, recipe(), validation=torch.full((3, 12), 1e30))
    assert len(rows) == 5
    assert not any("r2_val" in row for row in rows)


def test_a_resumed_training_goes_on_with_its_rows(tmp_path):
    seen, path = [], tmp_path / "a.ckpt"
    whole = fit(make(), X, recipe(), validation=X_VAL)
    with pytest.raises(Stopped):
        fit(make(), SamplesThatSignal(5), recipe(), checkpoint=path, validation=X_VAL)
    resumed = fit(
        make(), X, recipe(), checkpoint=path, validation=X_VAL, watch=lambda h: seen.append(len(h))
    )
    assert resumed == whole
    assert seen == [3, 4, 5]


def test_a_checkpoint_without_validation_is_resumed_with_it(tmp_path):
    path, plain, model = tmp_path / "a.ckpt", make(), make()
    history = fit(plain, X, recipe())
    with pytest.raises(Stopped):
        fit(make(), SamplesThatSignal(5), recipe(), checkpoint=path)
    resumed = fit(model, X, recipe(), checkpoint=path, validation=X_VAL)
    assert without_r2(resumed) == history
    assert ["r2_val" in row for row in resumed] == [False, False, False, False, True]
    assert read_checkpoint(path)["history"] == resumed
    assert equal(weights(model), weights(plain))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"validation": torch.rand(3, 11)}, ValueError, r"validation must have shape \(N, 12\)"),
        ({"validation": torch.full((3, 12), torch.nan)}, ValueError, "validation"),
        ({"validation": torch.ones(3, 12, dtype=torch.int64)}, TypeError, "validation"),
        ({"watch": 3}, TypeError, "watch must be a function of the history, got int"),
    ],
)
def test_what_cannot_be_measured_or_called_is_refused(options, error, says, tmp_path):
    model = make()
    before = weights(model)
    with pytest.raises(error, match=says):
        fit(model, X, recipe(), checkpoint=tmp_path / "a.ckpt", **options)
    assert equal(weights(model), before)
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_watch_ends_the_training():
    def broken(history):
        raise LookupError(f"after {history[-1]['iteration']}")

    with pytest.raises(LookupError, match="after 2"):
        fit(make(), X, TrainConfig(iterations=9, batch=8, steps=4, log_every=2), watch=broken)
