"""Budgets: how many iterations fit into a time, measured without a trace."""

import time

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, fit
from ipvae_snn.data import Samples
from ipvae_snn.training import budget as module
from ipvae_snn.training import iterations_within, seconds_of

X = torch.rand(60, 16, generator=torch.Generator().manual_seed(0))
CONFIG = TrainConfig(iterations=9, batch=8, steps=3, log_every=1, progress=False)


def make():
    torch.manual_seed(1)
    return IPVAE(16, 8)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("5min", 300), ("2h", 7200), ("40 min", 2400), (" 1.5 H ", 5400),
        (".5min", 30), ("30sec", 30), (12, 12), (0.5, 0.5),
    ],
)  # fmt: skip
def test_times_with_their_units(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["5", "", "min", "-3s", "0s", "5 parsecs", "1h 30min", "infs", "1e3s", "9" * 999 + "h"]
)
def test_other_words_are_no_times(text):
    with pytest.raises(ValueError, match="must be a time such as 90s, 5min or 2h"):
        seconds_of(text)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, None, [5]])
def test_other_values_are_no_seconds(value):
    with pytest.raises((TypeError, ValueError), match="budget must be a"):
        seconds_of(value)


def test_measuring_changes_neither_the_model_nor_its_draws():
    measured, plain = make(), make()
    before, state = measured.state_dict(), torch.get_rng_state()
    before = {name: value.clone() for name, value in before.items()}
    assert iterations_within("0.3s", measured, X, CONFIG) > 1
    assert torch.equal(torch.get_rng_state(), state)
    assert measured.training == plain.training
    assert all(torch.equal(value, before[n]) for n, value in measured.state_dict().items())
    assert all(weight.grad is None for weight in measured.parameters())
    assert fit(measured, X, CONFIG) == fit(plain, X, CONFIG)


class SlowSamples(Samples):
    """Samples that take 5 ms to read."""

    features = 16

    def __len__(self):
        return len(X)

    def read(self, rows):
        time.sleep(0.005)
        return X[rows]

    def fingerprint(self):
        return ""


def test_an_iteration_takes_what_its_samples_take():
    each = module._seconds_per_iteration(make(), SlowSamples(), CONFIG, workers=0)
    assert 0.005 < each < 0.5


@pytest.mark.parametrize(("each", "low", "high"), [(0.01, 5000, 6000), (7.0, 7, 8)])
def test_the_budget_is_shared_out_over_the_iterations(monkeypatch, each, low, high):
    tried = []

    def measured(model, data, config, workers):
        tried.append((config.iterations, config.lr, config.beta))
        return each

    monkeypatch.setattr(module, "_seconds_per_iteration", measured)
    assert low <= iterations_within("60s", make(), X, CONFIG) <= high
    assert [iterations for iterations, *_ in tried][:3] == [4, 8, 16]
    assert {(lr, beta) for _, lr, beta in tried} == {(1e-3, CONFIG.beta)}


def test_a_budget_below_one_iteration_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_seconds_per_iteration", lambda *arguments: 7.0)
    with pytest.raises(ValueError, match=r"budget of 5 s is too short.*iteration takes 7 s"):
        iterations_within(5, make(), X, CONFIG)


def test_weights_that_do_not_learn_are_not_waited_for():
    model = make()
    model.weight.requires_grad_(False)
    assert iterations_within("0.2s", model, X, CONFIG) > 1
