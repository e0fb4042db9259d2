"""Plain references: the algorithm as a loop over timesteps in PyTorch, without our kernels.

Speed is measured against them, and the fused kernels are tested against them.
"""

import torch
from torch import Tensor

from ipvae_snn.functional import bound_log_scale, poisson_kl, soft_clamp
from ipvae_snn.models.ipvae import IPVAE


def gram_form(model: IPVAE, x: Tensor, num_steps: int, beta: float) -> Tensor:
    """The loss of the model, timestep by timestep under autograd, with ``torch.poisson`` counts.

    Args:
        x: (B, M), shown at every timestep.

    Returns:
        Scalar, distributed as :meth:`IPVAE.loss`.
    """
    weight, neuron = model.decoder.weight, model.neuron
    log_scale = _log_scale(model)
    whitened = weight * torch.exp(-log_scale).unsqueeze(-1)
    gram, drive = whitened.mT @ whitened, (x * torch.exp(-2 * log_scale)) @ weight
    energy = (x * torch.exp(-log_scale)).square().sum(-1)
    spk, mem = torch.zeros_like(drive), neuron.mem_init.expand_as(drive)
    total = drive.new_zeros(())
    inhibition = spk
    for _ in range(num_steps):
        before, mem = mem, _integrate(model, drive - inhibition, mem)
        spk = _draw(mem)
        inhibition = spk @ gram
        nll = 0.5 * (energy + (spk * (inhibition - 2 * drive)).sum(-1)) + log_scale.sum()
        total = total + (nll + beta * poisson_kl(mem, before).sum(-1)).mean()
    return _scaled(total, num_steps, model)


def published_form(model: IPVAE, x: Tensor, num_steps: int, beta: float) -> Tensor:
    """The same in the form of the paper: a prediction error per pixel, and a second draw of counts.

    The second draw reconstructs the input. Counts come from ``torch.poisson``, which is cheaper
    than the relaxed counts of the published program.
    """
    weight, neuron = model.decoder.weight, model.neuron
    log_scale = _log_scale(model)
    precision = torch.exp(-2 * log_scale)
    mem = neuron.mem_init.expand(len(x), model.latents)
    spk, total = torch.zeros_like(mem), mem.new_zeros(())
    for _ in range(num_steps):
        error = (x - spk @ weight.mT) * precision
        before, mem = mem, _integrate(model, error @ weight, mem)
        spk = _draw(mem)
        residual = x - _draw(mem) @ weight.mT
        nll = 0.5 * (residual.square() * precision).sum(-1) + log_scale.sum()
        total = total + (nll + beta * poisson_kl(mem, before).sum(-1)).mean()
    return _scaled(total, num_steps, model)


def _log_scale(model: IPVAE) -> Tensor:
    raw = model.neuron.lateral.log_scale
    assert isinstance(raw, Tensor)
    return bound_log_scale(raw)


def _integrate(model: IPVAE, current: Tensor, mem: Tensor) -> Tensor:
    neuron = model.neuron
    if neuron.form == "exact":
        weight, precision = model.decoder.weight, torch.exp(-2 * _log_scale(model))
        current = current - 0.5 * precision @ weight.square()
    leak = neuron.leak * (mem - neuron.mem_init)
    step = neuron.log_step.exp() * (current - neuron.log_bias.exp() - leak)
    return soft_clamp(mem + soft_clamp(step, neuron.clamp), neuron.clamp)


def _scaled(total: Tensor, num_steps: int, model: IPVAE) -> Tensor:
    constant = 0.5 * model.in_features * torch.log(torch.tensor(2 * torch.pi))
    return (total / num_steps + constant.to(total)) * (256 / model.in_features)


def _draw(mem: Tensor) -> Tensor:
    counts: Tensor = _Count.apply(mem)  # type: ignore[no-untyped-call]
    return counts


class _Count(torch.autograd.Function):
    """Poisson counts z of rates λ = e^u, with dz/du = (z + λ) / 2."""

    @staticmethod
    def forward(ctx, mem):  # type: ignore[no-untyped-def]
        rate = mem.exp()
        spk = torch.poisson(rate)
        ctx.save_for_backward(spk, rate)
        return spk

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        spk, rate = ctx.saved_tensors
        return grad * (spk + rate) / 2
