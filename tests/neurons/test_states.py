"""Truncated backpropagation through time, and refusals of reset, detach and tbptt."""

import copy

import pytest
import torch
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAENeuron, detach, reset, surrogate

K = 5


def hidden(**options):
    return IPVAENeuron(K, init_hidden=True, **options)


def test_a_missing_detach_is_named_in_the_error():
    layer, neuron = nn.Linear(2, K), IPVAENeuron(K)
    state = ()

    def loss_without_detach(window, start):
        nonlocal state
        loss = 0.0
        for frame in window:
            state = neuron(layer(frame), *state)
            loss = loss + state[1].mean()
        return loss

    with pytest.raises(RuntimeError, match=r"ipvae_snn\.detach\(net\)"):
        ipvae_snn.tbptt(
            nn.ModuleList([layer, neuron]), torch.rand(6, 3, 2), loss_without_detach, window=3
        )


def test_gradients_stay_within_their_window():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, K), hidden(spike_grad=surrogate.rounded()))
    twin = copy.deepcopy(net)
    x = torch.rand(8, 3, 2)

    def last_mem(net):
        def loss(window, start):
            for frame in window:
                net(frame)
            return net[1].mem.mean()

        return loss

    losses = ipvae_snn.tbptt(net, x, last_mem(net), window=4)
    assert len(losses) == 2
    with torch.no_grad():
        for frame in x[:4]:
            twin(frame)
    last_mem(twin)(x[4:], 4).backward()
    first = copy.deepcopy(twin)
    first.zero_grad()
    reset(first)
    last_mem(first)(x[:4], 0).backward()
    total = twin[0].weight.grad + first[0].weight.grad
    torch.testing.assert_close(net[0].weight.grad, total)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda net, x, loss: ipvae_snn.tbptt(net, x, loss, window=0), ValueError),
        (lambda net, x, loss: ipvae_snn.tbptt(net, x[:0], loss, window=2), ValueError),
        (lambda net, x, loss: ipvae_snn.tbptt(net, x, lambda w, s: w, window=2), ValueError),
        (lambda net, x, loss: ipvae_snn.tbptt("net", x, loss, window=2), TypeError),
        (lambda net, x, loss: reset(None), TypeError),
        (lambda net, x, loss: detach([]), TypeError),
    ],
)
def test_invalid_arguments_are_refused(call, error):
    net = nn.Sequential(nn.Linear(2, K), hidden())
    with pytest.raises(error):
        call(net, torch.rand(4, 3, 2), lambda window, start: net(window[0]).mean())
