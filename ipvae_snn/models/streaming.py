"""Inference without end, one stimulus at a time, at the cost of the spikes that occur."""

from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ipvae_snn import functional as F
from ipvae_snn._utils.checks import (
    require_finite,
    require_fitting,
    require_float,
    require_integer,
    require_values,
)
from ipvae_snn._utils.seeding import make_generator
from ipvae_snn.kernels.spec import INPUTS
from ipvae_snn.kernels.stepper import make_stepper
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.neurons.base import State
from ipvae_snn.neurons.inference import spec_of
from ipvae_snn.neurons.lateral import SharedDecoder, remake_weights
from ipvae_snn.neurons.poisson import IPVAENeuron
from ipvae_snn.surrogate import Assumptions, Estimator


class Stream:
    """Feed a model frame by frame; each timestep adds up only the rows of G that spiked.

    A timestep costs K element-wise updates and one row of G, K numbers, for every neuron that
    spiked, where a dense product costs K² whatever happens. The state stays inside and may be fed
    without end. Nothing is recorded and no gradient is kept. The weights are those at the time
    the stream was made.

    Args:
        model: :class:`~ipvae_snn.IPVAE`, fed with frames of shape (M,), or
            :class:`~ipvae_snn.IPVAENeuron`, fed with currents of shape (K,).
        seed: of the spikes; ``None`` to draw from torch's global generator.

    Raises:
        TypeError: ``model`` is neither, or has another decoder or likelihood than the linear
            Gaussian one.

    >>> stream = Stream(IPVAE(16, 32), seed=0)
    >>> for frame in torch.rand(5, 16):
    ...     spk, mem = stream.push(frame)
    >>> spk, mem = stream.push(num_steps=10)  # the last frame stays on
    >>> spk.shape, stream.timestep
    (torch.Size([32]), 15)
    """

    def __init__(self, model: IPVAE | IPVAENeuron, *, seed: int | None = None) -> None:
        if not isinstance(model, IPVAE | IPVAENeuron):
            raise TypeError(
                f"a stream needs an IPVAE or an IPVAENeuron, got {type(model).__name__}"
            )
        self.of_frames = isinstance(model, IPVAE)
        if isinstance(model, IPVAE) and model.decoded is not None:
            raise TypeError(
                "a stream needs a linear decoder under Gaussian pixels: "
                "call model.run(frame, 1, state=...) for other decoders and likelihoods"
            )
        self.neuron = model.neuron if isinstance(model, IPVAE) else model
        require_values(self.neuron.mem_init)
        remake_weights(self.neuron)
        self.timestep = 0
        """Timesteps so far."""
        estimator = copy(self.neuron.spike_grad)
        if not isinstance(estimator, Estimator) or self.neuron.state_quant:
            raise TypeError(
                "a stream needs an estimator of ipvae_snn.surrogate and no state_quant, got "
                f"{estimator!r}, {self.neuron.state_quant!r}: call the neuron step by step instead"
            )
        if seed is not None:
            device = self.neuron.mem_init.device
            estimator.generator = make_generator(seed, device)
        with torch.no_grad():
            state = self.neuron.initial_state((1, self.neuron.features))
            spec = spec_of(self.neuron, torch.zeros_like(state.mem), self.neuron.gram(), state)
            known = (estimator.assumptions(False) or Assumptions("own", "own"))._asdict()
            tensors: dict[str, Any] = {
                name: getattr(spec, name).detach().clone() for name in INPUTS
            }
            self._spec = replace(spec, **tensors, **known, estimator=estimator)
            lateral = self.neuron.lateral
            if self.of_frames and isinstance(lateral, SharedDecoder):
                self._weight = F.drive_weight(lateral.weight, lateral.bounded_log_scale())
        require_finite(self._spec.gram, "the lateral weights")
        self._stepper = make_stepper(self._spec)

    def push(self, input_: Tensor | None = None, num_steps: int = 1) -> State:
        """Show a frame, or None to leave the last one on, for a number of timesteps.

        Returns:
            ``(spk, mem)`` after the last of them, shape (K,) each, copies.

        Raises:
            TypeError, ValueError: not a finite floating-point tensor of the right shape; the
                stream then stays as it was.
        """
        num_steps = require_integer(num_steps, "num_steps")
        with torch.no_grad():
            if input_ is not None:
                self._show(input_)
            for _ in range(num_steps):
                self._stepper.advance()
        self.timestep += num_steps
        return self.state

    @property
    def state(self) -> State:
        """``(spk, mem)`` now, shape (K,) each, copies; assign to go on from another state."""
        return State(self._spec.spk[0].clone(), self._spec.mem[0].clone())

    @state.setter
    def state(self, state: State) -> None:
        for name, part in zip(("spk", "mem"), state, strict=True):
            self._check(part, f"state.{name}", self.neuron.features)
        for own, part in zip((self._spec.spk, self._spec.mem), state, strict=True):
            own.copy_(part.detach())
        self._stepper.restart()

    def reset(self) -> None:
        """Back to the initial state; the frame goes too."""
        spk, mem = self.neuron.initial_state((self.neuron.features,))
        self._spec.drive.zero_()
        self.state = State(spk, mem)
        self.timestep = 0

    def _show(self, input_: Tensor) -> None:
        if self.of_frames:
            self._check(input_, "a frame", len(self._weight))
            drive = input_.to(self._weight.dtype) @ self._weight
            require_finite(drive, "the drive, made of the frame and the weights,")
        else:
            self._check(input_, "a current", self.neuron.features)
            drive = input_
        self._spec.drive.copy_(drive)

    def _check(self, values: Tensor, name: str, length: int) -> None:
        require_float(values, name)
        if values.shape != (length,):
            raise ValueError(f"{name} must have shape ({length},), got {tuple(values.shape)}")
        require_fitting(values, name, like=self._spec.mem)
        require_finite(values, name)
