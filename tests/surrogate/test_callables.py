"""What may be given as ``spike_grad``: estimators, and callables that count as they do."""

import pytest
import snntorch as snn
import torch
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, surrogate
from ipvae_snn.baselines import PoissonVAE

DOORS = {
    "neuron": lambda f: IPVAENeuron(8, spike_grad=f),
    "neuron, later": lambda f: setattr(IPVAENeuron(8), "spike_grad", f),
    "model": lambda f: IPVAE(16, 8, spike_grad=f),
    "model, later": lambda f: setattr(IPVAE(16, 8).neuron, "spike_grad", f),
    "baseline": lambda f: PoissonVAE(16, 8, spike_grad=f),
    "baseline, later": lambda f: setattr(PoissonVAE(16, 8), "spike_grad", f),
}
FACTORIES = (
    "straight_through_estimator", "triangular", "fast_sigmoid", "atan", "heaviside", "sigmoid",
    "spike_rate_escape", "SSO", "LSO", "SFS",
)  # fmt: skip
FOREIGN = {
    name: getattr(snn.surrogate, name)() for name in FACTORIES if hasattr(snn.surrogate, name)
}
NO_ESTIMATORS = {
    **FOREIGN,
    "a custom surrogate": snn.surrogate.custom_surrogate(lambda x, grad, out: grad),
    "its factory": snn.surrogate.fast_sigmoid,
    "apply": snn.surrogate.ATan.apply,
    "threshold": lambda mem: (mem > 0).to(mem.dtype),
    "another threshold": lambda mem: (mem >= 1).float(),
    "a steep one": lambda mem: torch.heaviside(mem, torch.ones(())),
    "one spike at most": lambda mem: torch.bernoulli(torch.sigmoid(mem)),
    "capped": lambda mem: torch.poisson(mem.exp()).clamp(max=1),
    "log rates": torch.poisson,
    "identity": lambda mem: mem,
    "relu": torch.relu,
    "module": nn.ReLU(),
    "sigmoid function": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": nn.functional.softplus,
    "abs": torch.abs,
    "round": torch.round,
    "expm1": torch.expm1,
    "square": torch.square,
    "constant": torch.ones_like,
    "opposite": lambda mem: (-mem).exp(),
    "NaN": lambda mem: mem * float("nan"),
    "a layer": nn.Linear(8, 8),
    "another shape": lambda mem: mem.exp()[:1],
    "no tensor": len,
    "nothing": print,
}


class Draws(nn.Module):
    def forward(self, mem):
        return torch.poisson(mem.exp())


ESTIMATORS = {
    "mean field": torch.exp,
    "rounded": lambda mem: mem.exp().round(),
    "poisson": lambda mem: torch.poisson(mem.exp()),
    "straight through": lambda mem: torch.poisson(mem.exp()) + mem.exp() - mem.exp().detach(),
    "twice as many": lambda mem: 2 * mem.exp(),
    "at most ten": lambda mem: torch.poisson(mem.exp()).clamp(max=10),
    "a module": Draws(),
    "wrapped": lambda mem: surrogate.midpoint()(mem),
    "sub-bins": lambda mem: torch.binomial(torch.full_like(mem, 8), -torch.expm1(-mem.exp() / 8)),
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("name", NO_ESTIMATORS)
def test_what_does_not_count_is_refused(name, door):
    with pytest.raises(ValueError, match=r"spike_grad must|no estimator of counts") as caught:
        door(NO_ESTIMATORS[name])
    assert "take one of ipvae_snn.surrogate" in str(caught.value)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize(
    "cls", [surrogate.midpoint, surrogate.eat, snn.surrogate.FastSigmoid, nn.ReLU]
)
def test_classes_are_refused(cls, door):
    with pytest.raises(TypeError, match="is a class: did you forget the parentheses"):
        door(cls)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_callables_that_count_are_accepted(name, door):
    door(ESTIMATORS[name])


@pytest.mark.parametrize("features", [1, 3, 700, 2000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_trial_has_the_size_and_type_of_the_neurons(features, dtype):
    seen = []

    def draw(mem):
        seen.append(mem)
        return mem.exp().round()

    neuron = IPVAENeuron(features, gram=torch.eye(features)).to(dtype)
    neuron.spike_grad = draw
    assert [(mem.dtype, mem.shape[-1], mem.ndim) for mem in seen] == [(dtype, features, 2)]


def test_a_refusal_leaves_the_neuron_and_the_random_state_as_they_were():
    neuron = IPVAENeuron(8)
    before, state = neuron.spike_grad, torch.get_rng_state()
    for function in (lambda mem: torch.rand_like(mem), torch.relu, Draws):
        with pytest.raises((TypeError, ValueError)):
            neuron.spike_grad = function
    neuron.spike_grad = ESTIMATORS["poisson"]
    assert torch.equal(torch.get_rng_state(), state)
    neuron.spike_grad = before
    assert neuron.spike_grad is before


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (surrogate.eat, "temp", 3.0),
        (surrogate.eat, "temp", float("nan")),
        (surrogate.eat, "temp", "hot"),
        (surrogate.gumbel, "temp", 0.0),
        (surrogate.eat, "indicator", "round"),
        (surrogate.bernoulli, "substeps", 0),
        (surrogate.bernoulli, "substeps", 2.5),
        (surrogate.bernoulli, "substeps", 2**25),
        (surrogate.midpoint, "generator", 3),
        (surrogate.rounded, "generator", "cpu"),
    ],
)
def test_settings_of_estimators_are_checked_when_they_are_set(make, name, value):
    estimator = make()
    before = getattr(estimator, name)
    with pytest.raises((TypeError, ValueError), match=name):
        setattr(estimator, name, value)
    assert getattr(estimator, name) is before
    with pytest.raises((TypeError, ValueError), match=name):
        make(**{name: value})
    setattr(estimator, name, before)


def test_a_subclass_inherits_the_check_of_a_setting():
    class Mine(surrogate.eat):
        pass

    with pytest.raises(ValueError, match="temp"):
        Mine().temp = 2
