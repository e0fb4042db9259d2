"""snnTorch's own reset and training loops, on networks with neurons of this package."""

import copy
import warnings

import pytest
import snntorch as snn
import torch
from snntorch import functional as SF
from snntorch import utils
from torch import nn

from ipvae_snn import IPVAENeuron, surrogate, tbptt

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from snntorch import backprop

STATIC = [(3 * torch.rand(4, 5), torch.tensor([0, 1, 2, 0])) for _ in range(3)]
VARYING = [(3 * torch.rand(7, 4, 5), torch.tensor([0, 1, 2, 0])) for _ in range(3)]


def ours(features, **options):
    return IPVAENeuron(features, init_hidden=True, mem_init=-0.5, step=0.3, **options)


def network(first, last):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), first(), nn.Linear(6, 3), last())


def our_last(**options):
    return ours(3, output=True, **options)


def leaky(**options):
    return snn.Leaky(0.9, init_hidden=True, **options)


def their_last():
    return leaky(output=True)


NETWORKS = {
    "ours alone": lambda: network(lambda: ours(6), our_last),
    "ours and Leaky": lambda: network(lambda: ours(6), their_last),
    "Leaky and ours": lambda: network(leaky, our_last),
    "Synaptic": lambda: network(lambda: snn.Synaptic(0.9, 0.8, init_hidden=True), our_last),
    "Lapicque": lambda: network(lambda: snn.Lapicque(0.9, init_hidden=True), our_last),
    "Alpha": lambda: network(lambda: snn.Alpha(0.9, 0.8, init_hidden=True), our_last),
    "RLeaky": lambda: network(
        lambda: snn.RLeaky(0.9, linear_features=6, init_hidden=True), our_last
    ),
    "Synaptic, Leaky and ours": lambda: nn.Sequential(
        *network(lambda: ours(6), lambda: snn.Synaptic(0.9, 0.8, init_hidden=True)),
        nn.Linear(3, 3),
        their_last(),
    ),
    "nested": lambda: network(lambda: nn.Sequential(ours(6)), our_last),
    "Leaky, also nested": lambda: nn.Sequential(
        *network(lambda: nn.Sequential(leaky()), leaky), nn.Linear(3, 3), our_last()
    ),
}
LOOPS = {
    "BPTT": lambda *a: backprop.BPTT(a[0], VARYING, *a[1:]),
    "BPTT of still input": lambda *a: backprop.BPTT(
        a[0], STATIC, *a[1:], num_steps=7, time_var=False
    ),
    "TBPTT": lambda *a: backprop.TBPTT(a[0], STATIC, *a[1:], num_steps=7, time_var=False, K=3),
    "RTRL": lambda *a: backprop.RTRL(a[0], STATIC, *a[1:], num_steps=7, time_var=False),
}


def trained(loop, net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    return loop(net, optimizer, SF.ce_count_loss())


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_loops_train(loop, make):
    net = make()
    before = copy.deepcopy(net)
    assert torch.isfinite(trained(loop, net))
    pairs = list(zip(net.parameters(), before.parameters(), strict=True))
    assert all(torch.isfinite(now).all() for now, _ in pairs)
    assert any(not torch.equal(now, then) for now, then in pairs)


def test_windows_have_the_gradients_of_our_own_loop():
    def make():
        rounded = surrogate.rounded()
        return network(lambda: ours(6, spike_grad=rounded), lambda: our_last(spike_grad=rounded))

    (x, target), count_loss = STATIC[0], SF.ce_count_loss()
    theirs, own = make(), make()
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (theirs, own)]
    options = {"num_steps": 6, "time_var": False, "K": 3}
    backprop.TBPTT(theirs, [(x, target)], optimizers[0], count_loss, **options)

    def window_loss(window, start):
        return count_loss(torch.stack([own(frame)[0] for frame in window]), target)

    tbptt(own, x.expand(6, *x.shape), window_loss, window=3, optimizer=optimizers[1])
    for a, b in zip(theirs.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(a, b)


REFUSED = {
    "no neuron at the end": (
        lambda: network(lambda: ours(6), lambda: nn.Linear(3, 3)), "TBPTT", "output=True"
    ),
    "no output": (lambda: network(lambda: ours(6), lambda: ours(3)), "BPTT", "output=True"),
    "all nested": (lambda: nn.Sequential(NETWORKS["ours alone"]()), "RTRL", "direct children"),
    "Leaky nested": (lambda: network(lambda: nn.Sequential(leaky()), our_last), "BPTT", "no class"),
    "RSynaptic": (
        lambda: network(
            lambda: snn.RSynaptic(0.9, 0.8, linear_features=6, init_hidden=True), our_last
        ),
        "BPTT", "RSynaptic",
    ),
    "SLSTM in windows": (
        lambda: network(lambda: snn.SLSTM(6, 6, init_hidden=True), our_last), "TBPTT", "one of"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "loop", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_a_loop_would_fail_on_is_refused_at_once(make, loop, reason):
    net = make()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=f"{reason}.*ipvae_snn.tbptt"):
        trained(LOOPS[loop], net)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_moving_input_in_windows_is_refused():
    net = NETWORKS["ours alone"]()
    with pytest.raises(ValueError, match=r"whole sequences.*ipvae_snn\.tbptt"):
        trained(lambda *a: backprop.RTRL(a[0], VARYING, *a[1:]), net)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_utils_reset_resets_and_detaches(make):
    net = make()
    for _ in range(3):
        net(STATIC[0][0])
    utils.reset(net)
    for neuron in net.modules():
        if isinstance(neuron, IPVAENeuron):
            assert torch.equal(neuron.mem, neuron.mem_init.expand_as(neuron.mem))
            assert not neuron.spk.any()
            assert not neuron.mem.requires_grad
        elif isinstance(neuron, snn.SpikingNeuron):
            assert not neuron.mem.any()


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
def test_utils_reset_takes_states_of_any_shape(shape):
    net = nn.Sequential(ours(5, dim=-1))
    net(torch.rand(shape))
    utils.reset(net)
    assert net[0].mem.shape == shape
    utils.reset(nn.Sequential(ours(5)))


def test_after_a_reset_the_initial_membrane_is_learned():
    net = nn.Sequential(ours(5))
    net(torch.rand(2, 5))
    utils.reset(net)
    net(torch.rand(2, 5)).sum().backward()
    assert net[0].mem_init.grad.abs().sum() > 0


def test_one_entry_of_the_list_represents_all_neurons():
    ours(3)
    before = len(snn.SpikingNeuron.instances)
    net = nn.Sequential(ours(3), ours(3))
    copy.deepcopy(net)
    assert len(snn.SpikingNeuron.instances) == before
    assert not any(isinstance(entry, IPVAENeuron) for entry in snn.SpikingNeuron.instances)


def test_a_list_that_was_emptied_is_joined_again():
    entries = snn.SpikingNeuron.instances
    try:
        snn.SpikingNeuron.init()
        net = nn.Sequential(ours(3))
        net(torch.rand(2, 3))
        utils.reset(net)
        assert not net[0].spk.any()
        assert not net[0].mem.requires_grad
    finally:
        snn.SpikingNeuron.instances = entries


def test_training_outside_these_loops_is_not_touched():
    net = nn.Sequential(nn.Sequential(ours(3)), nn.Linear(3, 2))
    assert net.train() is net
    assert not net.eval()[0][0].training
