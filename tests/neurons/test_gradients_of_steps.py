"""Gradients of one-step calls and of the cached G where graphs are shared, cut or made anew."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ipvae_snn import IPVAE, IPVAENeuron

K = 6


def gradients(dtype: torch.dtype, steps: int, create_graph: bool) -> list[torch.Tensor]:
    """Of a loss in which one current serves all timesteps, and the start is ``mem_init``."""
    torch.manual_seed(0)
    neuron, layer = (
        IPVAENeuron(K, mem_init=0.0, learn_step=True).to(dtype),
        nn.Linear(3, K).to(dtype),
    )
    x = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    drive, (spk, mem) = layer(x), neuron.initial_state((2, K))
    torch.manual_seed(1)
    loss = torch.zeros((), dtype=dtype)
    for _ in range(steps):
        spk, mem = neuron(drive, spk, mem)
        loss = loss + mem.sum() + 0.1 * spk.square().sum()
    sources = [x, neuron.mem_init, neuron.log_step, neuron.log_bias, neuron.lateral.factor]
    return list(torch.autograd.grad(loss, sources, create_graph=create_graph))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_create_graph_leaves_first_gradients_as_they_are(dtype, steps):
    plain, with_graph = (gradients(dtype, steps, create) for create in (False, True))
    for one, other in zip(plain, with_graph, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-5)


def loss_gradient(model: IPVAE, x: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    torch.manual_seed(1)
    model.loss(x, 5).backward()
    return model.decoder.weight.grad.clone()


def test_weights_that_were_frozen_learn_again():
    torch.manual_seed(0)
    model, x = IPVAE(8, K, init_std=0.5), torch.rand(4, 8)
    expected = loss_gradient(model, x)
    model.decoder.requires_grad_(False)
    model.loss(x, 5)  # log σ still learns, and its G is cached
    model.decoder.requires_grad_(True)
    assert torch.equal(loss_gradient(model, x), expected)


def test_a_fused_optimizer_moves_the_lateral_weights():
    neuron = IPVAENeuron(K, learn_step=True)
    optimizer = torch.optim.SGD(neuron.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        neuron.lateral.cached_gram().sum().backward()
        optimizer.step()
        assert torch.equal(neuron.lateral.cached_gram(), neuron.gram())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_checkpointing_recomputes_what_was_saved(dtype):
    torch.manual_seed(0)
    neuron = IPVAENeuron(K, mem_init=0.0, learn_step=True).to(dtype)
    drive = torch.ones(5, 3, K, dtype=dtype, requires_grad=True)

    def loss(drive: torch.Tensor) -> torch.Tensor:
        spk, mem = neuron.run(drive)
        return neuron(drive[0], spk[-1], mem[-1])[1].square().sum()

    for _ in range(2):
        torch.manual_seed(3)
        (expected,) = torch.autograd.grad(loss(drive), neuron.log_step)
        with torch.no_grad():
            neuron.lateral.factor.add_(0)  # G is made anew, as after a step of an optimizer
        torch.manual_seed(3)
        (found,) = torch.autograd.grad(
            checkpoint(loss, drive, use_reentrant=False), neuron.log_step
        )
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["log_bias", "mem_init"])
def test_a_parameter_for_all_neurons_together_is_broadcast(name):
    """Compiled kernels read K numbers: they must not be given one."""
    neuron = IPVAENeuron(K, mem_init=0.0, leak=0.3)
    setattr(neuron, name, nn.Parameter(torch.tensor(-0.5)))
    start = torch.zeros(2, K)
    found = neuron(torch.ones(2, K), start, start)[1]
    assert torch.equal(found, found[:1, :1].expand(2, K))
    expected = neuron.double()(torch.ones(2, K).double(), start.double(), start.double())[1]
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_an_empty_batch_has_gradients_of_zero():
    neuron = IPVAENeuron(K, learn_step=True)
    neuron.run(torch.zeros(3, 0, K))[1].sum().backward()
    assert float(neuron.log_step.grad) == 0


class Rates(nn.Module):
    def forward(self, mem):
        return mem.exp()


def test_estimators_are_checked_when_they_are_set():
    neuron = IPVAENeuron(K, learn_step=True)
    before = neuron.spike_grad
    with pytest.raises(TypeError, match="spike_grad must be a callable"):
        neuron.spike_grad = 3
    assert neuron.spike_grad is before
    neuron.spike_grad = Rates()
    neuron.spike_grad = before  # a module does not keep others out
    assert neuron.spike_grad is before


def test_the_gradient_of_the_cached_gram_is_that_of_autograd_to_the_last_bit():
    """Its formula is written out: with large log σ, too, it must round as autograd does."""
    torch.manual_seed(0)
    log_scale = nn.Parameter(3 * torch.randn(500))
    neuron = IPVAENeuron(nn.Linear(K, 500, bias=False), log_scale=log_scale)
    factor = torch.randn(K, K)
    found, expected = (
        torch.autograd.grad((gram * factor).sum(), [neuron.lateral.weight, log_scale])
        for gram in (neuron.lateral.cached_gram(), neuron.gram())
    )
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
