"""Additions that are unusual or wrong: they work, or a clear message says what to do."""

import os
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAE, TrainConfig, fit, surrogate
from ipvae_snn.baselines import Baseline, PoissonVAE
from ipvae_snn.export import TARGETS
from ipvae_snn.models import (
    DECODERS,
    LIKELIHOODS,
    MODELS,
    BaseModel,
    ConvIPVAE,
    Decoder,
    Likelihood,
    Whitening,
)
from ipvae_snn.models.base import PARTS
from ipvae_snn.models.likelihoods import Bernoulli
from ipvae_snn.models.run_output import RECORDABLE, make_run
from ipvae_snn.models.whitening import WHITENINGS
from ipvae_snn.neurons import State

X = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
CONFIG = TrainConfig(iterations=4, batch=8, steps=3, checkpoint_every=2, progress=False)


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a test registers is gone after it."""
    for registry in (*PARTS.values(), MODELS, TARGETS):
        monkeypatch.setattr(registry, "_classes", dict(registry))


class Squared(Likelihood):
    """Has no constructor of its own."""

    def nll(self, x, eta):
        return (x - eta).square().sum(-1)

    def mean(self, eta):
        return eta


class Powered(Squared):
    def __init__(self, power=2.0):
        super().__init__()
        self.power, self.scale = power, 2.0

    def nll(self, x, eta):
        return (x - eta).abs().pow(self.power).sum(-1)


class Halved(Decoder):
    def __init__(self, width=4):
        super().__init__()
        self.width = width // 2
        self.first, self.last = nn.Linear(5, self.width), nn.Linear(self.width, 6)

    def forward(self, spk):
        return self.last(self.first(spk).tanh())


@dataclass
class Leaning(surrogate.Exact):
    share: float = 0.5

    def slope(self, spk, rate):
        return self.share * spk + (1 - self.share) * rate


class Network(BaseModel):
    """Not linear, and its arguments have names of their own."""

    def __init__(self, pixels, units, *, hidden=7, activation=torch.tanh):
        super().__init__()
        self.in_features, self.latents, self.activation = pixels, units, activation
        self.encoder, self.first = nn.Linear(pixels, units), nn.Linear(units, hidden)
        self.last = nn.Linear(hidden, pixels)

    def decode(self, spk):
        return self.last(self.activation(self.first(spk)))

    def mean_code(self, mem):
        return mem

    def run(self, x, num_steps=None, *, record=RECORDABLE, every=1, state=None, seed=None):
        with self.seeded(seed):
            mem = self.encoder(x).expand(num_steps, len(x), self.latents)
            spk = mem + torch.randn_like(mem)
        nll = (x - self.decode(spk)).square().sum(-1)
        fields = {"spk": spk, "mem": mem, "nll": nll, "kl": mem.square().sum(-1)}
        return make_run({name: fields[name] for name in record}, State(spk[-1], mem[-1]))


class Tanh(Network):
    def __init__(self, pixels, units, *, hidden=7):
        super().__init__(pixels, units, hidden=hidden)


def resaved(model, tmp_path):
    model.save(tmp_path / "model.pt")
    return ipvae_snn.load_model(tmp_path / "model.pt")


def test_a_likelihood_without_a_constructor_fits_resumes_and_is_saved(tmp_path):
    LIKELIHOODS.register("squared")(Squared)
    model = IPVAE(6, 5, likelihood=Squared())
    history = fit(model, X, CONFIG, checkpoint=tmp_path / "a.ckpt")
    assert type(resaved(model, tmp_path).decoded.likelihood) is Squared
    again = IPVAE(6, 5, likelihood=Squared())
    assert fit(again, X, CONFIG, checkpoint=tmp_path / "a.ckpt") == history


def test_a_model_that_is_not_linear_fits_resumes_and_is_saved(tmp_path):
    MODELS.register("tanh")(Tanh)
    model = Tanh(6, 5, hidden=3)
    history = fit(model, X, CONFIG, checkpoint=tmp_path / "a.ckpt")
    loaded = resaved(model, tmp_path)
    assert (type(loaded), loaded.config()) == (Tanh, {"pixels": 6, "units": 5, "hidden": 3})
    assert torch.equal(loaded.run(X, 4, seed=1).nll, model.run(X, 4, seed=1).nll)
    again = Tanh(6, 5, hidden=3)
    assert fit(again, X, CONFIG, checkpoint=tmp_path / "a.ckpt") == history


@pytest.mark.parametrize("power", [np.float64(1.5), np.float32(1.5), Fraction(3, 2)], ids=repr)
def test_numbers_of_any_type_are_saved_as_plain_ones(power, tmp_path):
    LIKELIHOODS.register("powered")(Powered)
    surrogate.ESTIMATORS.register("leaning")(Leaning)
    model = IPVAE(6, 5, likelihood=Powered(power), spike_grad=Leaning(power))
    loaded = resaved(model, tmp_path)
    assert type(loaded.decoded.likelihood.power) is type(loaded.neuron.spike_grad.share) is float
    assert loaded.neuron.spike_grad.share == 1.5


@pytest.mark.parametrize(
    "value", [torch.tanh, nn.Linear(2, 2), np.ones(2), torch.ones(2), [torch.ones(2)]], ids=type
)
def test_options_that_no_file_can_hold_are_refused_before_writing(value, tmp_path):
    LIKELIHOODS.register("powered")(Powered)
    surrogate.ESTIMATORS.register("leaning")(Leaning)
    MODELS.register("network")(Network)
    for says, model in {
        "power of Powered": IPVAE(6, 5, likelihood=Powered(value)),
        "share of Leaning": IPVAE(6, 5, spike_grad=Leaning(value)),
        "activation of Network": Network(6, 5, activation=value),
    }.items():
        with pytest.raises(TypeError, match=f"{says} cannot be written"):
            model.save(tmp_path / "model.pt")
    assert not os.listdir(tmp_path)


def test_options_that_no_file_can_hold_are_compared_on_resume(tmp_path):
    for number, (one, other) in enumerate(
        [(torch.tanh, torch.sin), (torch.ones(2), torch.zeros(2)), (np.ones(2), np.zeros(2))]
    ):
        path, models = tmp_path / f"{number}.ckpt", []
        for value in (one, one, other):
            models.append(Network(6, 5))
            models[-1]._arguments["activation"] = value
        history = fit(models[0], X, CONFIG, checkpoint=path)
        assert fit(models[1], X, CONFIG, checkpoint=path) == history
        with pytest.raises(ValueError, match="activation = "):
            fit(models[2], X, CONFIG, checkpoint=path)


def test_an_option_set_later_is_saved_and_one_that_was_changed_on_the_way_is_not(tmp_path):
    LIKELIHOODS.register("powered")(Powered)
    DECODERS.register("halved")(Halved)
    model = IPVAE(6, 5, likelihood=Powered(), decoder=Halved(8))
    model.decoded.likelihood.power = 3
    loaded = resaved(model, tmp_path)
    assert loaded.decoded.likelihood.config() == {"power": 3}
    assert (loaded.decoder.config(), loaded.decoder.width) == ({"width": 8}, 4)
    model.decoded.likelihood.power = torch.ones(2)
    with pytest.raises(TypeError, match="power of Powered"):
        model.save(tmp_path / "model.pt")


def test_an_estimator_with_a_constructor_of_its_own_is_refused():
    @surrogate.ESTIMATORS.register("own")
    class Own(Leaning):
        def __init__(self, amount=0.5):
            super().__init__(amount)

    with pytest.raises(TypeError, match=r"Own takes options .*decorate it with @dataclass"):
        surrogate.to_config(Own(0.3))


def test_the_same_name_in_another_module_is_another_class():
    LIKELIHOODS.register("powered")(Powered)
    elsewhere = type("Powered", (Powered,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match="taken by Powered"):
        LIKELIHOODS.register("powered")(elsewhere)
    again = type("Powered", (Powered,), {"__module__": __name__})
    assert LIKELIHOODS.register("powered")(again) is LIKELIHOODS["powered"] is again


PARTIAL = {
    r"slope\(spk, rate\)": (surrogate.ESTIMATORS, (surrogate.Exact,), ()),
    r"mean\(eta\)": (LIKELIHOODS, (Likelihood,), ("nll",)),
    r"nll\(x, eta\)": (LIKELIHOODS, (Likelihood,), ("mean",)),
    r"forward\(spk\)": (DECODERS, (Decoder,), ()),
    r"start\(sensed\)": (MODELS, (Baseline,), ("advance", "mean_code")),
    r"advance\(sensed, state, shared\)": (MODELS, (Baseline,), ("start", "mean_code")),
    r"mean_code\(mem\)": (MODELS, (BaseModel,), ("run", "decode")),
    r"run\(x, num_steps.*\)": (MODELS, (BaseModel,), ("mean_code", "decode")),
}


@pytest.mark.parametrize("says", PARTIAL)
def test_a_missing_method_is_named(says):
    registry, bases, methods = PARTIAL[says]
    cls = type("Mine", bases, dict.fromkeys(methods, lambda self, *values: None))
    for use in (registry.register("mine"), lambda made: made()):
        with pytest.raises(TypeError, match=f"Mine must define {says}"):
            use(cls)


@pytest.mark.parametrize("registry", [*PARTS.values(), MODELS, TARGETS], ids=lambda r: r.kind)
def test_what_cannot_be_registered(registry):
    with pytest.raises(TypeError, match="register needs a name"):
        registry.register(Squared)
    for stranger in (nn.Linear, print):
        with pytest.raises(TypeError, match=f"must extend {registry.base.__name__}"):
            registry.register("stranger")(stranger)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: IPVAE(6, 5, spike_grad=Leaning), "spike_grad Leaning is a class: did you forget"),
        (lambda: PoissonVAE(6, 5, spike_grad=Leaning), "spike_grad Leaning is a class"),
        (lambda: IPVAE(6, 5, likelihood=Bernoulli), "likelihood Bernoulli is a class"),
        (lambda: IPVAE(6, 5, decoder=Halved), "decoder Halved is a class"),
        (lambda: IPVAE(6, 5, likelihood=lambda: 0), "likelihood must be a Likelihood, got func"),
    ],
)
def test_classes_and_functions_in_place_of_instances(make, says):
    with pytest.raises(TypeError, match=says):
        make()


class ByPixel(Squared):
    def nll(self, x, eta):
        return (x - eta).square()


class Costly(Baseline):
    def start(self, sensed):
        return State(sensed.new_zeros(len(sensed), 5), sensed.new_zeros(len(sensed), 5))

    def advance(self, sensed, state, shared):
        return state, state.spk

    def mean_code(self, mem):
        return mem


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: IPVAE(6, 5, likelihood=ByPixel()), r"nll of ByPixel must .*\(8,\), got \(8, 6\)"),
        (lambda: Costly(6, 5), r"the cost that advance\(\) of Costly gives .*\(8,\), got \(8, 5\)"),
    ],
)
def test_a_wrong_shape_is_no_divergence(make, says):
    with pytest.raises(ValueError, match=says):
        fit(make(), X, CONFIG)


class Doubled(Whitening):
    def __call__(self, images):
        return 2 * super().__call__(images)


@pytest.mark.parametrize("registry", [*PARTS.values(), MODELS], ids=lambda r: r.kind)
def test_a_file_of_a_class_that_was_not_imported(registry, tmp_path):
    surrogate.ESTIMATORS.register("mine")(Leaning)
    LIKELIHOODS.register("mine")(Powered)
    DECODERS.register("mine")(Halved)
    MODELS.register("mine")(Tanh)
    WHITENINGS.register("mine")(Doubled)
    parts = {"spike_grad": Leaning(), "likelihood": Powered(), "decoder": Halved()}
    if registry is WHITENINGS:
        model = ConvIPVAE(1, 5, 4, 2, whitening=Doubled([[1.0]], [0.0]))
    else:
        model = Tanh(6, 5) if registry is MODELS else IPVAE(6, 5, **parts)
    model.save(tmp_path / "model.pt")
    del registry._classes["mine"]
    says = f"unknown {registry.kind} 'mine'.* import the module that registers it"
    with pytest.raises(ValueError, match=says):
        ipvae_snn.load_model(tmp_path / "model.pt")


def estimator_of(factor):
    return lambda mem: (lambda q: factor * q.exp())(mem)


def test_functions_are_compared_by_their_code_and_by_what_they_close_over(tmp_path):
    x, config = torch.rand(8, 6), TrainConfig(iterations=2, batch=4, steps=2, progress=False)
    path = tmp_path / "checkpoint.pt"
    fit(IPVAE(6, 5, spike_grad=estimator_of(1.0)), x, config, checkpoint=path)
    fit(IPVAE(6, 5, spike_grad=estimator_of(1.0)), x, config, checkpoint=path)
    with pytest.raises(ValueError, match="spike_grad"):
        fit(IPVAE(6, 5, spike_grad=estimator_of(2.0)), x, config, checkpoint=path)
