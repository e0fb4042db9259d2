"""All timesteps of inference as one differentiable function of drive, G, state and parameters."""

from collections.abc import Callable
from dataclasses import fields as fields_of
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import require_finite
from ipvae_snn._utils.seeding import combine, seeded
from ipvae_snn.kernels import cuda_graphs, native, plain
from ipvae_snn.kernels.native_adjoint import NativeAdjoint
from ipvae_snn.kernels.spec import INPUTS, OUTPUTS, UnrollResult, UnrollSpec
from ipvae_snn.neurons.base import State, is_transformed
from ipvae_snn.neurons.poisson import IPVAENeuron
from ipvae_snn.surrogate import Exact, midpoint, rate, rounded
from ipvae_snn.surrogate.relaxed import Relaxed

CAREFUL_ABOVE = 6.0
"""Clamp in nats above which rates can explode so far that rounding drowns gradients."""


def describe(
    estimator: Any, training: bool = True, emits_gradient: bool = True
) -> dict[str, Any] | None:
    """What kernels need to know of an estimator, or None if it must be called step by step.

    >>> describe(midpoint())
    {'law': 'poisson', 'weight': 'midpoint'}
    """
    kind = type(estimator)
    if isinstance(estimator, Relaxed) and not training:
        return {"law": "poisson", "weight": "none"}
    if not isinstance(estimator, Exact) or kind.__call__ is not Exact.__call__:
        return None
    law = {Exact.draw: "poisson", rounded.draw: "rounded"}.get(kind.draw, "own")
    if kind.sample is not Exact.sample:
        law = "own"
    weight = {midpoint.slope: "midpoint", rate.slope: "rate", rounded.slope: "rate"}.get(
        kind.slope, "own"
    )
    return {"law": law, "weight": weight if emits_gradient else "none"}


def spec_of(neuron: IPVAENeuron, drive: Tensor, gram: Tensor, state: State) -> UnrollSpec:
    """One timestep of a neuron, to be changed where more is wanted."""
    return UnrollSpec(
        drive=drive,
        gram=gram,
        spk=state.spk,
        mem=state.mem,
        step=neuron.log_step.exp(),
        bias=neuron.log_bias.exp(),
        rest=neuron.mem_init,
        scale=neuron.lateral_scale,
        leak=neuron.leak,
        clamp=neuron.clamp,
        estimator=neuron.spike_grad,
    )


def infer(
    neuron: IPVAENeuron,
    drive: Tensor,
    gram: Tensor,
    state: State,
    steps: int,
    fields: tuple[str, ...] = (),
    every: int = 1,
    kl_form: str = "exact",
    precision: str = "float32",
    sample_seeds: Tensor | None = None,
) -> UnrollResult:
    """Run neurons for a number of timesteps: fused where their estimator allows it.

    Args:
        drive: (B, K), or (steps, B, K) for changing input.
        gram: ``neuron.gram()``.
        state: (spk, mem), (B, K) each.
        fields, every, kl_form, precision: see :class:`~ipvae_snn.kernels.spec.UnrollSpec`.
        sample_seeds: int64, (B,): spikes of a row depend on its number and not on other rows.

    Gradients flow to the tensors, and to the neuron's parameters, from all that is returned.
    """
    known = describe(neuron.spike_grad, neuron.training, not neuron.surrogate_disable)
    spec = spec_of(neuron, drive, gram, state)
    watched = bool(neuron.observers)
    spec = replace(
        spec,
        steps=steps,
        fields=tuple(dict.fromkeys((*fields, "spk", "mem"))) if watched else fields,
        every=1 if watched else every,
        kl_form=kl_form,
        precision=precision,
        careful=kl_form == "published" or neuron.clamp > CAREFUL_ABOVE,
        **(known or {}),
    )
    traced = torch.compiler.is_compiling() or any(
        is_transformed(t) for t in (drive, gram, spec.mem)
    )
    fused = not (known is None or neuron.state_quant or traced)
    for name in ("step", "bias", "rest") if fused else ():
        require_finite(getattr(spec, name), f"the {name} of the neurons")
    run = unroll if fused else partial(_stepwise, neuron)
    if sample_seeds is None:
        out = run(spec)
    elif fused and native.suits(spec):
        out = run(replace(spec, row_ids=sample_seeds))
    else:
        out = _one_by_one(run, spec, sample_seeds)
    return _shown(neuron, out, fields, every) if watched else out


def _shown(
    neuron: IPVAENeuron, out: UnrollResult, fields: tuple[str, ...], every: int
) -> UnrollResult:
    """Show all timesteps to those who watch the neuron, and return those that were asked for."""
    assert out.spk is not None
    assert out.mem is not None
    neuron.observed(State(out.spk, out.mem))
    spk, mem = (
        part[every - 1 :: every] if name in fields else None
        for name, part in (("spk", out.spk), ("mem", out.mem))
    )
    return replace(out, spk=spk, mem=mem)


def draws_by_row(neuron: IPVAENeuron) -> bool:
    """Whether ``sample_seeds`` cost no time: compiled kernels draw, and know rows by number."""
    known = describe(neuron.spike_grad, neuron.training, not neuron.surrogate_disable)
    by_law = known is not None and known["law"] != "own" and not neuron.state_quant
    return by_law and native.fits(neuron.mem_init)


def _one_by_one(
    run: Callable[[UnrollSpec], UnrollResult], spec: UnrollSpec, sample_seeds: Tensor
) -> UnrollResult:
    """A spec sample by sample, each from a random state of its own."""
    generator = getattr(spec.estimator, "generator", None)
    key = int(native.keys(1, generator))
    outs = []
    for i, number in enumerate(sample_seeds.tolist()):
        own = {name: getattr(spec, name)[..., i : i + 1, :] for name in ("drive", "spk", "mem")}
        with seeded(combine(key, number), device=spec.mem.device, generator=generator):
            outs.append(run(replace(spec, **own)))

    def joined(name: str) -> Any:
        parts = [getattr(out, name) for out in outs]
        dim = 0 if name.startswith("last") else 1
        return None if parts[0] is None else torch.cat(parts, dim)

    return UnrollResult(**{name: joined(name) for name in OUTPUTS}, saved=None)


def _stepwise(neuron: IPVAENeuron, spec: UnrollSpec) -> UnrollResult:
    """The same by the neuron's own timestep: for users' callables, torch.compile, torch.func."""
    kept: dict[str, list[Tensor]] = {name: [] for name in spec.fields}
    spk, mem = spec.spk, spec.mem
    inhibition = spk @ spec.gram
    for t in range(spec.steps):
        drive, prior = spec.drive_at(t), mem
        mem = neuron.integrate(drive, inhibition, mem)
        spk = neuron.emit(mem)
        inhibition = spk @ spec.gram
        now = {"spk": spk, "mem": mem} if (t + 1) % spec.every == 0 else {}
        if "quad" in kept:
            now["quad"] = F.gaussian_nll_gram(spk, inhibition, drive, drive.new_zeros(()), 0)
        if "kl" in kept:
            now["kl"] = F.poisson_kl(mem, prior, spec.kl_form).sum(-1)
        for name in kept.keys() & now.keys():
            kept[name].append(now[name])
    stacks: dict[str, Tensor | None] = dict.fromkeys(("spk", "mem", "quad", "kl"))
    for name, values in kept.items():
        stacks[name] = torch.stack(values) if values else spec.stack(name)
    return UnrollResult(**stacks, last_spk=spk, last_mem=mem, saved=None)


def unroll(spec: UnrollSpec) -> UnrollResult:
    """Run a spec; gradients flow to its tensors from all that it returns.

    Forward and backward are one function: a (B, K) × (K, K) product per timestep each way, pixels
    never touched; per timestep, sample and neuron, five bytes are kept. Second derivatives are
    not available.
    """
    tensors = [getattr(spec, name).contiguous() for name in INPUTS]
    spec = replace(spec, **dict(zip(INPUTS, tensors, strict=True)))
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        return _kernels(spec)[0](spec)
    found: tuple[Any, ...] = _Unroll.apply(spec, *tensors)
    return UnrollResult(**dict(zip(OUTPUTS, found, strict=True)), saved=None)


def _kernels(spec: UnrollSpec) -> tuple[Any, Any]:
    if native.suits(spec):
        return native.forward, NativeAdjoint
    if cuda_graphs.suits(spec):
        return cuda_graphs.forward, cuda_graphs.GraphedAdjoint
    return plain.forward, plain.PlainAdjoint


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: UnrollSpec, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        own: dict[str, Any] = dict(zip(INPUTS, tensors, strict=True))
        spec = replace(spec, keep=True, **own)
        run, ctx.adjoint = _kernels(spec)
        out = run(spec)
        assert out.saved is not None
        ctx.save_for_backward(*tensors, *out.saved)
        ctx.settings = {
            f.name: getattr(spec, f.name) for f in fields_of(spec) if f.name not in INPUTS
        }
        ctx.set_materialize_grads(False)
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
        asked = zip(INPUTS, ctx.needs_input_grad[1:], strict=True)
        needed = {name for name, needs in asked if needs}
        adjoint = ctx.adjoint(spec, (mems, counts), needed)
        found = adjoint(dict(zip(OUTPUTS, grads, strict=True)))
        return None, *(found[name] if name in needed else None for name in INPUTS)
