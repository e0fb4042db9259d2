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
    require_flag,
    require_float,
    require_integer,
    require_number,
    require_values,
)
from ipvae_snn._utils.seeding import make_generator
from ipvae_snn.kernels.spec import INPUTS
from ipvae_snn.kernels.stepper import make_stepper
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.models.local_rule import LocalRule, local_loss
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
    the stream was made, unless it is told to learn.

    Args:
        model: :class:`~ipvae_snn.IPVAE`, fed with frames of shape (M,), or
            :class:`~ipvae_snn.IPVAENeuron`, fed with currents of shape (K,).
        seed: of the spikes; ``None`` to draw from torch's global generator.
        learn: whether the model, an IPVAE, learns from what it is shown, by
            :mod:`ipvae_snn.models.local_rule`: its weights move after every 25 pushes, by the
            rates at their ends. Nothing more is kept, however long the stream.
        lr: learning rate of Φ; it may be set later.
        target_rate: spikes per neuron and timestep that a learned b brings about; 0: b stays.

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

    def __init__(
        self,
        model: IPVAE | IPVAENeuron,
        *,
        seed: int | None = None,
        learn: bool = False,
        lr: float = 0.02,
        target_rate: float = 0.0,
    ) -> None:
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
        self.lr = require_number(lr, "lr", least=0, most=1)
        self.target_rate = require_number(target_rate, "target_rate", least=0)
        self._learned: _Learned | None = None
        if require_flag(learn, "learn"):
            if not isinstance(model, IPVAE):
                raise TypeError("learn=True needs an IPVAE: a neuron alone has no input to explain")
            self._learned = _Learned(model)
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
        self._estimator = estimator
        self._take_weights(self.neuron.initial_state((1, self.neuron.features)))

    def _take_weights(self, state: State) -> None:
        """Go on from a state (1, K) with the weights of the model as they are now."""
        estimator = self._estimator
        remake_weights(self.neuron)
        with torch.no_grad():
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
        self._now = State(self._spec.spk[0], self._spec.mem[0])
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
        if input_ is not None:
            self._show(input_)
        for _ in range(num_steps):
            self._stepper.advance()
        self.timestep += num_steps
        state = self.state
        if self._learned is not None:
            self._learn(self._learned, input_, state)
        return state

    def _learn(self, learned: "_Learned", frame: Tensor | None, state: State) -> None:
        """Note what inference made of the frame; with enough of that, learn."""
        learned.note(frame, state.mem)
        if learned.complete:
            learned.step(self.lr, self.target_rate)
            self._take_weights(State(*(part.unsqueeze(0) for part in state)))
            self._spec.drive.copy_(learned.frame @ self._weight)

    @property
    def state(self) -> State:
        """``(spk, mem)`` now, shape (K,) each, copies; assign to go on from another state."""
        return State(self._now.spk.clone(), self._now.mem.clone())

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
        if self._learned is not None:
            self._learned.frame = None
        self.state = State(spk, mem)
        self.timestep = 0

    @torch.no_grad()
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


class _Learned:
    """What a stream has seen since its weights moved last, and the rule that moves them."""

    TOGETHER = 25

    def __init__(self, model: IPVAE) -> None:
        self.model = model
        self.rule = LocalRule(model, (model.in_features,), 0.0)
        self.frame: Any = None
        self.frames: list[Tensor] = []
        self.rates: list[Tensor] = []

    def note(self, frame: Tensor | None, mem: Tensor) -> None:
        """A frame, None for the last one again, and the membranes (K,) that it led to."""
        if frame is not None:
            self.frame = frame.detach().to(mem.dtype).clone()
        if self.frame is not None:
            self.frames.append(self.frame)
            self.rates.append(mem.exp())

    @property
    def complete(self) -> bool:
        return len(self.frames) == self.TOGETHER

    def step(self, lr: float, target_rate: float) -> None:
        """Learn from the frames, and forget all but the last."""
        x, rate, model = torch.stack(self.frames), torch.stack(self.rates), self.model
        self.frames, self.rates = [], []
        training = model.training
        model.train()  # in which a reconstruction has a graph
        try:
            with torch.enable_grad():
                ones = x.new_ones(1, x.shape[1])
                loss = local_loss(model, x, rate[None], ones, self.rule.moment, target_rate)
                self.rule.zero_grad()
                loss.backward()
        finally:
            model.train(training)
        for group in self.rule.param_groups:
            group["lr"] = lr
        self.rule.step()
        self.rule.zero_grad()
