"""One sample, timestep by timestep, at a cost in proportion to its spikes."""

from ctypes import byref

import torch
from torch import Tensor

from ipvae_snn._utils.seeding import source
from ipvae_snn.kernels import native
from ipvae_snn.kernels.loop import State, timesteps
from ipvae_snn.kernels.plain import PlainTimestep
from ipvae_snn.kernels.spec import UnrollSpec


class PlainStepper:
    """Timesteps of one sample in PyTorch.

    Args:
        spec: with drive, spk and mem of shape (1, K); :meth:`advance` updates spk and mem in place.
    """

    def __init__(self, spec: UnrollSpec) -> None:
        self.spec = spec
        self.restart()

    def restart(self) -> None:
        """Go on from the state in the spec, after the caller changed it."""
        start = State(self.spec.spk.clone(), self.spec.mem.clone())
        self.moments = timesteps(PlainTimestep(self.spec, self._sum_rows), start)

    @torch.no_grad()
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
    """The same in compiled C: float32 on the CPU."""

    def __init__(self, spec: UnrollSpec) -> None:
        self.spec, self.gram = spec, native.padded(spec.gram)
        latents, stride = spec.mem.shape[1], self.gram.shape[1]
        self.inhibition = torch.empty_like(spec.mem)
        self.work = spec.empty(native.TEAM, stride + latents)
        self.dynamics, self.library = native.dynamics_of(spec), native.library()
        self.arguments = native.Forward(
            steps=1,
            rows=1,
            latents=latents,
            stride=stride,
            drive=native.pointer(spec.drive),
            gram=native.pointer(self.gram),
            spk=native.pointer(spec.spk),
            mem=native.pointer(spec.mem),
            inhibition=native.pointer(self.inhibition),
            work=native.pointer(self.work),
            threads=1,
        )
        self.restart()

    def restart(self) -> None:
        """Go on from the state in the spec, after the caller changed it."""
        native.sum_rows(self.spec.spk, self.gram, self.inhibition)

    def advance(self) -> None:
        """One timestep."""
        keys = native.draw_keys(1, source(self.spec.estimator.generator, "cpu"))
        self.arguments.keys = native.pointer(keys)
        self.library.ipvae_forward(byref(self.dynamics), byref(self.arguments))


def make_stepper(spec: UnrollSpec) -> PlainStepper | NativeStepper:
    """The fastest stepper that supports the spec."""
    return NativeStepper(spec) if native.supports(spec) else PlainStepper(spec)
