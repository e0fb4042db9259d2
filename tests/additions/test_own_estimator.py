"""An estimator of one's own: kept on the fast path, trained, saved, loaded, resumed."""

import inspect
from dataclasses import dataclass

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, evaluate, fit, surrogate
from ipvae_snn.kernels import native, unroll
from ipvae_snn.neurons import inference

# -- the addition ---------------------------------------------------------------------------------


@surrogate.ESTIMATORS.register("own-leaning")
@dataclass
class Leaning(surrogate.Exact):
    """Exact counts whose slope leans towards the count or towards the rate."""

    share: float = 0.5

    def slope(self, spk, rate):
        return self.share * spk + (1 - self.share) * rate


# -- what it is good for --------------------------------------------------------------------------

CONFIG = TrainConfig(iterations=6, batch=8, steps=4, checkpoint_every=3, progress=False)


def test_the_addition_is_short():
    assert len(inspect.getsource(Leaning).splitlines()) <= 40


def test_it_keeps_the_fused_kernels():
    neuron = IPVAE(6, 5, spike_grad=Leaning(0.3)).neuron
    assert inference.assumptions_of(neuron) == ("poisson", "own")
    spec = inference.spec_of(neuron, torch.zeros(2, 5), neuron.gram(), neuron.initial_state((2, 5)))
    spec.law = "poisson"
    assert not native.available() or unroll._kernels(spec)[1] is unroll.NativeAdjoint


def test_leaning_halfway_learns_what_midpoint_does():
    x = torch.randn(40, 6)
    weights = []
    for estimator in (Leaning(0.5), surrogate.midpoint()):
        torch.manual_seed(1)
        model = IPVAE(6, 5, init_std=0.5, spike_grad=estimator)
        fit(model, x, CONFIG)
        weights.append(model.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_it_is_saved_loaded_and_resumed(tmp_path):
    x = torch.randn(40, 6)
    model = IPVAE(6, 5, spike_grad=Leaning(0.25))
    fit(model, x, CONFIG, checkpoint=tmp_path / "a.ckpt")
    model.save(tmp_path / "model.pt")
    loaded = IPVAE.load(tmp_path / "model.pt")
    assert loaded.neuron.spike_grad == Leaning(0.25)
    assert evaluate(loaded, x, 5).curves == evaluate(model, x, 5).curves
    fit(IPVAE(6, 5, spike_grad=Leaning(0.25)), x, CONFIG, checkpoint=tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"spike_grad = .*0\.25.*this one has .*0\.75"):
        fit(IPVAE(6, 5, spike_grad=Leaning(0.75)), x, CONFIG, checkpoint=tmp_path / "a.ckpt")


@dataclass
class Nameless(surrogate.Exact):
    share: float = 0.5

    def slope(self, spk, rate):
        return self.share * spk + (1 - self.share) * rate


def test_without_a_name_it_trains_and_resumes_but_is_not_saved(tmp_path):
    """A resume compares its options all the same, and those of the model."""
    x = torch.randn(40, 6)
    model = IPVAE(6, 5, spike_grad=Nameless(0.25), leak=0.1)
    fit(model, x, CONFIG, checkpoint=tmp_path / "a.ckpt")
    with pytest.raises(TypeError, match="register the estimator under a name"):
        model.save(tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()
    for other, told in (
        ({"spike_grad": Nameless(0.75), "leak": 0.1}, "spike_grad"),
        ({"spike_grad": Nameless(0.25), "leak": 0.9}, "leak"),
    ):
        with pytest.raises(ValueError, match=f"with {told} = "):
            fit(IPVAE(6, 5, **other), x, CONFIG, checkpoint=tmp_path / "a.ckpt")
    same = IPVAE(6, 5, spike_grad=Nameless(0.25), leak=0.1)
    assert len(fit(same, x, CONFIG, checkpoint=tmp_path / "a.ckpt")) == 1
