"""Weights computed from others: pruned, normed and parametrized ones, and their gradients."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from ipvae_snn import IPVAE, IPVAENeuron, TrainConfig, fit
from tests.every_model import make_baselines

M, K = 10, 6
CONFIG = TrainConfig(iterations=3, batch=8, steps=3, progress=False)
X = torch.rand(16, M, generator=torch.Generator().manual_seed(0))


class Cubed(nn.Module):
    def forward(self, raw):
        return raw + raw**3


class LowRank(nn.Module):
    """LoRA: a change of rank 2."""

    def __init__(self, rows, columns):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(rows, 2)), nn.Parameter(torch.randn(2, columns))

    def forward(self, weight):
        return weight + self.a @ self.b


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old norms are deprecated
        function(*arguments, **options)


DERIVED = {
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "prune twice": lambda layer: (
        prune.l1_unstructured(layer, "weight", 0.3),
        prune.ln_structured(layer, "weight", 0.3, n=2, dim=1),
    ),
    "old weight_norm": lambda layer: quietly(nn.utils.weight_norm, layer),
    "old spectral_norm": lambda layer: quietly(nn.utils.spectral_norm, layer),
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm": parametrizations.spectral_norm,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Cubed()),
    "low rank": lambda layer: parametrize.register_parametrization(
        layer, "weight", LowRank(*layer.weight.shape).to(layer.weight.dtype)
    ),
}
MODELS = {
    "ipvae": lambda: IPVAE(M, K, init_std=0.5),
    "ipvae, σ = 1": lambda: IPVAE(M, K, init_std=0.5, learn_scale=False),
    **make_baselines(M, K),
}


def derive(model, name):
    """Weights of the decoder made from others; the parameters they are made from."""
    before = set(model.parameters())
    DERIVED[name](model.decoder)
    kept = set(model.parameters())
    return [p for p in model.decoder.parameters() if p in kept - before or p not in before] or [
        p for p in model.decoder.parameters()
    ]


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_those_of_the_chain_rule(kind, name):
    """∂L/∂θ = ∂L/∂Φ ∂Φ/∂θ, with ∂L/∂Φ of a plain model that has the same weights."""
    torch.manual_seed(0)
    model = MODELS[kind]().double()
    derive(model, name)
    model.eval()  # spectral norms leave their vectors as they are
    raw = list(model.decoder.parameters())
    x = X.double()
    model.decoder(torch.zeros(1, K).double())
    phi = model.decoder.weight
    plain = MODELS[kind]().double().eval()
    shared = {n: w for n, w in model.state_dict().items() if n in plain.state_dict()}
    plain.load_state_dict(shared, strict=False)
    with torch.no_grad():
        plain.decoder.weight.copy_(phi)
    losses = []
    for one in (model, plain):
        with one.seeded(3):
            losses.append(one.loss(x, 4))
    torch.testing.assert_close(*losses)
    found = torch.autograd.grad(losses[0], raw)
    (outer,) = torch.autograd.grad(losses[1], plain.decoder.weight)
    expected = torch.autograd.grad(phi, raw, outer)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", DERIVED)
@pytest.mark.parametrize("kind", MODELS)
def test_they_are_trained(kind, name, tmp_path):
    torch.manual_seed(0)
    model = MODELS[kind]()
    DERIVED[name](model.decoder)
    before = [parameter.detach().clone() for parameter in model.decoder.parameters()]
    history = fit(model, X, CONFIG, checkpoint=tmp_path / "a.ckpt")
    after = list(model.decoder.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if "prune" in name:
        model.run(X, 2)
        assert (model.decoder.weight == 0).float().mean() >= 0.3
    again = MODELS[kind]()
    DERIVED[name](again.decoder)
    again.load_state_dict(model.state_dict())
    assert fit(again, X, CONFIG, checkpoint=tmp_path / "a.ckpt") == history


OF_NEURONS = {
    "bias": lambda n: prune.custom_from_mask(n, "log_bias", torch.arange(K) % 2),
    "rest": lambda n: prune.custom_from_mask(n, "mem_init", torch.arange(K) % 2),
    "factor": lambda n: prune.random_unstructured(n.lateral, "factor", 0.3),
    "normed factor": lambda n: quietly(nn.utils.weight_norm, n.lateral, "factor"),
    "step": lambda n: parametrize.register_parametrization(n, "log_step", Cubed()),
}


@pytest.mark.parametrize("call", ["steps", "run"])
@pytest.mark.parametrize("name", OF_NEURONS)
def test_parameters_of_neurons_may_be_derived_too(name, call):
    torch.manual_seed(0)
    neuron = IPVAENeuron(K, mem_init=0.0)
    OF_NEURONS[name](neuron)
    optimizer = torch.optim.SGD(neuron.parameters(), lr=0.1)
    mems = []
    for _ in range(3):
        neuron.reset_mem()
        torch.manual_seed(1)
        if call == "run":
            mem = neuron.run(torch.ones(4, 2, K)).mem[-1]
        else:
            state = neuron.initial_state((2, K))
            for _ in range(4):
                state = neuron(torch.ones(2, K), *state)
            mem = state[1]
        optimizer.zero_grad()
        mem.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in neuron.parameters())
        optimizer.step()
        mems.append(mem.detach())
    assert not torch.equal(mems[0], mems[1])
    assert not torch.equal(mems[1], mems[2])


def test_a_pruned_decoder_is_that_of_its_mask():
    torch.manual_seed(0)
    model, plain = IPVAE(M, K, init_std=0.5), IPVAE(M, K)
    plain.load_state_dict(model.state_dict())
    prune.custom_from_mask(model.decoder, "weight", torch.rand(M, K) > 0.5)
    with torch.no_grad():
        plain.decoder.weight.mul_(model.decoder.weight_mask)
    assert torch.equal(model.run(X, 5, seed=1).spk, plain.run(X, 5, seed=1).spk)
    with torch.no_grad():
        model.decoder.weight_orig.mul_(2)
        plain.decoder.weight.mul_(2)
    assert torch.equal(model.weight, plain.weight)
    assert torch.equal(model.run(X, 5, seed=1).spk, plain.run(X, 5, seed=1).spk)
