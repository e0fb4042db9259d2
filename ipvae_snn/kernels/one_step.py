"""One timestep of a neuron as one differentiable function: compiled, float32 on the CPU.

Equal to the last bit to the timestep of an unroll. Unlike there, second derivatives are available:
where they are asked for, the backward pass goes through PyTorch's own operations.
"""

from ctypes import byref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ipvae_snn.kernels import equations, native
from ipvae_snn.kernels.native import SLOPES, at
from ipvae_snn.kernels.spec import UnrollSpec

INPUTS = ("drive", "gram", "spk", "mem", "log_step", "log_bias", "rest")


class Settings(NamedTuple):
    """What a neuron is besides its tensors; fields as in :class:`UnrollSpec`."""

    scale: float
    leak: float
    clamp: float
    estimator: Any
    law: str
    slope: str


def suits(settings: Settings, *tensors: Tensor) -> bool:
    """Whether compiled kernels take a timestep with these settings and tensors."""
    return settings.law != "own" and all(native.fits(tensor) for tensor in tensors)


def one_step(settings: Settings, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """(spk, mem) after a timestep.

    Args:
        settings: of the neuron.
        tensors: drive (..., K), gram (K, K), spk and mem (..., K), log_step, log_bias and rest.
    """
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        return _forward(settings, *tensors)[:2]
    spk, mem = _OneStep.apply(settings, *tensors)
    return spk, mem


def _forward(
    settings: Settings, drive: Tensor, gram: Tensor, spk: Tensor, mem: Tensor, *rest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """spk, mem, and the counts in the smallest type that holds them."""
    spec = _spec(settings, drive.contiguous(), gram, spk, mem, *rest)
    latents, threads = gram.shape[0], torch.get_num_threads()
    rows = mem.numel() // latents
    lateral = native.padded(gram)
    new_spk, new_mem = (t.clone(memory_format=torch.contiguous_format) for t in (spk, mem))
    counts = torch.empty_like(new_spk, dtype=spec.count_dtype())
    work = spec.empty(threads, native.TEAM, lateral.shape[1] + latents)
    key = native.keys(1, settings.estimator.generator) if settings.law == "poisson" else None
    arguments = native.Forward(
        steps=1, rows=rows, latents=latents, stride=lateral.shape[1], drive=at(spec.drive),
        gram=at(lateral), keys=at(key), spk=at(new_spk), mem=at(new_mem), all_counts=at(counts),
        count_bytes=counts.element_size(), work=at(work), threads=threads,
    )  # fmt: skip
    native.kernels().ipvae_forward(byref(native.dynamics_of(spec)), byref(arguments))
    return new_spk, new_mem, counts


def _spec(
    settings: Settings, drive: Tensor, gram: Tensor, spk: Tensor, mem: Tensor,
    log_step: Tensor, log_bias: Tensor, rest: Tensor,
) -> UnrollSpec:  # fmt: skip
    step, bias = log_step.detach().exp(), log_bias.detach().exp()
    return UnrollSpec(drive, gram, spk, mem, step, bias, rest.detach(), *settings)


class _OneStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: Settings, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        spk, mem, counts = _forward(settings, *tensors)
        ctx.settings = settings
        ctx.save_for_backward(*tensors, mem, counts)
        ctx.set_materialize_grads(False)
        if settings.slope == "none":
            ctx.mark_non_differentiable(spk)
        return spk, mem

    @staticmethod
    def backward(
        ctx: Any, spk_grad: Tensor | None, mem_grad: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        if spk_grad is None and mem_grad is None:
            return None, *(None for _ in needed)
        *tensors, mem, counts = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return None, *_by_autograd(ctx.settings, tensors, counts, needed, spk_grad, mem_grad)
        return None, *_backward(ctx.settings, tensors, mem, counts, needed, spk_grad, mem_grad)


def _backward(
    settings: Settings, tensors: list[Tensor], mem: Tensor, counts: Tensor,
    needed: tuple[bool, ...], spk_grad: Tensor | None, mem_grad: Tensor | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of the inputs; of those that cost a product only where they are needed."""
    drive, gram, spk, before = (t.contiguous() for t in tensors[:4])
    spec = _spec(settings, drive, gram, spk, before, *tensors[4:])
    latents, threads = gram.shape[0], torch.get_num_threads()
    rows = mem.numel() // latents
    lateral = native.padded(gram)
    stride = lateral.shape[1]
    passes = settings.slope if spk_grad is not None else "none"
    slope = None
    if passes == "own":
        slope = settings.estimator.slope(counts.to(mem.dtype), mem.exp()).contiguous()
    product = torch.zeros_like(mem) if spk_grad is None else spk_grad.contiguous()
    carry = (
        torch.zeros_like(mem)
        if mem_grad is None
        else mem_grad.clone(memory_format=torch.contiguous_format)
    )
    push, drive_grad = torch.empty_like(mem), torch.zeros_like(mem)
    half, none = spec.empty(rows, stride), spec.empty(rows).zero_()
    bias_sums = spec.empty(threads, stride).zero_()
    step_sums = torch.zeros(rows, dtype=torch.float64)
    work = spec.empty(threads, stride + 2 * latents)
    arguments = native.Backward(
        rows=rows, latents=latents, stride=stride, mem=at(mem), mem_before=at(before),
        counts=at(counts), count_bytes=counts.element_size(), drive=at(drive), gram=at(lateral),
        first_spk=at(spk), work=at(work), product=at(product), slope=at(slope),
        slope_kind=SLOPES.index(passes), quad_grad=at(none), kl_grad=at(none), carry=at(carry),
        drive_grad=at(drive_grad), push=at(push), half_push=at(half), bias_grad=at(bias_sums),
        step_sum=at(step_sums), threads=threads,
    )  # fmt: skip
    native.kernels().ipvae_backward(byref(native.dynamics_of(spec)), byref(arguments))
    bias_sum = bias_sums.sum(0)[:latents]
    flat = push.reshape(rows, latents)
    return (
        drive_grad if needed[0] else None,
        spk.reshape(rows, latents).mT @ flat if needed[1] else None,
        push @ gram if needed[2] else None,
        carry if needed[3] else None,
        step_sums.sum().to(mem.dtype).reshape(tensors[4].shape) if needed[4] else None,
        -spec.step * spec.bias * bias_sum if needed[5] else None,
        spec.step * settings.leak * bias_sum if needed[6] else None,
    )


def _by_autograd(
    settings: Settings, tensors: list[Tensor], counts: Tensor,
    needed: tuple[bool, ...], spk_grad: Tensor | None, mem_grad: Tensor | None,
) -> list[Tensor | None]:  # fmt: skip
    """The same gradients with a graph of their own, by the plain timestep with the same counts."""
    drive, gram, spk, before, log_step, log_bias, rest = tensors
    inhibition = settings.scale * (spk @ gram)
    mem = equations.membrane_step(
        before, drive, inhibition, step=log_step.exp(), bias=log_bias.exp(), leak=settings.leak,
        mem_rest=rest, clamp=settings.clamp,
    )  # fmt: skip
    outputs, grads = ([], []) if mem_grad is None else ([mem], [mem_grad])
    if spk_grad is not None and settings.slope != "none":
        outputs.append(_Drawn.apply(mem, counts, settings.estimator))
        grads.append(spk_grad)
    wanted = [t for t, needs in zip(tensors, needed, strict=True) if needs]
    found = iter(torch.autograd.grad(outputs, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if needs else None for needs in needed]


class _Drawn(torch.autograd.Function):
    """Counts that were drawn already, with the backward of their estimator."""

    @staticmethod
    def forward(ctx: Any, mem: Tensor, counts: Tensor, estimator: Any) -> Tensor:
        spk = counts.to(mem.dtype)
        ctx.estimator = estimator
        ctx.save_for_backward(mem, spk)
        return spk

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        mem, spk = ctx.saved_tensors
        return grad * ctx.estimator.slope(spk, mem.exp()), None, None
