"""Many timesteps of a neuron: by fused kernels where its estimator allows it, else in a loop."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_all_finite
from ipvae_snn.kernels import equations, native
from ipvae_snn.kernels.loop import Moment, State, Timestep, record
from ipvae_snn.kernels.spec import OUTPUTS, UnrollResult, UnrollSpec
from ipvae_snn.kernels.unroll import row_by_row, unroll
from ipvae_snn.neurons.base import is_transformed
from ipvae_snn.surrogate import Assumptions, Estimator

if TYPE_CHECKING:
    from ipvae_snn.neurons.poisson import IPVAENeuron

PER_NEURON = ("step", "bias", "rest")
CAREFUL_ABOVE = 6.0
"""Clamp in nats above which rates can explode so far that rounding drowns gradients."""


def assumptions_of(neuron: "IPVAENeuron") -> Assumptions | None:
    """What kernels may assume of a neuron's emission; None if it must be called step by step."""
    estimator = neuron.spike_grad
    if not isinstance(estimator, Estimator) or neuron.state_quant:
        return None
    known = estimator.assumptions(neuron.training)
    if known is not None and neuron.surrogate_disable:
        return known._replace(slope="none")
    return known


def spec_of(neuron: "IPVAENeuron", drive: Tensor, gram: Tensor, state: State) -> UnrollSpec:
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
    neuron: "IPVAENeuron",
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
    """Run neurons for a number of timesteps.

    Args:
        drive: (B, K), or (steps, B, K) for changing input.
        gram: ``neuron.gram()``.
        state: (spk, mem), (B, K) each.
        fields, every, kl_form, precision: see :class:`~ipvae_snn.kernels.spec.UnrollSpec`.
        sample_seeds: int64, (B,): spikes of a row depend on its number and not on other rows.

    Gradients flow to the tensors, and to the neuron's parameters, from all that is returned.
    """
    known = assumptions_of(neuron)
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
        **({} if known is None else known._asdict()),
    )
    traced = torch.compiler.is_compiling() or any(
        is_transformed(tensor) for tensor in (drive, gram, spec.mem)
    )
    fused = known is not None and not traced
    if fused:
        own = {f"the {name} of the neurons": getattr(spec, name) for name in PER_NEURON}
        require_all_finite(**own)
    run = unroll if fused else partial(_loop, neuron)
    if sample_seeds is None:
        out = run(spec)
    elif fused and native.suits(spec):
        out = run(replace(spec, row_ids=sample_seeds))
    else:
        out = _row_by_row(run, spec, sample_seeds)
    return _shown(neuron, out, fields, every) if watched else out


def _row_by_row(
    run: Callable[[UnrollSpec], UnrollResult], spec: UnrollSpec, sample_seeds: Tensor
) -> UnrollResult:
    def one(i: int) -> dict[str, Any]:
        own = {name: getattr(spec, name)[..., i : i + 1, :] for name in ("drive", "spk", "mem")}
        out = run(replace(spec, **own))
        return {name: getattr(out, name) for name in OUTPUTS}

    generator = getattr(spec.estimator, "generator", None)
    return UnrollResult(**row_by_row(one, sample_seeds, spec.mem.device, generator))


def _shown(
    neuron: "IPVAENeuron", out: UnrollResult, fields: tuple[str, ...], every: int
) -> UnrollResult:
    """Show all timesteps to the neuron's observers, and return those that were asked for."""
    assert out.spk is not None
    assert out.mem is not None
    neuron.observed(State(out.spk, out.mem))
    spk, mem = (
        part[every - 1 :: every] if name in fields else None
        for name, part in (("spk", out.spk), ("mem", out.mem))
    )
    return replace(out, spk=spk, mem=mem)


def draws_by_row(neuron: "IPVAENeuron") -> bool:
    """Whether ``sample_seeds`` cost no time: compiled kernels draw, and know rows by number."""
    known = assumptions_of(neuron)
    return known is not None and known.law != "own" and native.fits(neuron.mem_init)


class _NeuronTimestep(Timestep):
    """The neuron's own ``integrate`` and ``emit``, for callables of users and for transforms."""

    def __init__(self, neuron: "IPVAENeuron", spec: UnrollSpec) -> None:
        self.neuron, self.spec = neuron, spec

    def send(self, spk: Tensor, t: int) -> Tensor:
        return spk @ self.spec.gram

    def integrate(self, now: Moment, t: int) -> Tensor:
        return self.neuron.integrate(self.spec.drive_at(t), now.sent, now.mem)

    def emit(self, mem: Tensor) -> Tensor:
        return self.neuron.emit(mem)

    def measure(self, name: str, now: Moment, t: int) -> Tensor:
        if name == "quad":
            return equations.spike_energy(now.spk, now.sent, self.spec.drive_at(t))
        return equations.poisson_kl_sum(now.mem, now.before, self.spec.kl_form)


def _loop(neuron: "IPVAENeuron", spec: UnrollSpec) -> UnrollResult:
    step, state = _NeuronTimestep(neuron, spec), State(spec.spk, spec.mem)
    values, last = record(step, state, spec.steps, spec.fields, spec.every)
    fields: dict[str, Any] = {name: values.get(name) for name in ("spk", "mem", "quad", "kl")}
    return UnrollResult(**fields, last_spk=last.spk, last_mem=last.mem)
