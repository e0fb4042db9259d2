"""Many timesteps of a neuron: by fused kernels where its estimator allows it, else in a loop."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_all_finite
from ipvae_snn._utils.seeding import seeded_draws
from ipvae_snn.kernels import equations, native
from ipvae_snn.kernels.loop import Moment, State, Timestep, record
from ipvae_snn.kernels.spec import OUTPUTS, UnrollResult, UnrollSpec
from ipvae_snn.kernels.unroll import row_by_row, unroll
from ipvae_snn.neurons.base import is_transformed
from ipvae_snn.surrogate import Assumptions, Estimator

if TYPE_CHECKING:
    from ipvae_snn.neurons.poisson import IPVAENeuron

EXPLOSIVE_CLAMP = 6.0
"""Clamp in nats above which rates can explode so far that rounding errors dominate gradients."""


def is_constant(input_: Tensor) -> bool:
    """Whether all timesteps of ``input_``, (T, ...), are one expanded tensor.

    Not for a leaf with a gradient, whose timesteps each have to get their own.
    """
    if torch.compiler.is_compiling() or is_transformed(input_):
        return False
    return input_.stride(0) == 0 and not (input_.is_leaf and input_.requires_grad)


def assumptions_of(neuron: "IPVAENeuron") -> Assumptions | None:
    """What kernels may assume of the neuron's spikes; None if it must emit them itself."""
    estimator = neuron.spike_grad
    if not isinstance(estimator, Estimator) or neuron.state_quant:
        return None
    known = estimator.assumptions(neuron.training)
    if known is not None and neuron.surrogate_disable:
        return known._replace(slope="none")
    return known


def spec_of(
    neuron: "IPVAENeuron", drive: Tensor, gram: Tensor, state: State, **options: Any
) -> UnrollSpec:
    """The spec of a neuron, for one timestep unless ``options``, its other fields, say more."""
    return UnrollSpec(
        drive=drive,
        gram=gram,
        spk=state.spk,
        mem=state.mem,
        step_size=neuron.log_step.exp(),
        bias=neuron.tonic(gram),
        mem_rest=neuron.mem_init.expand(neuron.features),
        lateral_scale=neuron.lateral_scale,
        leak=neuron.leak,
        clamp=neuron.clamp,
        estimator=neuron.spike_grad,
        **options,
    )


def infer(
    neuron: "IPVAENeuron",
    spec: UnrollSpec,
    sample_seeds: Tensor | None = None,
    **sources: Tensor,
) -> UnrollResult:
    """Run neurons for a number of timesteps.

    Args:
        spec: from :func:`spec_of`; ``law``, ``slope`` and ``recompute_inhibition`` are set here.
        sample_seeds: int64, (B,): the spikes of a row depend on its number, not on other rows.
        sources: the tensors that the drive was computed from, by their names in errors.

    Raises:
        ValueError: NaN or infinity in the sources or in the parameters of the neurons.

    Gradients flow from the whole result to the tensors of the spec, and so to the neuron's
    parameters.
    """
    if not neuron.observers:
        return infer_unobserved(neuron, spec, sample_seeds, **sources)
    fields = tuple(dict.fromkeys((*spec.fields, "spk", "mem")))
    out = infer_unobserved(neuron, replace(spec, fields=fields, every=1), sample_seeds, **sources)
    return _notify(neuron, out, spec.fields, spec.every)


def infer_unobserved(
    neuron: "IPVAENeuron",
    spec: UnrollSpec,
    sample_seeds: Tensor | None = None,
    **sources: Tensor,
) -> UnrollResult:
    """As :func:`infer`, without a call of the neuron's observers."""
    sources |= {
        "the step size of the neurons": spec.step_size,
        "the bias of the neurons": spec.bias,
        "the mem_init of the neurons": spec.mem_rest,
    }
    require_all_finite(**sources)
    known = assumptions_of(neuron)
    exploding = spec.kl_form == "published" or neuron.clamp > EXPLOSIVE_CLAMP
    spec = replace(
        spec,
        recompute_inhibition=exploding,
        **({} if known is None else known._asdict()),
    )
    traced = torch.compiler.is_compiling() or any(
        is_transformed(tensor) for tensor in (spec.drive, spec.gram, spec.mem)
    )
    fused = known is not None and not traced
    run = unroll if fused else partial(_loop, neuron)
    if sample_seeds is None:
        return run(spec)
    if fused and native.supports(spec):
        return run(replace(spec, row_ids=sample_seeds))
    return _row_by_row(run, spec, sample_seeds)


def _row_by_row(
    run: Callable[[UnrollSpec], UnrollResult], spec: UnrollSpec, sample_seeds: Tensor
) -> UnrollResult:
    def run_row(i: int) -> dict[str, Any]:
        row = {name: getattr(spec, name)[..., i : i + 1, :] for name in ("drive", "spk", "mem")}
        out = run(replace(spec, **row))
        return {name: getattr(out, name) for name in OUTPUTS}

    estimator = spec.estimator
    generator = getattr(estimator, "generator", None)
    seeded = partial(seeded_draws, parts=(estimator,), device=spec.mem.device, generator=generator)
    return UnrollResult(**row_by_row(run_row, sample_seeds, generator, seeded))


def _notify(
    neuron: "IPVAENeuron", out: UnrollResult, fields: tuple[str, ...], every: int
) -> UnrollResult:
    """Show all timesteps to the neuron's observers; keep those that the caller asked for."""
    assert out.spk is not None
    assert out.mem is not None
    neuron.notify_observers(State(out.spk, out.mem))
    spk = out.spk[every - 1 :: every] if "spk" in fields else None
    mem = out.mem[every - 1 :: every] if "mem" in fields else None
    return replace(out, spk=spk, mem=mem)


def draws_by_row(neuron: "IPVAENeuron") -> bool:
    """Whether ``sample_seeds`` take no extra time: compiled kernels draw by row number."""
    known = assumptions_of(neuron)
    return known is not None and known.law != "own" and native.supports_tensors(neuron.mem_init)


class _NeuronTimestep(Timestep):
    """The neuron's own ``integrate`` and ``emit``: for any callable, and for transforms."""

    def __init__(self, neuron: "IPVAENeuron", spec: UnrollSpec) -> None:
        self.neuron, self.spec = neuron, spec

    def send(self, spk: Tensor, t: int) -> Tensor:
        return self.neuron.lateral.inhibition(spk, self.spec.gram)

    def integrate(self, now: Moment, t: int) -> Tensor:
        return self.neuron.integrate(self.spec.drive_at(t), now.sent, now.mem, self.spec.bias)

    def emit(self, mem: Tensor) -> Tensor:
        return self.neuron.emit(mem)

    def measure(self, name: str, now: Moment, t: int) -> Tensor:
        if name == "quad":
            return equations.spike_energy(now.spk, now.sent, self.spec.drive_at(t))
        return equations.poisson_kl_sum(now.mem, now.mem_before, self.spec.kl_form)


def _loop(neuron: "IPVAENeuron", spec: UnrollSpec) -> UnrollResult:
    timestep, start = _NeuronTimestep(neuron, spec), State(spec.spk, spec.mem)
    values, last = record(timestep, start, spec.steps, spec.fields, spec.every)
    fields: dict[str, Any] = {name: values.get(name) for name in ("spk", "mem", "quad", "kl")}
    return UnrollResult(**fields, last_spk=last.spk, last_mem=last.mem)
