"""Small networks of snnTorch's neurons and ours, for the tests of exports."""

import snntorch as snn
import torch
from torch import nn

from ipvae_snn import IPVAENeuron

STEPS = 30


def leaky(beta=0.8, **options):
    return snn.Leaky(beta, init_hidden=True, **{"threshold": 0.4, **options})


def poisson(features):
    return IPVAENeuron(features, init_hidden=True, mem_init=-0.5, step=0.3, clamp=3.0)


def convolutional(neuron):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, padding=1),
        neuron(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
        neuron(),
    )


def outputs(network, x, steps=STEPS):
    return torch.stack([out for _, out in network.unroll(x, steps)])
