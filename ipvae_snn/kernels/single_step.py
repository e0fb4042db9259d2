"""One stimulus at a time: a timestep that costs what its spikes cost."""

from ctypes import byref

import torch
from torch import Tensor

from ipvae_snn import functional as F
from ipvae_snn.kernels import native
from ipvae_snn.kernels.spec import UnrollSpec


class PlainStepper:
    """Timesteps of one sample in PyTorch operations.

    Args:
        spec: with drive, spk and mem of shape (1, K), updated in place by :meth:`advance`.
    """

    def __init__(self, spec: UnrollSpec) -> None:
        self.spec = spec
        self.settle()

    def settle(self) -> None:
        """Take the state in the spec as the present one."""
        self.inhibition = self._sum_events()

    def advance(self) -> None:
        """One timestep."""
        spec = self.spec
        mem = F.membrane_step(
            spec.mem,
            spec.drive,
            spec.scale * self.inhibition,
            step=spec.step,
            bias=spec.bias,
            leak=spec.leak,
            mem_rest=spec.rest,
            clamp=spec.clamp,
        )
        spec.mem.copy_(mem)
        spec.spk.copy_(spec.draw(mem))
        self.inhibition = self._sum_events()

    def _sum_events(self) -> Tensor:
        """zG from the rows of G of the neurons that spiked."""
        active = self.spec.spk[0].nonzero()[:, 0]
        return self.spec.spk[:, active] @ self.spec.gram[active]


class NativeStepper:
    """The same in compiled code: float32 on the CPU."""

    def __init__(self, spec: UnrollSpec) -> None:
        self.spec, self.gram = spec, native.padded(spec.gram)
        latents, stride = spec.mem.shape[1], self.gram.shape[1]
        self.inhibition = torch.empty_like(spec.mem)
        self.work = spec.empty(native.TEAM, stride + latents)
        self.dynamics, self.kernels = native.dynamics_of(spec), native.kernels()
        self.arguments = native.Forward(
            steps=1, rows=1, latents=latents, stride=stride, drive=native.at(spec.drive),
            gram=native.at(self.gram), spk=native.at(spec.spk), mem=native.at(spec.mem),
            inhibition=native.at(self.inhibition), work=native.at(self.work), threads=1,
        )  # fmt: skip
        self.settle()

    def settle(self) -> None:
        """Take the state in the spec as the present one."""
        native.sum_inhibition(self.spec.spk, self.gram, self.inhibition)

    def advance(self) -> None:
        """One timestep."""
        keys = native.keys(1, self.spec.estimator.generator)
        self.arguments.keys = native.at(keys)
        self.kernels.ipvae_forward(byref(self.dynamics), byref(self.arguments))


def make_stepper(spec: UnrollSpec) -> PlainStepper | NativeStepper:
    """The fastest that fits the spec."""
    return NativeStepper(spec) if native.suits(spec) else PlainStepper(spec)
