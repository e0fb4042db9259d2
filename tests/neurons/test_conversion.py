"""snnTorch networks, converted: in all the ways in which their layers are called."""

import pytest
import snntorch as snn
import torch
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAENeuron, from_snntorch
from ipvae_snn.neurons.conversion import OneStateNeuron


class Tutorial(nn.Module):
    """In the style of snnTorch's tutorials: states passed by hand, all timesteps in one call."""

    def __init__(self):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(6, 5), snn.Leaky(beta=0.95)
        self.fc2, self.lif2 = nn.Linear(5, 3), snn.RLeaky(beta=0.8, linear_features=3)

    def forward(self, x):
        mem1, (spk2, mem2) = self.lif1.init_leaky(), self.lif2.init_rleaky()
        spikes, membranes = [], []
        for _ in range(4):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), spk2, mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), snn.Leaky(0.5, init_hidden=True)
        )
        self.back = nn.Sequential(
            nn.Flatten(), nn.Linear(36, 3), snn.Leaky(0.5, init_hidden=True, output=True)
        )

    def forward(self, x):
        return self.back(self.front(x))


def test_a_tutorial_network_runs_and_learns_as_before():
    torch.manual_seed(0)
    net, x = Tutorial(), torch.rand(2, 6)
    converted, changes = from_snntorch(net, x, mem_init=-0.5, step=0.5)
    assert changes == {
        "lif1": "Leaky(beta=0.95, threshold=1) → OneStateNeuron(5)",
        "lif2": "RLeaky(beta=0.8, threshold=1) → IPVAENeuron(Recurrent(3)), with its "
        "recurrent weights",
    }
    wanted = torch.eye(3) - net.lif2.recurrent.weight.mT
    assert torch.equal(converted.lif2.gram(), wanted)
    assert torch.equal(converted.fc1.weight, net.fc1.weight)
    assert type(net.lif1) is snn.Leaky
    for _ in range(3):
        spk, mem = converted(x)
        assert spk.shape == mem.shape == (4, 2, 3)
        mem.square().sum().backward()
    assert converted.fc1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dim", [None, -1])
def test_a_sequence_within_a_timestep(dim):
    """snnTorch's recurrent weights act on the last dimension; else dim says which."""
    options = {} if dim is None else {"dim": dim}
    net = nn.Sequential(nn.Linear(3, 5), snn.RLeaky(0.9, linear_features=5, init_hidden=True))
    assert from_snntorch(net, torch.rand(2, 7, 3), **options).network(torch.rand(2, 7, 3)).shape[
        1:
    ] == (7, 5)
    net = nn.Sequential(nn.Linear(3, 5), snn.Leaky(0.9, init_hidden=True))
    network, changes = from_snntorch(net, torch.rand(2, 7, 3), dim=-1)
    assert changes["1"].endswith("IPVAENeuron(5, dim=-1)")
    assert network(torch.rand(2, 7, 3)).shape == (2, 7, 5)


def test_a_layer_under_two_names_is_replaced_under_both():
    layer = snn.Leaky(0.9, init_hidden=True)
    net = nn.Sequential(nn.Linear(5, 5), layer, nn.Linear(5, 5), layer)
    network, _ = from_snntorch(net, torch.rand(2, 5))
    assert type(network[1]) is IPVAENeuron
    assert network[3] is network[1]


def test_one_state_is_the_neuron_with_its_spikes_inside():
    torch.manual_seed(0)
    x = 2 * torch.randn(8, 2, 5)
    one = OneStateNeuron(5, mem_init=0.0, spike_grad=ipvae_snn.surrogate.rounded())
    two = IPVAENeuron(5, spike_grad=ipvae_snn.surrogate.rounded())
    two.load_state_dict(one.state_dict())
    for _ in range(2):  # the second time from a reset
        mem, (spk, u) = one.init_leaky(), two.reset_mem()
        for now in x:
            z, mem = one(now, mem)
            spk, u = two(now, spk, u)
            assert torch.equal(z, spk)
            assert torch.equal(mem, u)
    assert spk.sum() > 0


def test_maps_and_readouts():
    net, x = Convolutional(), torch.rand(2, 1, 8, 8)
    converted, changes = from_snntorch(net, x, keep=["back.2"])
    assert changes == {
        "front.2": "Leaky(beta=0.5, threshold=1) → IPVAENeuron(4, dim=1)", "back.2": "Leaky: kept"
    }  # fmt: skip
    spk, mem = converted(x)
    assert spk.shape == mem.shape == (2, 3)
    assert from_snntorch(net, x).network.back[2](torch.rand(2, 3))[0].shape == (2, 3)


def test_the_original_its_state_and_the_generator_stay():
    net, x = Convolutional(), torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        net(x)
    before, mem = net.state_dict(), net.back[2].mem.clone()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    with pytest.raises(TypeError, match="no argument"):
        from_snntorch(net, x, colour="red")
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(net.back[2].mem, mem)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_dtypes_and_modes_are_those_of_the_network():
    net = nn.Sequential(nn.Linear(3, 4), snn.Leaky(0.9, init_hidden=True)).double().eval()
    network = from_snntorch(net, torch.rand(2, 3).double()).network
    assert network(torch.rand(2, 3).double()).dtype == torch.float64
    assert not network[1].training


def test_a_lone_layer_and_other_neurons():
    converted, changes = from_snntorch(snn.Leaky(0.9), torch.rand(2, 7))
    assert isinstance(converted, OneStateNeuron)
    assert list(changes) == [""]
    net = nn.Sequential(snn.Leaky(0.9, init_hidden=True), snn.Synaptic(0.9, 0.8, init_hidden=True))
    assert from_snntorch(net, torch.rand(2, 7)).changes["1"] == "Synaptic: kept"


def test_bad_input_is_refused_in_plain_words():
    net, x = Convolutional(), torch.rand(2, 1, 8, 8)
    with pytest.raises(TypeError, match=r"net must be an? nn\.Module|net must be"):
        from_snntorch("net", x)
    with pytest.raises(ValueError, match=r"keep names \['lif9'\]"):
        from_snntorch(net, x, keep=["lif9"])
    with pytest.raises(ValueError, match="no Leaky or RLeaky"):
        from_snntorch(nn.Linear(3, 3), x)
    net.unused = snn.Leaky(0.9)
    with pytest.raises(ValueError, match=r"did not call \['unused'\]"):
        from_snntorch(net, x)
    trained = nn.Sequential(nn.Linear(3, 4), snn.Leaky(0.9, init_hidden=True))
    trained(torch.rand(2, 3))
    with pytest.raises(ValueError, match="reset"):
        from_snntorch(trained, torch.rand(2, 3))
