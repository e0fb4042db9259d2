"""Parts of a model that are replaced or added: they work, are refused, and are saved or refused."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from ipvae_snn import IPVAE, IPVAENeuron, TrainConfig, fit, load_model, surrogate
from ipvae_snn.baselines import (
    IGVAE,
    LCA,
    GaussianVAE,
    IterativeAmortisedVAE,
    PoissonVAE,
    SemiAmortisedVAE,
)
from ipvae_snn.models import DECODERS, Bernoulli, Decoder, Gaussian, LinearDecoder
from ipvae_snn.neurons.lateral import SharedDecoder
from tests.every_model import BASELINES

M, K = 10, 6
CONFIG = TrainConfig(iterations=2, batch=8, steps=3, progress=False)
X = torch.rand(16, M, generator=torch.Generator().manual_seed(0))


class Wrapped(nn.Module):
    """As adapters wrap a layer: it looks like the layer, and computes more."""

    def __init__(self, base):
        super().__init__()
        self.base, self.more = base, nn.Linear(base.in_features, base.out_features, bias=False)
        self.in_features, self.out_features, self.bias = base.in_features, base.out_features, None

    @property
    def weight(self):
        return self.base.weight

    def forward(self, spk):
        return self.base(spk) + self.more(spk)


class Adapted(nn.Linear):
    def __init__(self):
        super().__init__(K, M, bias=False)
        self.more = nn.Linear(K, M, bias=False)

    def forward(self, spk):
        return super().forward(spk) + self.more(spk)


class Hidden(Decoder):
    def __init__(self, latents=K, in_features=M):
        super().__init__()
        self.first, self.act, self.last = (
            nn.Linear(latents, 4),
            nn.Tanh(),
            nn.Linear(4, in_features),
        )

    def forward(self, spk):
        return self.last(self.act(self.first(spk)))


@pytest.fixture
def hidden(monkeypatch):
    monkeypatch.setattr(DECODERS, "_classes", dict(DECODERS))
    DECODERS.register("hidden")(Hidden)


def linear():
    return IPVAE(M, K)


def decoded():
    return IPVAE(M, K, decoder=LinearDecoder(K, M), likelihood=Bernoulli())


# -- setting them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [linear, *((lambda c=c: c(M, K)) for c in BASELINES)])
def test_a_new_linear_decoder_is_what_learns(make, tmp_path):
    model, phi = make(), nn.Linear(K, M, bias=False)
    model.decoder = phi
    before = phi.weight.detach().clone()
    fit(model, X, CONFIG)
    assert model.decoder is phi
    assert not torch.equal(phi.weight, before)
    model.save(tmp_path / "model.pt")
    assert torch.equal(load_model(tmp_path / "model.pt").decoder.weight, phi.weight)


@pytest.mark.parametrize("make", [linear, *((lambda c=c: c(M, K)) for c in BASELINES)])
@pytest.mark.parametrize(
    ("decoder", "says"),
    [
        (lambda old: Wrapped(old), "only its weights are read"),
        (lambda old: Adapted(), "a forward of its own"),
        (lambda old: nn.Linear(K, M), "no bias"),
        (lambda old: nn.Linear(K + 1, M, bias=False), "shape"),
        (lambda old: nn.Linear(K, M + 1, bias=False), "shape"),
        (lambda old: nn.Sequential(old), "only its weights are read"),
        (lambda old: old.weight, "nn.Linear"),
        (lambda old: None, "nn.Linear"),
    ],
)
def test_a_decoder_that_would_be_read_in_part_is_refused(make, decoder, says):
    model = make()
    old, names = model.decoder, [name for name, _ in model.named_parameters()]
    with pytest.raises((TypeError, ValueError), match=says):
        model.decoder = decoder(old)
    assert model.decoder is old
    assert [name for name, _ in model.named_parameters()] == names
    model.loss(X, 2).backward()


def test_an_adapter_is_a_decoder_of_ones_own():
    model = IPVAE(M, K, decoder=Adapted())
    model.loss(X, 3).backward()
    assert model.decoder.more.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("make", [linear, *((lambda c=c: c(M, K)) for c in BASELINES)])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: setattr(d, "weight", nn.Parameter(torch.rand(M, K - 1))), "shape"),
        (lambda d: setattr(d, "bias", nn.Parameter(torch.rand(M))), "no bias"),
    ],
)
def test_a_decoder_changed_from_outside_is_refused_before_training(make, change, says):
    model = make()
    change(model.decoder)
    with pytest.raises(ValueError, match=says):
        fit(model, X, CONFIG)


def test_new_weights_of_the_decoder_are_what_infers():
    model, other = linear(), linear()
    model.decoder.weight = nn.Parameter(other.decoder.weight.detach().clone())
    model.neuron.mem_init = nn.Parameter(other.neuron.mem_init.detach().clone())
    assert torch.equal(model.run(X, 4, seed=1).spk, other.run(X, 4, seed=1).spk)
    model.loss(X, 4).backward()
    assert model.decoder.weight.grad.abs().sum() > 0


def test_a_likelihood_may_be_replaced_where_there_is_one():
    model, gaussian = decoded(), Gaussian(M)
    names = [name for name, _ in model.named_parameters()]
    model.likelihood = gaussian
    assert model.decoded.likelihood is gaussian
    assert [n for n, _ in model.named_parameters()] == [*names, "decoded.likelihood.raw_log_scale"]
    for wrong in (nn.Linear(K, M), 3, Bernoulli):
        with pytest.raises(TypeError, match="likelihood"):
            model.likelihood = wrong
    with pytest.raises(TypeError, match="make another one"):
        linear().likelihood = Bernoulli()


@pytest.mark.parametrize("make", [linear, decoded])
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("neuron", lambda: IPVAENeuron(K), "lateral weights of the kind"),
        ("neuron", lambda: IPVAENeuron(nn.Linear(K, M + 1, bias=False)), "lateral weights"),
        ("neuron", lambda: nn.Linear(K, K), "IPVAENeuron"),
        ("neuron", lambda: IPVAENeuron, "is a class"),
        ("decoded", lambda: nn.Linear(K, M), "make another IPVAE"),
        ("spike_grad", surrogate.rate, r"set model\.neuron\.spike_grad"),
        ("leak", lambda: 0.5, r"set model\.neuron\.leak"),
        ("clamp", lambda: 3.0, r"set model\.neuron\.clamp"),
        ("lateral_scale", lambda: 0.5, r"set model\.neuron\.lateral_scale"),
        ("step", lambda: 0.5, r"set model\.neuron\.step"),
        ("mem_init", lambda: -1.0, r"set model\.neuron\.mem_init"),
        ("lateral", lambda: IPVAENeuron(K).lateral, r"set model\.neuron\.lateral"),
        ("log_scale", lambda: nn.Parameter(torch.zeros(M)), r"set model\.neuron\.lateral"),
        ("weight", lambda: nn.Parameter(torch.zeros(M, K)), r"set model\.decoder\.weight"),
        ("latents", lambda: K + 1, "fixed"),
        ("in_features", lambda: M + 1, "fixed"),
        ("learn_scale", lambda: False, "fixed"),
        ("kl_form", lambda: "other", "form"),
        ("precision", lambda: "int8", "precision"),
    ],
)
def test_what_nothing_would_read_is_refused(make, name, value, says):
    model = make()
    names, config = [n for n, _ in model.named_parameters()], model.config()
    with pytest.raises((TypeError, ValueError), match=says):
        setattr(model, name, value())
    assert [n for n, _ in model.named_parameters()] == names
    assert model.config() == config


def test_neurons_may_be_replaced_by_ones_that_fit():
    model, phi = linear(), nn.Linear(K, M, bias=False)
    model.neuron = IPVAENeuron(phi, clamp=3)
    assert model.decoder is phi
    assert model.config()["clamp"] == 3
    fit(model, X, CONFIG)
    model.neuron.lateral = SharedDecoder(nn.Linear(K, M, bias=False))
    fit(model, X, CONFIG)


def test_lateral_weights_that_are_not_the_decoders_are_refused():
    model = linear()
    for lateral in (IPVAENeuron(K).lateral, SharedDecoder(nn.Linear(K, M + 1, bias=False))):
        model.neuron.lateral = lateral
        with pytest.raises(TypeError, match="lateral weights of its decoder"):
            fit(model, X, CONFIG)


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (LCA, "sparsity", -1.0), (LCA, "sparsity", float("nan")), (LCA, "rate", 0.0),
        (LCA, "rate", 2), (LCA, "nonnegative", "yes"), (SemiAmortisedVAE, "beta", -1),
        (SemiAmortisedVAE, "beta", float("nan")), (SemiAmortisedVAE, "step", 0.5),
        (IGVAE, "step", 0.5), (IGVAE, "relu", True), (GaussianVAE, "relu", True),
        (GaussianVAE, "encoder", "conv"), (IterativeAmortisedVAE, "width", 32),
        (PoissonVAE, "init_std", 1.0), (PoissonVAE, "clamp", 3.0), (PoissonVAE, "latents", 7),
        (LCA, "in_features", 7), (LCA, "precision", "bfloat16"),
    ],
)  # fmt: skip
def test_settings_of_baselines_are_checked_when_they_are_set(cls, name, value):
    model = cls(M, K)
    config = model.config()
    with pytest.raises((TypeError, ValueError), match=name):
        setattr(model, name, value)
    assert model.config() == config
    model.run(X, 2)


# -- saving them ----------------------------------------------------------------------------------


def quietly(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old norms are deprecated
        function(*arguments)


DERIVED = {
    "prune": (
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
        lambda layer: prune.remove(layer, "weight"),
    ),
    "old weight_norm": (
        lambda layer: quietly(nn.utils.weight_norm, layer),
        nn.utils.remove_weight_norm,
    ),
    "old spectral_norm": (
        lambda layer: quietly(nn.utils.spectral_norm, layer),
        nn.utils.remove_spectral_norm,
    ),
    "weight_norm": (
        parametrizations.weight_norm,
        lambda layer: parametrize.remove_parametrizations(layer, "weight"),
    ),
    "orthogonal": (
        parametrizations.orthogonal,
        lambda layer: parametrize.remove_parametrizations(layer, "weight"),
    ),
}


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize(
    "make", [linear, decoded, lambda: IPVAE(M, K, decoder=Hidden()), lambda: LCA(M, K)]
)
def test_derived_weights_are_refused_by_save_with_the_cure(make, name, tmp_path, hidden):
    model, (derive, make_permanent) = make(), DERIVED[name]
    layer = model.decoder.first if isinstance(model.decoder, Hidden) else model.decoder
    derive(layer)
    fit(model, X, CONFIG)
    with pytest.raises(ValueError, match=r"make them permanent by prune\.remove"):
        model.save(tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
    expected = model.run(X, 4, seed=1)
    make_permanent(layer)
    model.save(tmp_path / "model.pt")
    found = load_model(tmp_path / "model.pt").run(X, 4, seed=1)
    torch.testing.assert_close(found.nll, expected.nll)
    fit(model, X, CONFIG)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.register_buffer("mean", torch.zeros(M)), r"mean is a buffer \(10,\)"),
        (lambda m: setattr(m, "head", nn.Linear(K, 3)), "head.weight"),
        (lambda m: setattr(m.decoder, "first", nn.Linear(K, 4, bias=False)), "first.bias"),
        (lambda m: setattr(m.decoder, "first", Adapted()), "first"),
        (lambda m: setattr(m.decoder, "act", nn.ReLU()), "act is a ReLU, there a Tanh"),
        (lambda m: setattr(m.decoder, "last", nn.Sequential(m.decoder.last)), "last"),
        (lambda m: setattr(m.neuron, "lateral", IPVAENeuron(K).lateral), "lateral"),
        (lambda m: m.neuron.mem_init.data.fill_(float("nan")), "NaN"),
        (lambda m: m.neuron.mem_init.data.fill_(90), "mem_init"),
        (lambda m: m.to("meta"), "meta"),
        (lambda m: setattr(m.neuron, "state_quant", torch.round), "no file holds"),
        (lambda m: setattr(m.neuron, "surrogate_disable", True), "no file holds"),
    ],
)
def test_what_load_could_not_make_again_is_refused_by_save(change, says, tmp_path, hidden):
    model = IPVAE(M, K, decoder=Hidden())
    model.save(tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    change(model)
    state = torch.get_rng_state()
    with pytest.raises((TypeError, ValueError), match=says):
        model.save(tmp_path / "model.pt")
    assert torch.equal(torch.get_rng_state(), state)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_bytes() == before


def test_buffers_that_no_file_holds_do_not_keep_a_model_from_being_saved(tmp_path):
    model = linear()
    model.register_buffer("seen", torch.zeros(3), persistent=False)
    model.requires_grad_(False)
    model.save(tmp_path / "model.pt")
    assert torch.equal(IPVAE.load(tmp_path / "model.pt").weight, model.weight)


def test_a_model_without_anything_to_learn_is_refused_by_fit():
    for model in (linear(), LCA(M, K)):
        with pytest.raises(ValueError, match=r"call model\.requires_grad_\(\)"):
            fit(model.requires_grad_(False), X, CONFIG)


def test_a_subclass_may_set_attributes_of_its_own_at_any_time():
    class Mine(IPVAE):
        def __init__(self):
            self.early = 1
            super().__init__(M, K)
            self.late = nn.Linear(K, 2)

    model = Mine()
    model.later = torch.zeros(3)
    assert model.early == 1
    model.loss(X, 2).backward()
