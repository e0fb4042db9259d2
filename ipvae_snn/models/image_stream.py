"""A film, frame by frame, at the cost of its spikes where these are few."""

from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import (
    require_finite,
    require_fitting,
    require_float,
    require_integer,
    require_values,
)
from ipvae_snn._utils.seeding import make_generator
from ipvae_snn.kernels.convolution import INPUTS, to_cells
from ipvae_snn.kernels.map_stepper import MapStepper
from ipvae_snn.models.convolutional import ConvIPVAE
from ipvae_snn.models.image_code import require_image_model
from ipvae_snn.neurons.base import State
from ipvae_snn.neurons.lateral import remake_weights
from ipvae_snn.surrogate import Estimator


class ImageStream:
    """Feed a convolutional model frame by frame; the state stays inside, without end.

    While a frame stays, a timestep in which few neurons spiked adds up what these take from their
    neighbours, and costs in proportion; one in which many did costs two convolutions. Compiled
    kernels are needed for the first. Nothing is recorded and no gradient is kept. The weights are
    those at the time the stream was made.

    Args:
        model: fed with frames (C, H, W), as ``model.run`` takes them: whitened, where it has a
            whitening.
        size: (H, W) of all frames.
        seed: of the spikes; ``None`` to draw from torch's global generator.

    Raises:
        TypeError: another model, or an estimator from outside this package.

    >>> model = ConvIPVAE(channels=1, latents=8, kernel_size=6, stride=2)
    >>> stream = ImageStream(model, size=(20, 31), seed=0)
    >>> for frame in torch.rand(5, 1, 20, 31):
    ...     spk, mem = stream.push(frame)
    >>> spk, mem = stream.push(num_steps=10)  # the last frame stays on
    >>> spk.shape, stream.timestep
    (torch.Size([8, 12, 18]), 15)
    """

    def __init__(self, model: ConvIPVAE, size: tuple[int, int], *, seed: int | None = None) -> None:
        model = require_image_model(model)
        height, width = (require_integer(side, "size") for side in size)
        self.shape = (model.channels, height, width)
        estimator: Any = copy(model.neuron.spike_grad)
        if not isinstance(estimator, Estimator):
            raise TypeError(
                f"a stream needs an estimator of ipvae_snn.surrogate, got {estimator!r}: call "
                "model.run(frame, 1, state=...) instead"
            )
        if seed is not None:
            estimator.generator = make_generator(seed, model.like.device)
        require_values(model.like)
        remake_weights(model.decoder)
        self.timestep = 0
        """Timesteps so far."""
        with torch.no_grad():
            start = model.neuron.initial_state((1, *model.code_shape((height, width))))
            spec = model.spec_of(torch.zeros(1, *self.shape).to(model.like), start)
            tensors: dict[str, Any] = {
                name: getattr(spec, name).detach().clone(memory_format=torch.contiguous_format)
                for name in INPUTS
            }
            self._stepper = MapStepper(replace(spec, **tensors, estimator=estimator))
            self._start = State(tensors["spk"], tensors["mem"])
            self._stride = (model.stride[0], model.stride[1])
            self._inverse_scale = model.cells_of(torch.ones(1, *self.shape).to(model.like))

    def push(self, frame: Tensor | None = None, num_steps: int = 1) -> State:
        """Show a frame, or None to leave the last one on, for a number of timesteps.

        Returns:
            ``(spk, mem)`` after the last of them, (K, h, w) each, copies.

        Raises:
            TypeError, ValueError: not a finite floating-point tensor of the right shape; the
                stream then stays as it was.
        """
        num_steps = require_integer(num_steps, "num_steps")
        with torch.no_grad():
            if frame is not None:
                self._stepper.show(self._cells(frame))
            for _ in range(num_steps):
                self._stepper.advance()
        self.timestep += num_steps
        return self.state

    @property
    def state(self) -> State:
        """``(spk, mem)`` now, (K, h, w) each, copies."""
        spk, mem, _ = self._stepper.state
        return State(*(part[0].movedim(-1, 0).contiguous() for part in (spk, mem)))

    def reset(self) -> None:
        """Back to the initial state; the frame goes too."""
        for part, start in zip(self._stepper.state, self._start, strict=False):
            assert part is not None
            part.copy_(start)
        self._stepper.show(torch.zeros_like(self._stepper.x))
        self.timestep = 0

    def _cells(self, frame: Tensor) -> Tensor:
        require_float(frame, "a frame")
        if frame.shape != self.shape:
            raise ValueError(f"a frame must have shape {self.shape}, got {tuple(frame.shape)}")
        require_fitting(frame, "a frame", like=self._start.mem)
        require_finite(frame, "a frame")
        plain = to_cells(frame[None].to(self._start.mem.dtype), self._stride)
        return plain * self._inverse_scale
