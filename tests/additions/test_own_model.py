"""A model of one's own, from fit to the command line."""

import inspect

import pytest
import torch
from torch import nn

import ipvae_snn
from ipvae_snn import TrainConfig, evaluate, fit
from ipvae_snn.baselines import Baseline
from ipvae_snn.cli import main
from ipvae_snn.diagnostics import check
from ipvae_snn.models import MODELS
from ipvae_snn.neurons import State

# -- the addition ---------------------------------------------------------------------------------


@MODELS.register("own-pursuit")
class Pursuit(Baseline):
    """Gradient steps on the squared error, of codes that may not be negative.

    Args:
        in_features, latents: M and K.
        rate: size of a step.
    """

    def __init__(self, in_features: int, latents: int, *, rate: float = 0.1) -> None:
        super().__init__(in_features, latents, init_std=0.3, learn_scale=False)
        self.rate = rate
        self.threshold = nn.Parameter(torch.zeros(latents))

    def start(self, sensed):
        zero = sensed.new_zeros(len(sensed), self.latents)
        return State(zero, zero)

    def advance(self, sensed, state, shared):
        current = (sensed - self.decode(state.spk)) @ self.weight - self.threshold
        code = (state.spk + self.rate * current).relu()
        return State(code, code), 0.01 * code.sum(-1)

    def mean_code(self, mem):
        return mem


# -- what it is good for --------------------------------------------------------------------------

CONFIG = TrainConfig(
    iterations=60, batch=20, steps=10, lr=2e-2, beta=1.0, checkpoint_every=30, progress=False
)


def test_the_addition_is_short():
    assert len(inspect.getsource(Pursuit).splitlines()) <= 40


def test_it_learns_and_travels(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(100, 6)
    model = Pursuit(6, 5, rate=0.2)
    history = fit(model, x, CONFIG, checkpoint=tmp_path / "a.ckpt")
    assert history[-1]["nll"] < history[0]["nll"]
    model.save(tmp_path / "model.pt")
    loaded = ipvae_snn.load_model(tmp_path / "model.pt")
    assert type(loaded) is Pursuit
    assert loaded.rate == 0.2
    assert evaluate(loaded, x, 9).curves == evaluate(model, x, 9).curves
    assert "poisson" not in check(model, x, num_steps=80).as_dict()
    assert fit(Pursuit(6, 5, rate=0.2), x, CONFIG, checkpoint=tmp_path / "a.ckpt") == history
    with pytest.raises(ValueError, match=r"rate = 0\.2, this one has 0\.3"):
        fit(Pursuit(6, 5, rate=0.3), x, CONFIG, checkpoint=tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="holds a Pursuit, not a LCA"):
        ipvae_snn.baselines.LCA.load(tmp_path / "model.pt")


def test_the_command_trains_evaluates_checks_and_reports_it(tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--model", "own-pursuit", "--rate", "0.05", "--latents", "12", "--iterations", "20",
               "--batch", "10", "--steps", "5", "--samples", "20"]  # fmt: skip
    assert main(["train", "--data", "digits", "--out", str(run), "--eval-steps", "20", "--quiet",
                 *options]) == 0  # fmt: skip
    assert ipvae_snn.load_model(run / "model.pt").rate == 0.05
    for command in (["evaluate", str(run), "--data", "digits", "--steps", "5", "--quiet"],
                    ["report", str(run), "--steps", "10", "--samples", "10"]):  # fmt: skip
        assert main([*command, "--seed", "1"]) == 0
    assert main(["check", str(run), "--steps", "80", "--samples", "20"]) in (0, 1)
    assert "silence" in capsys.readouterr().out
    refused = ["train", "--data", "digits", "--out", str(tmp_path / "b"), "--sparsity", "0.3"]
    assert main([*refused, "--model", "own-pursuit"]) == 1
    assert "--sparsity belongs to --model lca" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "returned", "told"),
    [
        ("start", lambda state: state.spk, r"start\(\) .* State\(spk, mem\), it returned a Tensor"),
        (
            "advance",
            lambda state: state,
            r"advance\(\) of Wrong must return \(State\(spk, mem\), c",
        ),
        (
            "advance",
            lambda state: (state, state.spk.sum()),
            r"the cost .* of shape \(2,\), got \(\)",
        ),
    ],
)
def test_a_method_that_returns_something_else_is_refused(method, returned, told):
    state = State(torch.zeros(2, 5), torch.zeros(2, 5))
    wrong = type("Wrong", (Pursuit,), {method: lambda self, *inputs: returned(state)})
    with pytest.raises((TypeError, ValueError), match=told):
        wrong(6, 5).run(torch.rand(2, 6), 3)
