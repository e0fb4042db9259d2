"""The unroll in PyTorch operations: any dtype, any device, any exact estimator."""

import math

import torch
from torch import Tensor

from ipvae_snn import functional as F
from ipvae_snn.kernels.adjoint import Adjoint
from ipvae_snn.kernels.job import Job, Outcome, narrow


def forward(job: Job) -> Outcome:
    """All timesteps; memory grows with T only by what is returned or kept."""
    stacks = {name: job.stack(name) for name in ("spk", "mem", "quad", "kl")}
    tape = None
    if job.keep:
        shape = (job.steps, *job.mem.shape)
        tape = job.empty(*shape), job.empty(*shape, dtype=job.count_dtype())
    spk, mem = job.spk, job.mem
    inhibition = spk @ job.gram
    for t in range(job.steps):
        drive, prior = job.drive_at(t), mem
        mem = F.membrane_step(
            mem,
            drive,
            inhibition if job.scale == 1 else job.scale * inhibition,
            step=job.step,
            bias=job.bias,
            leak=job.leak,
            mem_rest=job.rest,
            clamp=job.clamp,
        )
        spk = job.estimator.sample(mem)
        inhibition = spk @ job.gram
        if tape is not None:
            tape[0][t], tape[1][t] = mem, narrow(spk, tape[1].dtype)
        if stacks["quad"] is not None:
            stacks["quad"][t] = F.gaussian_nll_gram(spk, inhibition, drive, drive.new_zeros(()), 0)
        if stacks["kl"] is not None:
            stacks["kl"][t] = F.poisson_kl(mem, prior, job.kl_form).sum(-1)
        if (t + 1) % job.every == 0:
            for name, value in (("spk", spk), ("mem", mem)):
                stack = stacks[name]
                if stack is not None:
                    stack[t // job.every] = value
    return Outcome(**stacks, last_spk=spk, last_mem=mem, tape=tape)


class PlainAdjoint(Adjoint):
    """The adjoint of a timestep from the membranes and counts of the tape alone.

    With r = 1/λ and ε = e^−c the clamped step is r' = ε + min(r (ε + min(e^−h, e⁸)), e⁸), whose
    derivatives are du'/du = 1 − ελ' and du'/dh = 1 − ελ'(1 + 1/λ), 0 where a floor was taken.
    """

    def _step(self, t: int, slope: Tensor | None) -> None:
        job, mem, drive = self.job, self.mems[t], self.job.drive_at(t)
        before = self.mems[t - 1] if t else job.mem
        spk = self.counts[t].to(mem.dtype)
        rate, rate_before, x = mem.exp(), before.exp(), mem - before
        quad, kl = self.quad_grad[t, :, None], self.kl_grad[t, :, None]
        if job.kl_form == "published":
            grown = x.exp()
            to_mem, to_before = rate * (1 + grown * (2 * x - 1)), -rate * grown * x
        else:
            to_mem, to_before = rate * x, rate_before - rate
        to_spk = self.product - quad * drive
        if self.spk_grad is not None:
            to_spk = to_spk + self.spk_grad
        grad = self.carry + kl * to_mem
        if slope is not None:
            grad = grad + slope * to_spk
        epsilon, floor = math.exp(-job.clamp), self._floor()
        above = 1 / rate - epsilon
        grad = grad * (above < floor)
        inside = above * rate_before - epsilon < floor
        to_current = grad * inside * (1 - epsilon * rate * (1 + 1 / rate_before))
        self.carry = grad * (1 - epsilon * rate) + kl * to_before
        pushed = -job.step * job.scale * to_current
        if job.leak:
            self.carry = self.carry - job.step * job.leak * to_current
        if t:
            earlier = self.quad_grad[t - 1, :, None] * self.counts[t - 1]
            self.push, self.half[self._slot(t - 1)] = pushed + earlier, pushed + earlier / 2
        else:
            self.push = self.half[self._slot(t - 1)] = pushed
        current = drive - job.bias
        if job.leak:
            current = current - job.leak * (before - job.rest)
        self._drive_grad(t).add_(job.step * to_current - quad * spk)
        self.bias_sum += to_current.sum(0)
        self.pull += (to_current * current).sum(dtype=torch.float64)
        self.pull -= (quad * spk * drive).sum(dtype=torch.float64) / job.step

    def _floor(self) -> float:
        """e⁸, less what rounding leaves of it in a stored membrane."""
        return math.exp(-F.MEM_FLOOR) * (1 - 64 * torch.finfo(self.mems.dtype).eps)

    def _add_gram(self, first: int, last: int) -> None:
        spk = self.counts[first:last].to(self.half.dtype).flatten(0, 1)
        self.gram_grad.addmm_(spk.mT, self.half[: last - first].flatten(0, 1))
