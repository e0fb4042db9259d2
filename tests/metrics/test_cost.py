"""Operations on a chip against counts by hand, synapse by synapse, and the spikes of ``run``."""

import copy

import pytest
import snntorch as snn
import torch
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAE, IPVAENeuron, metrics, surrogate
from ipvae_snn.baselines import IGVAE, PoissonVAE

NEURON = {"init_hidden": True, "mem_init": -1.0, "step": 0.3, "clamp": 3.0}


def synapse_by_synapse(layer, spikes):
    """Mean over samples of spikes × fan-out; the fan-out by an impulse at one input at a time."""
    layer = copy.deepcopy(layer).double()
    nn.init.uniform_(layer.weight, 0.5, 1.0)
    layer.bias = None
    synops = 0.0
    for sample in spikes:
        for position, count in enumerate(sample.flatten().tolist()):
            impulse = torch.zeros(sample.numel(), dtype=torch.float64)
            impulse[position] = 1
            synops += count * layer(impulse.view(1, *sample.shape)).count_nonzero().item()
    return synops / len(spikes)


def by_layer(cost):
    return {row.layer: row for row in cost.rows}


def counts(*shape):
    return torch.poisson(torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2)


def test_a_tiny_network_counted_by_hand():
    # Input (1, 2): neuron 0 receives a current of 1 and spikes in all 4 timesteps, neuron 1 none
    # and is silent, neuron 2 a current of ½ and spikes at every other timestep: 6 spikes.
    net = nn.Sequential(
        nn.Linear(2, 3, bias=False),
        snn.Leaky(beta=1.0, threshold=0.9, init_hidden=True, reset_mechanism="zero"),
        nn.Linear(3, 4),
    )
    net[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.25]])
    cost = metrics.synops(net, torch.tensor([[1.0, 2.0]]), num_steps=4)
    drive, neuron, readout = cost.rows
    assert [row.layer for row in cost.rows] == ["0 Linear", "1 Leaky", "2 Linear"]
    assert (drive.macs, drive.synops, drive.dense) == (
        6,
        0,
        6,
    )  # constant input: the drive is computed once
    assert (neuron.spikes, neuron.events, neuron.synops, neuron.updates) == (6, 6, 0, 4 * 3)
    assert (readout.synops, readout.macs, readout.dense) == (6 * 4, 0, 4 * 3 * 4)
    assert (cost.per_timestep.synops, cost.per_timestep.spikes) == (6.0, 1.5)
    assert cost.one_pass == 2 * 3 + 3 * 4
    assert cost.ratio == (6 + 24) / (6 + 48)


def test_linear_layer_equals_synapse_by_synapse():
    layer, spikes = nn.Linear(7, 5), counts(3, 4, 7)
    cost = metrics.synops(layer, spikes)
    assert cost.rows[1].synops == sum(synapse_by_synapse(layer, frame) for frame in spikes)
    assert cost.rows[0].spikes == spikes.sum().item() / 4  # of the input, per image
    assert cost.rows[0].events == (spikes > 0).sum().item() / 4


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 3, 4, stride=3, padding=2), (2, 30)),
        (nn.Conv2d(2, 3, 3), (2, 5, 6)),
        (nn.Conv2d(2, 4, 3, padding=1), (2, 5, 6)),
        (nn.Conv2d(2, 4, (3, 2), stride=2, padding=(1, 0), groups=2), (2, 5, 6)),
        (nn.Conv2d(2, 3, 2, dilation=2, padding="same"), (2, 5, 6)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False), (2, 5, 6)),
        (nn.Conv3d(1, 2, 2, stride=2, padding=1), (1, 3, 4, 3)),
    ],
    ids=str,
)
def test_convolution_equals_synapse_by_synapse_also_at_borders(layer, shape):
    spikes = counts(2, 3, *shape)
    cost = metrics.synops(layer, spikes)
    assert cost.rows[1].synops == pytest.approx(
        sum(synapse_by_synapse(layer, f) for f in spikes), 1e-12
    )
    assert cost.rows[1].synapses == synapse_by_synapse(layer, torch.ones(1, *shape))


def test_fan_out_of_a_padded_3x3_kernel_is_4_at_a_corner_and_9_inside():
    corner, centre = torch.zeros(2, 1, 1, 4, 4)
    corner[0, 0, 0, 0] = 1
    centre[0, 0, 1, 2] = 2
    for frame, synops in ((corner, 4), (centre, 2 * 9)):
        assert metrics.synops(nn.Conv2d(1, 1, 3, padding=1), frame[None]).rows[1].synops == synops


@pytest.mark.parametrize("spike_grad", [surrogate.midpoint(), surrogate.gumbel()], ids=repr)
def test_ipvae_equals_the_spikes_of_run(spike_grad):
    model, x = IPVAE(20, 12, init_std=0.3, spike_grad=spike_grad).eval(), torch.rand(5, 20)
    spk = model.run(x, 30, record=("spk",), seed=3).spk
    cost = metrics.synops(model.train(), x, 30, seed=3)
    assert model.training
    drive, neuron, decoder = cost.rows
    assert spk.sum() > 0
    assert (drive.macs, drive.synops, drive.dense) == (20 * 12, 0, 20 * 12)
    assert neuron.spikes == spk.sum().item() / 5
    assert neuron.events == (spk > 0).sum().item() / 5
    assert neuron.synops == pytest.approx(spk.sum((0, 2)).mean().item() * 12)
    assert neuron.updates == 30 * 12
    assert decoder.synops == pytest.approx(spk.sum((0, 2)).mean().item() * 20)
    total = cost.per_image
    assert total.dense == 20 * 12 + 30 * (12 * 12 + 12 * 20)
    assert cost.ratio == (total.synops + total.macs) / total.dense
    assert cost.one_pass == 2 * 20 * 12
    assert cost.per_timestep.synops == pytest.approx(spk.sum(2).mean().item() * (12 + 20))


def test_ipvae_with_changing_input_costs_its_drive_at_every_timestep():
    model = IPVAE(6, 4)
    frames = torch.rand(9, 3, 6)
    real = by_layer(metrics.synops(model, frames))
    assert (real["drive"].macs, real["drive"].synops) == (9 * 6 * 4, 0)
    assert "input" not in real
    spikes = frames.round() * 2
    events = by_layer(metrics.synops(model, spikes))
    assert (events["drive"].macs, events["drive"].dense) == (0, 9 * 6 * 4)
    assert events["drive"].synops == pytest.approx(spikes.sum().item() * 4 / 3)
    assert events["input"].spikes == pytest.approx(spikes.sum().item() / 3)
    assert events["input"].events == pytest.approx(spikes.sum().item() / 2 / 3)


def test_neurons_without_inhibition_have_no_lateral_synapses():
    model = IPVAE(6, 4, lateral_scale=0.0)
    assert by_layer(metrics.synops(model, torch.rand(3, 6), 5))["neuron"].dense == 0
    neuron = IPVAENeuron(4, lateral_scale=0.0, init_hidden=True)
    assert metrics.synops(neuron, torch.rand(3, 4), 5).per_image.dense == 0


def make_deep_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), snn.Leaky(0.8, init_hidden=True)),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 6),
        IPVAENeuron(6, **NEURON),
        nn.Linear(6, 5),
        snn.RLeaky(0.9, linear_features=5, init_hidden=True, reset_mechanism="zero"),
        snn.RLeaky(0.9, all_to_all=False, init_hidden=True),
        snn.Leaky(0.9, init_hidden=True, output=True),
    )


def test_deep_network_equals_its_layers_one_by_one():
    net, x = make_deep_network(), 4 * torch.rand(3, 1, 4, 4)
    net[6].threshold.data.fill_(0.1)
    cost = by_layer(metrics.synops(net, x, num_steps=12, seed=4))
    values = {}
    with torch.no_grad(), ipvae_snn._utils.seeding.seeded(4):
        ipvae_snn.reset(net)
        for _ in range(12):
            value = x
            for number, part in enumerate(net.eval()):
                if number:
                    values.setdefault(number, []).append(value)
                value = part(value)
    spikes = {n: sum(v.sum((1,)) for v in values[n]).mean().item() for n in (3, 5, 7, 8)}
    assert all(count > 0 for count in spikes.values())
    convolution = cost["0.0 Conv2d"]
    assert (convolution.macs, convolution.synops) == (2 * (4 * 9 + 8 * 6 + 4 * 4), 0)
    assert cost["3 Linear"].synops == pytest.approx(spikes[3] * 6)
    assert cost["4 IPVAENeuron"].synops == pytest.approx(spikes[5] * 6)
    assert cost["5 Linear"].synops == pytest.approx(spikes[5] * 5)
    assert cost["6 RLeaky"].synops == pytest.approx(spikes[7] * 5)
    assert cost["7 RLeaky"].synops == pytest.approx(spikes[8])
    assert (cost["7 RLeaky"].synapses, cost["7 RLeaky"].updates) == (5, 12 * 5)
    assert cost["8 Leaky"].synops == 0
    assert len(cost) == 8  # the recurrent layers inside RLeaky are not counted again


def test_convolutional_recurrence_and_non_integer_input():
    net = nn.Sequential(
        snn.RLeaky(0.9, conv2d_channels=1, kernel_size=3, threshold=0.5, init_hidden=True),
        nn.AvgPool2d(2),
        nn.Conv2d(1, 1, 2),
    )
    cost = metrics.synops(net, torch.ones(1, 1, 4, 4), num_steps=1)
    assert cost.rows[0].spikes == 16
    assert cost.rows[0].synops == cost.rows[0].synapses == 4 * 4 + 8 * 6 + 4 * 9
    averaged = metrics.synops(net, torch.rand(6, 1, 1, 4, 4)).rows[1]
    assert (averaged.macs, averaged.synops) == (6 * 4, 0)


def test_input_with_integers_at_some_timesteps_only_costs_macs():
    frames = torch.stack([torch.full((2, 4), 0.5), torch.ones(2, 4)])
    for sequence in (frames, frames.flip(0)):
        (row,) = metrics.synops(nn.Linear(4, 3), sequence).rows
        assert (row.macs, row.synops) == (2 * 4 * 3, 0)


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(4, 6, bias=False)
        self.neuron = IPVAENeuron(self.decoder, **NEURON)

    def forward(self, x):
        return self.decoder(self.neuron(x))


def test_shared_decoder_is_counted_as_read_out():
    net = Autoencoder()
    other_order = nn.Sequential(net.neuron, net.decoder)
    for network, name in ((net, "decoder Linear"), (other_order, "1 Linear")):
        neuron, readout = metrics.synops(network, torch.ones(2, 4), num_steps=10).rows
        assert readout.layer == name
        assert readout.synops == neuron.spikes * 6 > 0


def test_constant_integer_input_is_a_current():
    ones = torch.ones(2, 6)
    net = nn.Sequential(nn.Linear(6, 4), snn.Leaky(0.9, init_hidden=True), nn.Linear(4, 3))
    net[0].weight.data.fill_(-1.0)  # neurons are silent, so that the read-out receives zeros
    for cost in (metrics.synops(IPVAE(6, 4), ones, 5), metrics.synops(net, ones, 5)):
        assert (cost.rows[0].macs, cost.rows[0].synops) == (24, 0)
    assert (cost.rows[2].macs, cost.rows[2].synops) == (0, 0)


def test_seed_fixes_the_counts_and_random_states_are_restored():
    net = nn.Sequential(
        nn.Linear(5, 40),
        IPVAENeuron(40, spike_grad=surrogate.midpoint(generator=torch.Generator()), **NEURON),
        nn.Linear(40, 40),
        IPVAENeuron(40, **NEURON),
    )
    x, before = torch.rand(8, 5), torch.get_rng_state()
    first = metrics.synops(net, x, 10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(9)
    net[1].spike_grad.generator.manual_seed(5)
    assert metrics.synops(net, x, 10, seed=1) == first
    assert metrics.synops(net, x, 10, seed=2) != first


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken forward")


@pytest.mark.parametrize("raises", [False, True])
def test_state_mode_and_hooks_are_restored(raises):
    net, x = make_deep_network(), torch.rand(3, 1, 4, 4)
    net.train()
    net[5].eval()
    for _ in range(3):
        net(x)
    if raises:
        net.append(Raises())
    before = {name: part.clone() for name, part in net.named_buffers()}
    mems = [part.mem for part in net.modules() if isinstance(part, snn.SpikingNeuron)]
    modes = [part.training for part in net.modules()]
    other = torch.rand(7, 1, 4, 4)
    if raises:
        with pytest.raises(RuntimeError, match="broken forward"):
            metrics.synops(net, other, 5)
        del net[-1]
        del modes[-1]
    else:
        metrics.synops(net, other, 5)
    assert [part.training for part in net.modules()] == modes
    after = dict(net.named_buffers())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    mems_after = [part.mem for part in net.modules() if isinstance(part, snn.SpikingNeuron)]
    assert all(a is b for a, b in zip(mems, mems_after, strict=True))
    assert not any(part._forward_hooks for part in net.modules())
    net(x)[1].sum().backward()  # the state still has its autograd graph


def test_table_shows_the_counts():
    model = IPVAE(20, 12, init_std=0.3)
    cost = metrics.synops(model, torch.rand(5, 20), 30)
    text = str(cost)
    assert text == cost.table()
    for shown in ("drive", "neuron", "decoder", "per image", "per timestep", f"{cost.ratio:.3f} ×"):
        assert shown in text
    assert f"{cost.per_image.dense:,.0f}" in text
    assert "480 MACs" in text


@pytest.mark.parametrize(
    ("network", "x", "num_steps", "error", "message"),
    [
        ("net", torch.rand(2, 4), 3, TypeError, "network must be a torch.nn.Module"),
        (IPVAE(4, 3), [[0.0] * 4], 3, TypeError, "x must be a torch.Tensor"),
        (IPVAE(4, 3), torch.rand(2, 4), None, ValueError, "num_steps must be given"),
        (nn.Linear(4, 3), torch.rand(2, 4), None, ValueError, "without, and not be empty"),
        (nn.Linear(4, 3), torch.rand(2, 4), 0, ValueError, "num_steps must be at least 1"),
        (nn.Linear(4, 3), torch.full((2, 4), torch.nan), 1, ValueError, "NaN"),
        (nn.Flatten(), torch.rand(2, 4), 3, ValueError, "no layer of the network was called"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 3)),
            torch.rand(2, 4),
            3,
            TypeError,
            "the synapses of 1, a Bilinear, cannot be counted",
        ),
        (IGVAE(4, 3), torch.rand(2, 4), 3, TypeError, "IGVAE cannot be counted: it has neither"),
        (PoissonVAE(4, 3), torch.rand(2, 4), 3, TypeError, "a layer of spiking neurons"),
        (snn.SLSTM(4, 3), torch.rand(2, 4), 3, TypeError, "a LSTMCell, cannot be counted"),
    ],
)
def test_refused_networks_and_inputs(network, x, num_steps, error, message):
    with pytest.raises(error, match=message):
        metrics.synops(network, x, num_steps)


def test_a_layer_used_twice_is_counted_at_each_place():
    torch.manual_seed(0)
    lin = nn.Linear(12, 12)
    network = nn.Sequential(lin, snn.Leaky(0.5, threshold=0.4, init_hidden=True), lin)
    rows = metrics.synops(network, torch.rand(4, 12), num_steps=3).rows
    assert [row.layer for row in rows] == ["0 Linear", "1 Leaky", "0 Linear (2)"]
    assert (rows[0].macs, rows[0].synops) == (144, 0)
    assert (rows[2].macs, rows[2].synops) == (0, 12 * rows[1].spikes)
