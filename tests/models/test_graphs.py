"""When what a model infers carries the graph of autograd: when somebody may want to learn."""

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, fit, load_model, surrogate
from ipvae_snn.models import Bernoulli
from tests.every_model import make_baselines

M, K = 10, 6
X = torch.rand(8, M, generator=torch.Generator().manual_seed(0))
CONFIG = TrainConfig(iterations=2, batch=4, steps=2, progress=False)
MODELS = {
    "ipvae": lambda: IPVAE(M, K, init_std=0.3),
    "relaxed": lambda: IPVAE(M, K, init_std=0.3, spike_grad=surrogate.eat(0.5)),
    "likelihood": lambda: IPVAE(M, K, likelihood=Bernoulli()),
    **make_baselines(M, K),
}


@pytest.fixture(params=MODELS)
def make(request):
    return MODELS[request.param]


def tensors(out):
    return [*out[:-1], *out.state]


def test_a_loaded_model_infers_without_a_graph(make, tmp_path):
    make().save(tmp_path / "model.pt")
    model = load_model(tmp_path / "model.pt")
    out = model.run(X, 5)
    for part in tensors(out):
        part.numpy()
    model.decode(out.state.spk).numpy()
    model.mean_code(out.mem).numpy()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_so_does_a_fitted_one_and_both_can_be_trained_on(make, tmp_path):
    model = make()
    fit(model, X, CONFIG)
    assert not any(part.requires_grad for part in tensors(model.run(X, 3)))
    model.save(tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    before = again.decoder.weight.detach().clone()
    fit(again, X, CONFIG)
    assert not torch.equal(again.decoder.weight, before)


def test_the_loss_has_gradients_in_both_modes(make):
    model = make()
    for mode in (True, False):
        model.train(mode).zero_grad()
        model.loss(X, 4).backward()
        assert model.decoder.weight.grad.abs().sum() > 0
        with torch.no_grad():
            assert not model.loss(X, 4).requires_grad


def test_in_train_mode_gradients_flow(make):
    out = make().run(X, 4)
    assert out.nll.requires_grad
    assert not MODELS["ipvae"]().run(X, 4, graph=False).nll.requires_grad


def test_a_graph_may_be_asked_for(make):
    model = make().eval()
    out = model.run(X, 4, graph=True)
    out.nll.mean().backward()
    assert model.decoder.weight.grad is not None
    with pytest.raises(TypeError, match="graph must be True or False"):
        model.run(X, 4, graph="yes")
    with torch.no_grad():
        assert not model.run(X, 4, graph=True).nll.requires_grad


def test_inputs_and_codes_that_require_gradients_get_them(make):
    model = make().eval()
    x = X.clone().requires_grad_()
    model.run(x, 4).nll.sum().backward()
    assert x.grad.abs().sum() > 0
    z = torch.ones(2, K, requires_grad=True)
    model.decode(z).sum().backward()
    assert z.grad is not None
    assert not model.decode(torch.ones(2, K)).requires_grad


def test_a_state_that_requires_a_gradient_gets_it():
    model = MODELS["ipvae"]().eval()
    state = tuple(part.clone().requires_grad_() for part in model.run(X, 2).state)
    model.run(X, 2, state=state).mem.sum().backward()
    assert all(part.grad is not None for part in state)


def test_the_spikes_do_not_depend_on_the_graph(make):
    model = make().eval()
    one, other = (model.run(X, 5, seed=1, graph=graph) for graph in (True, False))
    for name in ("spk", "mem", "nll", "kl"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_neurons_keep_their_graph_as_snntorchs_do():
    model = MODELS["ipvae"]().eval()
    assert model.neuron(model.neuron.drive(X))[1].requires_grad
    assert model.weight.requires_grad


def test_a_decoder_of_ones_own_is_trained_by_the_loss_in_eval_mode():
    model = IPVAE(M, K, decoder=nn.Sequential(nn.Linear(K, 4), nn.Tanh(), nn.Linear(4, M))).eval()
    model.loss(X, 3).backward()
    assert model.decoder[0].weight.grad.abs().sum() > 0
    assert not model.decode(torch.ones(2, K)).requires_grad
