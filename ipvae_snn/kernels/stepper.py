"""One sample, a timestep at a time: a timestep costs what its spikes cost."""

from ctypes import byref

import torch
from torch import Tensor

from ipvae_snn.kernels import native
from ipvae_snn.kernels.loop import State, timesteps
from ipvae_snn.kernels.plain import PlainTimestep
from ipvae_snn.kernels.spec import UnrollSpec


class PlainStepper:
    """Timesteps of one sample in PyTorch operations.

    Args:
        spec: with drive, spk and mem of shape (1, K), updated in place by :meth:`advance`.
    """

    def __init__(self, spec: UnrollSpec) -> None:
        self.spec = spec
        self.restart()

    def restart(self) -> None:
        """Go on from the state in the spec, which was changed from outside."""
        start = State(self.spec.spk.clone(), self.spec.mem.clone())
        self.moments = timesteps(PlainTimestep(self.spec, self._sum_rows), start)

    def advance(self) -> None:
        """One timestep."""
        now = next(self.moments)
        self.spec.mem.copy_(now.mem)
        self.spec.spk.copy_(now.spk)

    def _sum_rows(self, spk: Tensor) -> Tensor:
        """zG from the rows of G of the neurons that spiked."""
        active = spk[0].nonzero()[:, 0]
        return spk[:, active] @ self.spec.gram[active]


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
        self.restart()

    def restart(self) -> None:
        """Go on from the state in the spec, which was changed from outside."""
        native.sum_inhibition(self.spec.spk, self.gram, self.inhibition)

    def advance(self) -> None:
        """One timestep."""
        keys = native.keys(1, self.spec.estimator.generator)
        self.arguments.keys = native.at(keys)
        self.kernels.ipvae_forward(byref(self.dynamics), byref(self.arguments))


def make_stepper(spec: UnrollSpec) -> PlainStepper | NativeStepper:
    """The fastest that fits the spec."""
    return NativeStepper(spec) if native.suits(spec) else PlainStepper(spec)
