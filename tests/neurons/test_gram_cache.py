"""The cached Gram matrix: computed once while the weights stay the same, again when they change."""

import copy
import pickle

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAENeuron
from ipvae_snn import functional as F


def shared(k=6, **options):
    scale = nn.Parameter(torch.linspace(-1, 1, k + 2))
    return IPVAENeuron(nn.Linear(k, k + 2, bias=False), log_scale=scale, **options)


KINDS = {"learned": IPVAENeuron, "shared": shared}


@pytest.fixture(params=KINDS)
def neuron(request):
    torch.manual_seed(0)
    return KINDS[request.param](6, mem_init=0.0)


@pytest.fixture
def computed(monkeypatch):
    """A list with an entry for every Gram matrix that was computed."""
    calls, original = [], F._Gram.forward

    def count(*tensors):
        calls.append(tensors)
        return original(*tensors)

    monkeypatch.setattr(F._Gram, "forward", staticmethod(count))
    return calls


def steps(neuron, count=5):
    state = neuron.reset_mem()
    total = 0.0
    for _ in range(count):
        state = neuron(torch.ones(3, 6, dtype=neuron.mem_init.dtype), *state)
        total = total + state[1].square().sum() + state[0].sum()
    return total


def weight_of(neuron):
    return neuron.lateral.weight


def test_a_sequence_computes_it_once(neuron, computed):
    steps(neuron, 8)
    assert len(computed) == 1
    steps(neuron, 8)
    neuron.run(torch.ones(4, 3, 6))
    assert len(computed) == 1


def test_inference_after_learning_computes_one_without_a_graph(neuron, computed):
    steps(neuron)
    with torch.no_grad():
        assert not steps(neuron).requires_grad
        steps(neuron)
    assert len(computed) == 2
    assert steps(neuron).requires_grad


def optimizer_step(neuron):
    optimizer = torch.optim.SGD(neuron.parameters(), lr=0.1)
    steps(neuron).backward()
    optimizer.step()


def in_place(neuron):
    with torch.no_grad():
        weight_of(neuron).mul_(2)


def through_data(neuron):
    weight_of(neuron).data[:, 0].add_(2)


def one_value_through_data(neuron):
    weight_of(neuron).data[-1, -1] += 1e-3


def replaced_data(neuron):
    weight_of(neuron).data = torch.randn_like(weight_of(neuron))


def loaded(neuron):
    neuron.load_state_dict({name: 2 * value for name, value in neuron.state_dict().items()})


def to_double(neuron):
    neuron.double()


@pytest.mark.parametrize(
    "change",
    [
        optimizer_step,
        in_place,
        through_data,
        one_value_through_data,
        replaced_data,
        loaded,
        to_double,
    ],
)
def test_changed_weights_are_detected(neuron, change):
    steps(neuron)
    with torch.no_grad():
        steps(neuron)
    change(neuron)
    assert torch.equal(neuron.lateral.cached_gram(), neuron.gram())
    with torch.no_grad():
        assert torch.equal(neuron.lateral.cached_gram(), neuron.gram())


def test_a_changed_log_scale_is_detected():
    neuron = shared()
    steps(neuron)
    neuron.lateral.log_scale.data[0] = 0.7
    assert torch.equal(neuron.lateral.cached_gram(), neuron.gram())


def test_a_replaced_decoder_is_detected():
    neuron = shared()
    steps(neuron)
    neuron.lateral.decoder = nn.Linear(6, 8, bias=False)
    assert torch.equal(neuron.lateral.cached_gram(), neuron.gram())


def test_gradients_flow_from_sequences_that_share_it(neuron):
    """Two losses are computed before either is back-propagated."""
    torch.manual_seed(1)
    first, second = steps(neuron), steps(neuron)
    first.backward()
    second.backward()
    grads = [p.grad.clone() for p in neuron.parameters()]
    neuron.zero_grad()
    torch.manual_seed(1)
    for _ in range(2):
        neuron.lateral._cache = None  # each sequence computes its own
        steps(neuron).backward()
    for grad, parameter in zip(grads, neuron.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad)


def test_its_gradient_equals_that_of_the_uncached_matrix(neuron):
    neuron.double()
    torch.manual_seed(0)
    weights = torch.randn(6, 6, dtype=torch.float64)
    parameters = list(neuron.lateral.parameters())
    grads = torch.autograd.grad((neuron.lateral.cached_gram() * weights).sum(), parameters)
    expected = torch.autograd.grad((neuron.gram() * weights).sum(), parameters)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_weights_that_changed_before_backward_are_an_error(neuron):
    loss = steps(neuron)
    in_place(neuron)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_copies_and_pickles_do_not_share_the_cache(neuron):
    steps(neuron)
    for other in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert other.lateral._cache is None
        through_data(other)
        assert not torch.equal(other.lateral.cached_gram(), neuron.lateral.cached_gram())


def test_parametrized_weights_are_never_cached():
    neuron = IPVAENeuron(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8, bias=False)))
    steps(neuron).backward()
    neuron.lateral.decoder.parametrizations.weight.original0.data.mul_(2)
    assert neuron.lateral._cache is None
    torch.testing.assert_close(neuron.lateral.cached_gram(), neuron.gram())


def test_nan_in_the_weights_is_named(neuron):
    weight_of(neuron).data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="lateral weights holds"):
        steps(neuron)


def test_inference_mode_caches_nothing(neuron):
    with torch.inference_mode():
        steps(neuron)
    steps(neuron).backward()
