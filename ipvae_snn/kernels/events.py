"""One stimulus at a time: a timestep that costs what its spikes cost."""

from ctypes import byref

import torch
from torch import Tensor

from ipvae_snn import functional as F
from ipvae_snn.kernels import native
from ipvae_snn.kernels.job import Job


class PlainStepper:
    """Timesteps of one sample in PyTorch operations.

    Args:
        job: with drive, spk and mem of shape (1, K), updated in place by :meth:`advance`.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.settle()

    def settle(self) -> None:
        """Take the state in the job as the present one."""
        self.inhibition = self._sum_events()

    def advance(self) -> None:
        """One timestep."""
        job = self.job
        mem = F.membrane_step(
            job.mem,
            job.drive,
            job.scale * self.inhibition,
            step=job.step,
            bias=job.bias,
            leak=job.leak,
            mem_rest=job.rest,
            clamp=job.clamp,
        )
        job.mem.copy_(mem)
        job.spk.copy_(job.draw(mem))
        self.inhibition = self._sum_events()

    def _sum_events(self) -> Tensor:
        """zG from the rows of G of the neurons that spiked."""
        active = self.job.spk[0].nonzero()[:, 0]
        return self.job.spk[:, active] @ self.job.gram[active]


class NativeStepper:
    """The same in compiled code: float32 on the CPU."""

    def __init__(self, job: Job) -> None:
        self.job, self.gram = job, native.padded(job.gram)
        latents, stride = job.mem.shape[1], self.gram.shape[1]
        self.inhibition = torch.empty_like(job.mem)
        self.work = job.empty(native.TEAM, stride + latents)
        self.dynamics, self.kernels = native.dynamics_of(job), native.kernels()
        self.arguments = native.Forward(
            steps=1, rows=1, latents=latents, stride=stride, drive=native.at(job.drive),
            gram=native.at(self.gram), spk=native.at(job.spk), mem=native.at(job.mem),
            inhibition=native.at(self.inhibition), work=native.at(self.work), threads=1,
        )  # fmt: skip
        self.settle()

    def settle(self) -> None:
        """Take the state in the job as the present one."""
        native.sum_inhibition(self.job.spk, self.gram, self.inhibition)

    def advance(self) -> None:
        """One timestep."""
        keys = native.keys(1, self.job.estimator.generator)
        self.arguments.keys = native.at(keys)
        self.kernels.ipvae_forward(byref(self.dynamics), byref(self.arguments))


def make_stepper(job: Job) -> PlainStepper | NativeStepper:
    """The fastest that fits the job."""
    return NativeStepper(job) if native.suits(job) else PlainStepper(job)
