"""Deep networks of IPVAE and snnTorch layers train end to end."""

import pytest
import snntorch as snn
import torch
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAENeuron, surrogate

NEAR_FIRING = {"init_hidden": True, "mem_init": -1.0, "step": 0.3, "clamp": 3.0}


def three_classes(count=150):
    """Noisy copies of three random patterns."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    patterns = torch.rand(3, 12, generator=generator)
    return patterns[labels] + 0.1 * torch.rand(count, 12, generator=generator), labels


def accuracy_after_training(net, x, labels, forward, iterations=60):
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(iterations):
        loss = nn.functional.cross_entropy(forward(net, x), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    net.eval()
    with torch.no_grad():
        return (forward(net, x).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("spike_grad", [surrogate.midpoint(), surrogate.rounded()], ids=repr)
def test_a_stack_trains_end_to_end(spike_grad):
    x, labels = three_classes()
    net = nn.Sequential(
        nn.Linear(12, 24),
        IPVAENeuron(24, spike_grad=spike_grad, **NEAR_FIRING),
        nn.Linear(24, 24),
        IPVAENeuron(24, spike_grad=spike_grad, **NEAR_FIRING),
        nn.Linear(24, 3),
        snn.Leaky(0.9, init_hidden=True, output=True),
    )

    def forward(net, x):
        ipvae_snn.reset(net)
        return sum(net(x)[1] for _ in range(10)) / 10

    first = [net[i].weight.detach().clone() for i in (0, 2, 4)]
    assert accuracy_after_training(net, x, labels, forward) > 0.9
    assert all(not torch.equal(a, net[i].weight) for a, i in zip(first, (0, 2, 4), strict=True))


def test_a_layer_after_a_convolution_trains():
    x, labels = three_classes()
    net = nn.Sequential(
        nn.Unflatten(1, (1, 3, 4)),
        nn.Conv2d(1, 4, 2),
        snn.Leaky(0.8, init_hidden=True),
        nn.Flatten(),
        nn.Linear(24, 16),
        IPVAENeuron(16, **NEAR_FIRING),
        nn.Linear(16, 3),
    )

    def forward(net, x):
        ipvae_snn.reset(net)
        return sum(net(x) for _ in range(10)) / 10

    assert accuracy_after_training(net, 3 * x, labels, forward) > 0.9


def test_sequences_in_one_call_train():
    x, labels = three_classes()
    layer, neuron, readout = nn.Linear(12, 24), IPVAENeuron(24, **NEAR_FIRING), nn.Linear(24, 3)
    net = nn.ModuleList([layer, neuron, readout])

    def forward(net, x):
        spk, _ = neuron.run(layer(x).expand(10, -1, -1))
        return readout(spk.mean(0))

    assert accuracy_after_training(net, x, labels, forward) > 0.9
