"""All timesteps of inference as one differentiable function of drive, G, state and parameters."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import fields as fields_of
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.seeding import combine, source
from ipvae_snn.kernels import cuda_graphs, native, plain
from ipvae_snn.kernels.choices import choices
from ipvae_snn.kernels.native_adjoint import NativeAdjoint
from ipvae_snn.kernels.spec import INPUTS, OUTPUTS, UnrollResult, UnrollSpec


def unroll(spec: UnrollSpec) -> UnrollResult:
    """Run a spec by the fastest kernels that support it; gradients flow to its tensors.

    Forward and backward are one autograd function: a (B, K) × (K, K) product per timestep each way,
    no work on pixels, and five bytes saved per timestep, sample and neuron. Second derivatives are
    not available.
    """
    tensors = [getattr(spec, name) for name in INPUTS]
    if not all(tensor.is_contiguous() for tensor in tensors):
        tensors = [tensor.contiguous() for tensor in tensors]
        spec = replace(spec, **dict(zip(INPUTS, tensors, strict=True)))
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        result: UnrollResult = _kernels(spec)[0](spec)
        return result
    outputs: tuple[Any, ...] = _Unroll.apply(spec, *tensors)  # type: ignore[no-untyped-call]
    return UnrollResult(**dict(zip(OUTPUTS, outputs, strict=True)))


def _kernels(spec: UnrollSpec) -> tuple[Any, Any]:
    """The forward pass and the class of the backward pass for a spec."""
    if native.supports(spec):
        return _native_forward, NativeAdjoint
    if cuda_graphs.supports(spec):
        return cuda_graphs.forward, cuda_graphs.GraphedAdjoint
    return plain.forward, plain.PlainAdjoint


def _native_forward(spec: UnrollSpec) -> UnrollResult:
    return native.forward(spec, choices(*spec.mem.shape).lateral)


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: UnrollSpec, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        inputs: dict[str, Any] = dict(zip(INPUTS, tensors, strict=True))
        spec = replace(spec, save=True, **inputs)
        run, ctx.adjoint = _kernels(spec)
        out = run(spec)
        assert out.saved is not None
        ctx.save_for_backward(*tensors, *out.saved)
        ctx.settings = {
            f.name: getattr(spec, f.name) for f in fields_of(spec) if f.name not in INPUTS
        }
        ctx.set_materialize_grads(False)
        if spec.slope == "none":
            without_gradient = (out.spk, out.last_spk)
            ctx.mark_non_differentiable(*(spk for spk in without_gradient if spk is not None))
        return tuple(getattr(out, name) for name in OUTPUTS)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "the unrolled network has first derivatives only: for second ones call "
                "model.neuron step by step"
            )
        *tensors, mems, counts = ctx.saved_tensors
        spec = UnrollSpec(**dict(zip(INPUTS, tensors, strict=True)), **ctx.settings)
        needed = {
            name for name, needs in zip(INPUTS, ctx.needs_input_grad[1:], strict=True) if needs
        }
        adjoint = ctx.adjoint(spec, (mems, counts), needed)
        input_grads = adjoint(dict(zip(OUTPUTS, grads, strict=True)))
        return None, *(input_grads[name] if name in needed else None for name in INPUTS)


def row_by_row(
    run: Callable[[int], Mapping[str, Any]],
    sample_seeds: Tensor,
    generator: torch.Generator | None,
    seeded: Callable[[int], AbstractContextManager[Any]],
) -> dict[str, Any]:
    """Run sample by sample, each with a seed of its own.

    For draws that, other than those of compiled kernels, do not depend on row numbers.

    Args:
        run: takes the index of a sample, and returns its outputs by name for a batch of one. They
            are states, (1, K), where the name begins with "last", else time first.
        sample_seeds: int64, (B,).
        generator: of the draws, where no block has one of its own.
        seeded: makes a block in which draws depend on a seed alone.
    """
    key = int(native.draw_keys(1, source(generator, "cpu")))
    runs = []
    for i, number in enumerate(sample_seeds.tolist()):
        with seeded(combine(key, number)):
            runs.append(run(i))

    def joined(name: str) -> Any:
        outputs = [out[name] for out in runs]
        dim = 0 if name.startswith("last") else 1
        return None if outputs[0] is None else torch.cat(outputs, dim)

    return {name: joined(name) for name in runs[0]}
