"""One timestep of a neuron as one differentiable function: compiled C, float32 on the CPU.

Its values equal those of the same timestep in an unroll to the last bit. Unlike an unroll it has
second derivatives: with ``create_graph=True`` the backward pass uses PyTorch operations.
"""

from ctypes import byref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ipvae_snn.kernels import equations, native
from ipvae_snn.kernels.adjoint import slope_of
from ipvae_snn.kernels.native import pointer
from ipvae_snn.kernels.spec import UnrollSpec

INPUTS = ("drive", "gram", "spk", "mem", "log_step", "log_bias", "mem_rest")


Tensors = list[Tensor]
Flags = tuple[bool, ...]
Grads = tuple[Tensor | None, Tensor | None]


class Settings(NamedTuple):
    """The settings of a neuron that are no tensors; fields as in :class:`UnrollSpec`."""

    lateral_scale: float
    leak: float
    clamp: float
    estimator: Any
    law: str
    slope: str


def supports(settings: Settings, *tensors: Tensor) -> bool:
    """Whether the compiled kernels accept a timestep with these settings and tensors."""
    gram, log_step, *per_neuron = tensors[1], *tensors[4:]
    return (
        settings.law != "own"
        and log_step.ndim == 0
        and all(t.shape == gram.shape[:1] and t.is_contiguous() for t in per_neuron)
        and native.supports_tensors(*tensors)
    )


def one_step(settings: Settings, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """(spk, mem) after a timestep.

    Args:
        settings: of the neuron.
        tensors: in the order of ``INPUTS``: drive (..., K), gram (K, K), spk and mem (..., K), and
            the parameters.
    """
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        return _forward(settings, *tensors)[:2]
    spk, mem = _OneStep.apply(settings, *tensors)  # type: ignore[no-untyped-call]
    return spk, mem


def _forward(
    settings: Settings, *tensors: Tensor, save: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """spk, mem, and with ``save`` the counts in the dtype they are saved in: an unroll of T = 1."""
    drive, gram, spk, mem, *parameters = tensors
    flat = [t.reshape(-1, gram.shape[0]).contiguous() for t in (drive, spk, mem)]
    spec = _spec(settings, flat[0], gram, *flat[1:], *parameters, save=save)
    out = native.forward(spec)
    counts = None if out.saved is None else out.saved[1].reshape(mem.shape)
    return out.last_spk.reshape(mem.shape), out.last_mem.reshape(mem.shape), counts


def _spec(settings: Settings, *tensors: Tensor, save: bool = False) -> UnrollSpec:
    drive, gram, spk, mem, log_step, bias, mem_rest = tensors
    step_size = log_step.detach().exp()
    return UnrollSpec(
        drive, gram, spk, mem, step_size, bias.detach(), mem_rest.detach(), *settings, save=save
    )


class _OneStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: Settings, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        spk, mem, counts = _forward(settings, *tensors, save=True)
        ctx.settings = settings
        ctx.save_for_backward(*tensors, mem, counts)
        ctx.set_materialize_grads(False)
        if settings.slope == "none":
            ctx.mark_non_differentiable(spk)
        return spk, mem

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        spk_grad, mem_grad = grads
        if spk_grad is None and mem_grad is None:
            return None, *(None for _ in needed)
        *tensors, mem, counts = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            return None, *_by_autograd(ctx.settings, tensors, counts, needed, (spk_grad, mem_grad))
        return None, *_backward(ctx.settings, tensors, mem, counts, needed, (spk_grad, mem_grad))


def _backward(
    settings: Settings, tensors: Tensors, mem: Tensor, counts: Tensor, needed: Flags, grads: Grads
) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors; those that cost a product only where they are needed."""
    spk_grad, mem_grad = grads
    drive, gram, spk, mem_before = (t.contiguous() for t in tensors[:4])
    spec = _spec(settings, drive, gram, spk, mem_before, *tensors[4:])
    latents, threads = gram.shape[0], torch.get_num_threads()
    rows = mem.numel() // latents
    lateral = native.padded(gram)
    stride = lateral.shape[1]
    slope_kind = settings.slope if spk_grad is not None else "none"
    slope = None
    if slope_kind == "own":
        slope = slope_of(settings.estimator, counts.to(mem.dtype), mem.exp()).contiguous()
    # In an unroll ``product`` is the gradient of the spikes, as far as it comes from later ones.
    product = torch.zeros_like(mem) if spk_grad is None else spk_grad.contiguous()
    mem_grad = (
        torch.zeros_like(mem)
        if mem_grad is None
        else mem_grad.clone(memory_format=torch.contiguous_format)
    )
    inhibition_grad, drive_grad = torch.empty_like(mem), torch.zeros_like(mem)
    unused, zeros = spec.empty(rows, stride), spec.empty(rows).zero_()
    bias_sums = spec.empty(threads, stride).zero_()
    step_sums = torch.zeros(rows, dtype=torch.float64)
    work = spec.empty(threads, stride + 2 * latents)
    arguments = native.Backward(
        rows=rows,
        latents=latents,
        stride=stride,
        mem=pointer(mem),
        mem_before=pointer(mem_before),
        counts=pointer(counts),
        count_bytes=counts.element_size(),
        drive=pointer(drive),
        gram=pointer(lateral),
        first_spk=pointer(spk),
        work=pointer(work),
        product=pointer(product),
        slope=pointer(slope),
        **native.slope_of_kind(slope_kind, settings.estimator),
        quad_grad=pointer(zeros),
        kl_grad=pointer(zeros),
        mem_grad=pointer(mem_grad),
        drive_grad=pointer(drive_grad),
        product_input=pointer(inhibition_grad),
        gram_factor=pointer(unused),
        bias_grad=pointer(bias_sums),
        step_sum=pointer(step_sums),
        threads=threads,
    )
    native.library().ipvae_backward(byref(native.dynamics_of(spec)), byref(arguments))
    bias_sum = bias_sums.sum(0)[:latents]
    flat_grad = inhibition_grad.reshape(rows, latents)
    return (
        drive_grad if needed[0] else None,
        spk.reshape(rows, latents).mT @ flat_grad if needed[1] else None,
        inhibition_grad @ gram.mT if needed[2] else None,
        mem_grad if needed[3] else None,
        step_sums.sum().to(mem.dtype).reshape(tensors[4].shape) if needed[4] else None,
        -spec.step_size * bias_sum if needed[5] else None,
        spec.step_size * settings.leak * bias_sum if needed[6] else None,
    )


def _by_autograd(
    settings: Settings, tensors: Tensors, counts: Tensor, needed: Flags, grads: Grads
) -> list[Tensor | None]:
    """The same gradients, themselves differentiable: autograd through PyTorch operations."""
    spk_grad, mem_grad = grads
    # Views, so that autograd stops here: one tensor may have been computed from another.
    tensors = [t.view_as(t) for t in tensors]
    drive, gram, spk, mem_before, log_step, bias, mem_rest = tensors
    mem = equations.membrane_step(
        mem_before,
        drive,
        settings.lateral_scale * (spk @ gram),
        step=log_step.exp(),
        bias=bias,
        leak=settings.leak,
        mem_rest=mem_rest,
        clamp=settings.clamp,
    )
    outputs, output_grads = ([], []) if mem_grad is None else ([mem], [mem_grad])
    if spk_grad is not None and settings.slope != "none":
        spk = _DrawnCounts.apply(mem, counts, settings.estimator)  # type: ignore[no-untyped-call]
        outputs.append(spk)
        output_grads.append(spk_grad)
    inputs = [t for t, needs in zip(tensors, needed, strict=True) if needs]
    input_grads = iter(
        torch.autograd.grad(outputs, inputs, output_grads, create_graph=True, allow_unused=True)
    )
    return [next(input_grads) if needs else None for needs in needed]


class _DrawnCounts(torch.autograd.Function):
    """The counts that the forward pass drew, with the gradient of their estimator."""

    @staticmethod
    def forward(ctx: Any, mem: Tensor, counts: Tensor, estimator: Any) -> Tensor:
        spk = counts.to(mem.dtype)
        ctx.estimator = estimator
        ctx.save_for_backward(mem, spk)
        return spk

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        mem, spk = ctx.saved_tensors
        return grad * slope_of(ctx.estimator, spk, mem.exp()), None, None
