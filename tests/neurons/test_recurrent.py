"""Recurrent weights of either sign, against a plain loop over timesteps."""

import pytest
import snntorch as snn
import torch
from torch import nn

from ipvae_snn import IPVAENeuron, export, from_snntorch, surrogate
from ipvae_snn.functional import soft_clamp
from ipvae_snn.neurons import Recurrent
from ipvae_snn.neurons.currents import parts

K, T, B = 7, 12, 5


def make(dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {"spike_grad": surrogate.rounded(), "mem_init": 0.0, "learn_step": True, **options}
    return IPVAENeuron(Recurrent(2 * torch.randn(K, K)), **options).to(dtype)


def by_a_loop(neuron, drive):
    """A spike of neuron k takes G_kl from neuron l: entry by entry."""
    weight, mem = neuron.lateral.weight, neuron.mem_init.expand(B, K)
    spk, found = torch.zeros_like(mem), []
    for now in drive:
        sent = torch.stack([sum(spk[:, k] * weight[k, m] for k in range(K)) for m in range(K)], -1)
        pull = neuron.leak * (mem - neuron.mem_init)
        h = neuron.log_step.exp() * (now - sent - neuron.log_bias.exp() - pull)
        mem = soft_clamp(mem + soft_clamp(h, neuron.clamp), neuron.clamp)
        spk = neuron.spike_grad(mem)
        found.append((spk, mem))
    return tuple(map(torch.stack, zip(*found, strict=True)))


def by_steps(neuron, drive):
    spk, mem = neuron.reset_mem()
    found = []
    for now in drive:
        spk, mem = neuron(now, spk, mem)
        found.append((spk, mem))
    return tuple(map(torch.stack, zip(*found, strict=True)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("way", [IPVAENeuron.run, by_steps])
def test_spikes_membranes_and_all_gradients_are_those_of_a_plain_loop(way, dtype):
    neuron = make(dtype)
    drive = torch.randn(T, B, K, dtype=dtype, requires_grad=True)
    tensors = [drive, *neuron.parameters()]
    found, wanted = way(neuron, drive), by_a_loop(neuron, drive)
    assert wanted[0].sum() > 50
    tolerance = (
        {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4}
    )
    weights = torch.randn(2, T, B, K, dtype=dtype)
    grads = []
    for out in (found, wanted):
        loss = sum((w * part).sum() for w, part in zip(weights, out, strict=True))
        grads.append(torch.autograd.grad(loss, tensors))
    for one, other in zip((*found, *grads[0]), (*wanted, *grads[1]), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_the_gradient_of_a_state_that_is_handed_on():
    neuron, drive = make(), torch.randn(T, B, K, dtype=torch.float64)
    spk = torch.rand(B, K, dtype=torch.float64).round().requires_grad_()
    state = spk, torch.zeros(B, K, dtype=torch.float64)
    mem = neuron(drive[0], *state)[1]
    (found,) = torch.autograd.grad(mem.sum(), spk)
    h = neuron.log_step.exp() * (drive[0] - spk @ neuron.lateral.weight - neuron.log_bias.exp())
    (wanted,) = torch.autograd.grad(soft_clamp(soft_clamp(h, 2.0), 2.0).sum(), spk)
    torch.testing.assert_close(found, wanted)


def test_a_spike_excites_another_neuron_and_not_the_other_way_round():
    weight = torch.zeros(2, 2)
    weight[0, 1] = -3.0
    for driven, other_fires in ((0, True), (1, False)):
        neuron = IPVAENeuron(Recurrent(weight), mem_init=-4.0, spike_grad=surrogate.rounded())
        drive = torch.zeros(9, 1, 2)
        drive[..., driven] = 6.0
        spk, _ = neuron.run(drive)
        assert spk[..., driven].sum() > 0
        assert bool(spk[..., 1 - driven].sum() > 0) is other_fires


def test_defaults_of_sequences():
    neuron = IPVAENeuron(Recurrent(K))
    assert (neuron.leak, neuron.log_step.exp().item()) == pytest.approx((0.1, 1.0))
    assert IPVAENeuron(Recurrent(K), leak=0.0).leak == 0
    assert "log_step" not in dict(neuron.named_parameters())
    spread = (Recurrent(400).weight.detach() - torch.eye(400)).square().sum(0).mean()
    assert spread == pytest.approx(1.0, rel=0.05)


def test_currents_by_origin_add_up():
    neuron, drive = make(), torch.randn(T, B, K, dtype=torch.float64)
    spk, mem = neuron.run(drive)
    changes = parts(neuron, drive, spk, mem)
    torch.testing.assert_close(sum(changes)[1:], mem.diff(dim=0))
    before = spk[:-1] @ (neuron.gram() - neuron.gram().diagonal().diag())
    torch.testing.assert_close(changes.lateral[1:], -neuron.log_step.exp() * before)


def test_a_recurrent_layer_of_snntorch_keeps_its_weights():
    net = nn.Sequential(nn.Linear(3, K), snn.RLeaky(0.9, linear_features=K, init_hidden=True))
    network, changes = from_snntorch(net, torch.rand(B, 3))
    assert changes["1"].endswith(f"IPVAENeuron(Recurrent({K})), with its recurrent weights")
    assert torch.equal(network[1].gram(), torch.eye(K) - net[1].recurrent.weight.mT)
    fixed = nn.Sequential(
        nn.Linear(3, K),
        snn.RLeaky(0.9, linear_features=K, learn_recurrent=False, init_hidden=True),
    )
    kept = from_snntorch(fixed, torch.rand(B, 3)).network[1].lateral.weight
    assert kept.requires_grad is fixed[1].recurrent.weight.requires_grad
    each = nn.Sequential(nn.Linear(3, K), snn.RLeaky(0.9, all_to_all=False, init_hidden=True))
    assert "lateral weights take the place" in from_snntorch(each, torch.rand(B, 3)).changes["1"]


def test_what_is_refused():
    for wrong in (
        torch.ones(2, 3),
        torch.ones(2),
        torch.zeros(0, 0),
        torch.tensor([[float("nan")]]),
    ):
        with pytest.raises(ValueError, match="weight"):
            Recurrent(wrong)
    for wrong in (1.5, "K", None):
        with pytest.raises(TypeError, match="first argument"):
            Recurrent(wrong)
    with pytest.raises(TypeError, match="weight"):
        Recurrent(torch.ones(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="weight must have shape"):
        Recurrent(3).weight = nn.Parameter(torch.ones(2, 2))
    for given in ({"gram": torch.eye(3)}, {"learn_gram": True}):
        with pytest.raises(ValueError, match="already gives the lateral weights"):
            IPVAENeuron(Recurrent(3), **given)
    with pytest.raises(ValueError, match="no export can carry"):
        export.constants.neuron_constants(IPVAENeuron(Recurrent(3)))
