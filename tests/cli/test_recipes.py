"""Recipes and budgets on the command line: every value has a flag, and flags come first."""

import argparse
import inspect
import json
from dataclasses import fields

import pytest

from ipvae_snn import IPVAE, TrainConfig
from ipvae_snn.cli import main, parser
from ipvae_snn.cli import train as cli_train
from ipvae_snn.recipes import find
from ipvae_snn.runs import train
from ipvae_snn.runs.folder import describe
from ipvae_snn.surrogate import ESTIMATORS
from tests.runs.test_resume import raise_signal_at

SMALL = ["--data", "digits", "--latents", "6", "--batch", "10", "--steps", "4", "--samples", "10",
         "--eval-steps", "3", "--quiet"]  # fmt: skip


def config_of(run):
    return json.loads((run / "config.json").read_text())


def test_every_value_has_a_flag_of_its_name():
    commands = parser("train")._subparsers._group_actions[0].choices
    flags = set(commands["train"]._option_string_actions)
    in_python_only = {"likelihood", "in_features", "missing"}  # files with NaN are refused
    under_another_name = {"spike_grad", "progress", "generator", "temp"}
    names = {*inspect.signature(IPVAE).parameters, *(f.name for f in fields(TrainConfig))}
    for cls in ESTIMATORS.values():
        names |= {f.name for f in fields(cls) if cls.__module__.startswith("ipvae_snn.")}
    missing = {n for n in names if f"--{n.replace('_', '-')}" not in flags}
    assert missing == in_python_only | under_another_name


def test_the_help_tells_what_each_recipe_sets():
    text = parser("train")._subparsers._group_actions[0].choices["train"].format_help()
    assert isinstance(text, str)
    shown = " ".join(text.split())
    assert "published-mnist MNIST as the authors" in shown
    assert "no-learn-scale" in shown
    assert f"iterations {find('natural').training['iterations']}," in shown


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    """What config.json would hold, of a command whose training is left out."""

    def configured(*words):
        runs = []
        monkeypatch.setattr(
            cli_train, "train_run", lambda out, *given, **options: runs.append(given)
        )
        assert main(["train", *SMALL, *words, "--out", str(tmp_path / "run")]) == 0
        dataset, config = runs[0]
        return json.loads(json.dumps(describe(config, dataset)))

    return configured


def test_flags_override_the_recipe_and_every_value_is_recorded(chosen):
    recipe = find("published-mnist")
    config = chosen(
        "--recipe", "published-mnist", "--iterations", "2", "--no-learn-step", "--form", "exact",
        "--estimator", "eat", "--indicator", "sigmoid",
    )  # fmt: skip
    assert config["recipe"] == "published-mnist"
    given = {"batch": 10, "steps": 4, "iterations": 2, "progress": False}
    assert config["training"] == {**vars(TrainConfig()), **recipe.training, **given}
    options = config["model"]
    assert options.pop("spike_grad")["indicator"] == "sigmoid"
    assert (options.pop("name"), options.pop("latents")) == ("ipvae", 6)
    made = IPVAE(4, 6, **{**recipe.options, "form": "exact", "learn_step": False}).config()
    assert options == {name: made[name] for name in options}
    assert options.keys() >= recipe.options.keys() | {"bias", "step", "lateral_scale"}


def test_other_models_keep_their_own(chosen, capsys):
    config = chosen("--model", "lca")
    assert "recipe: lca, that of the model\n" in capsys.readouterr().out
    assert (config["recipe"], config["model"]["name"]) == ("lca", "lca")
    assert (config["training"]["lr"], config["training"]["weight_decay"]) == (3e-3, 0)


@pytest.mark.parametrize("given", [["--latents", "7"], ["--burn-in", "1"], ["--budget", "9", "s"]])
def test_what_was_asked_for_is_said(chosen, capsys, given):
    config = chosen("--recipe", "mnist", *given)
    assert "recipe: mnist, as asked\n" in capsys.readouterr().out
    values = {**config["training"], **config["model"], "budget": config["budget"]}
    assert values[given[0].strip("-").replace("-", "_")] == int(given[1])


def test_a_budget_trains_as_the_same_number_of_iterations_does(tmp_path, monkeypatch, capsys):
    measured = train.iterations_within

    def a_few_of(*arguments, **options):
        count = 3 + measured(*arguments, **options) % 3
        raise_signal_at(monkeypatch, 2)
        return count

    monkeypatch.setattr(train, "iterations_within", a_few_of)
    budget = [*SMALL, "--log-every", "1", "--budget", "0.1", "min"]
    run, plain = tmp_path / "budget", tmp_path / "plain"
    assert main(["train", *budget, "--out", str(run)]) == 130
    config = config_of(run)
    count = config["training"]["iterations"]
    assert config["budget"] == 6
    assert f"budget: {count} iterations, as many as fit into 6 s of" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr(train, "iterations_within", None)  # what is resumed is not measured again
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    command = ["train", *SMALL, "--log-every", "1", "--iterations", str(count)]
    assert main([*command, "--out", str(plain)]) == 0
    for name in ("history.csv", "metrics.json"):
        assert (run / name).read_bytes() == (plain / name).read_bytes()


def test_a_flag_may_be_given_in_several_words():
    words = ["train", "--data", "digits", "--out", "x", "--budget", "40", "min"]
    assert parser("train").parse_args(words).budget == ["40", "min"]
    assert isinstance(parser(), argparse.ArgumentParser)


def test_the_demo_takes_the_fast_recipe(monkeypatch, tmp_path):
    from ipvae_snn.cli import commands

    taken = []
    monkeypatch.setattr(commands, "train", taken.append)
    assert main(["demo", "--out", str(tmp_path / "run")]) == 0
    assert (taken[0].recipe, taken[0].data) == ("fast", "natural")


@pytest.mark.parametrize("recipe", ["natural", "mnist"])
def test_an_unknown_recipe_is_refused(recipe, capsys):
    with pytest.raises(SystemExit):
        main(["train", *SMALL, "--out", "x", "--recipe", f"{recipe}s"])
    assert "invalid choice" in capsys.readouterr().err
