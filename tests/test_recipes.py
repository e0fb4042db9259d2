"""Recipes: plain data that makes a model and its training, changed by name."""

import json

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, baselines, recipes
from ipvae_snn.models import MODELS
from ipvae_snn.recipes import OTHER_RULES, RECIPES, Recipe, by_rule, find, suited

NAMES = ["natural", "mnist", "mnist-network", "published-natural", "published-mnist", "fast"]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_plain_data_that_makes_a_model_and_its_training(name):
    recipe = find(name)
    assert recipe.name == name
    assert json.loads(json.dumps(recipe.options)) == recipe.options
    model, config = recipe.changed(latents=3).make_model(4), recipe.config()
    assert type(model) is IPVAE
    assert (model.in_features, model.latents) == (4, 3)
    made = model.config()
    for option, value in recipe.options.items():
        of_part = value.items() if isinstance(value, dict) else ()
        assert made[option] == value or of_part <= made[option].items()
    assert {n: getattr(config, n) for n in recipe.training} == recipe.training


def test_all_recipes_have_a_test():
    assert list(RECIPES) == NAMES


@pytest.mark.parametrize(
    ("name", "lr", "batch", "samples", "epochs", "clip", "steps", "beta"),
    [
        ("published-natural", 5e-3, 200, 103_000, 300, 300, 16, 24),
        ("published-mnist", 2e-3, 100, 60_000, 400, 3000, 128, 128),
    ],
)
def test_the_published_recipes_are_those_of_the_paper(
    name, lr, batch, samples, epochs, clip, steps, beta
):
    config, model = find(name).config(), find(name).changed(latents=3).make_model(4).config()
    assert (config.lr, config.batch, config.steps) == (lr, batch, steps)
    assert (config.grad_clip, config.beta, config.beta_ramp) == (clip, beta, 0.1)
    assert config.iterations == pytest.approx(epochs * samples / batch, rel=0.01)
    assert (config.warmup, config.lr_end, config.weight_decay) == (0.005, 1e-5, 3e-4)
    assert (model["form"], model["kl_form"]) == ("published", "published")
    assert (model["clamp"], model["init_std"], model["learn_scale"]) == (10, 1e-4, True)


def test_what_a_recipe_does_not_state_is_the_default():
    assert find("fast").config() == TrainConfig(iterations=1800, beta=16.0, lr=3e-2)
    model = find("fast").changed(latents=3).make_model(4)
    stated = {"clamp": 8.0, "lateral_scale": 0.85, "bias": 0.3, "learn_bias": False}
    assert model.config() == IPVAE(4, 3, **stated).config()


def test_values_are_of_the_training_or_of_the_model():
    recipe = find("mnist").changed(lr=1e-3, clamp=3.0, latents=5, step=0.25)
    assert recipe.config().lr == 1e-3
    model = recipe.make_model(4)
    assert (model.neuron.clamp, model.latents) == (3.0, 5)
    assert model.config()["step"] == 0.25
    assert find("mnist").config().lr != 1e-3  # the recipe itself is as it was
    assert recipe.config().beta == find("mnist").config().beta


def test_the_burn_in_keeps_its_share_of_the_timesteps_unless_given():
    recipe = find("mnist")
    assert recipe.config().burn_in * 2 == recipe.config().steps
    assert recipe.changed(steps=5).config().burn_in == 2
    assert recipe.changed(steps=1).config().burn_in == 0
    assert recipe.changed(steps=20, burn_in=3).config().burn_in == 3
    with pytest.raises(ValueError, match="burn_in must be below steps = 20"):
        recipe.changed(steps=20, burn_in=20).config()
    with pytest.raises(ValueError, match="steps must be at least 1, got -4"):
        recipe.changed(steps=-4)


@pytest.mark.parametrize("name", ["learning_rate", "in_features", "sparsity"])
def test_a_value_of_neither_is_refused(name):
    with pytest.raises(ValueError, match=f"recipe natural cannot set '{name}'.*model ipvae"):
        find("natural").changed(**{name: 1})


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown recipe 'nature': expected one of natural, mnist"):
        find("nature")
    with pytest.raises(ValueError, match="unknown model 'vae'"):
        Recipe("mine", "", model="vae")
    with pytest.raises(ValueError, match="cannot set 'width'"):
        Recipe("mine", "", training={"width": 3})


@pytest.mark.parametrize(("kind", "name"), [("patches", "natural"), ("samples", "mnist")])
def test_the_data_decide_for_the_ipvae(kind, name):
    assert suited(kind) is RECIPES[name]


@pytest.mark.parametrize("kind", ["patches", "samples"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "ipvae"])
def test_other_models_have_a_recipe_of_their_own(kind, name):
    recipe, cls = suited(kind, name), MODELS[name]
    assert (recipe.name, recipe.model) == (name, name)
    assert cls.recipe.items() <= {**recipe.training, **recipe.options}.items()
    if kind == "patches":
        assert {**recipe.training, **recipe.options} == cls.recipe
    else:
        assert recipe.training["grad_clip"] == 3000
    assert type(recipe.changed(latents=3).make_model(16)) is cls


def test_a_model_that_weighs_its_own_objective_gets_the_weight_of_the_training():
    recipe = suited("patches", "semi-amortised-vae").changed(beta=3.0, latents=3, width=16)
    assert (recipe.make_model(9).beta, recipe.config().beta) == (3.0, 3.0)


def test_options_may_be_plain_data_of_an_estimator():
    recipe = find("fast").changed(latents=3, spike_grad={"name": "eat", "indicator": "sigmoid"})
    assert recipe.make_model(4).neuron.spike_grad.indicator == "sigmoid"


def test_arguments_that_are_passed_on_are_options_too():
    made = suited("samples", "gaussian-vae").changed(
        latents=3, encoder="conv", width=16, image_shape=(4, 4)
    )
    model = made.make_model(16)
    assert isinstance(model, baselines.GaussianVAE)
    assert model.run(torch.rand(2, 16), 1).state.spk.shape == (2, 3)


def test_the_package_has_them():
    assert recipes.RECIPES is RECIPES


@pytest.mark.parametrize(("name", "rule"), OTHER_RULES)
def test_recipes_for_another_rule(name, rule):
    own = RECIPES[name] if name in RECIPES else suited("images", name)
    other = by_rule(own, rule)
    assert (other.name, other.model, other.config().rule) == (f"{name}-{rule}", own.model, rule)
    assert type(other.changed(latents=3).make_model(16)) is MODELS[own.model]
    assert by_rule(own, None) is own
    assert by_rule(own, own.config().rule) is own


def test_recipes_without_another_rule_are_refused():
    with pytest.raises(ValueError, match=r"fast is not for .*'local': .*: natural, mnist"):
        by_rule(RECIPES["fast"], "local")
