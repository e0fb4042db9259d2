"""One timestep of each NIR node in PyTorch: the Euler step of its equation.

Nodes keep time in timesteps: τ stands for τ / dt, and the r of I and IF, whose equation
dv/dt = r x has no τ, for r · dt.

Toolchains interpret a spiking neuron's reset in two ways: ``"zero"``, as NIR specifies (one spike
where v > θ, then v := v_reset), and ``"subtract"``, as in sinabs (⌊v / θ⌋ spikes where v ≥ θ, each
of which subtracts θ; the membrane of an IF stays at or above −θ).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SPIKING = ("IF", "LIF", "CubaLIF", "Threshold")

TIME_CONSTANTS = ("tau", "tau_mem", "tau_syn")
_ARRAYS = {*TIME_CONSTANTS} | {"bias", "r", "scale", "threshold", "w_in", "weight"}
_ARRAYS |= {"v_leak", "v_reset", "v_threshold"}
"""Fields of nodes that hold arrays."""


class NodeStep(nn.Module):
    """A node with its arrays as buffers."""

    bias: Tensor
    r: Tensor
    tau: Tensor
    tau_mem: Tensor
    tau_syn: Tensor
    v_leak: Tensor
    v_reset: Tensor
    v_threshold: Tensor
    w_in: Tensor
    weight: Tensor

    def __init__(self, node: Any, reset: str, dt: float) -> None:
        super().__init__()
        self.reset = reset
        for name in sorted(_ARRAYS & vars(node).keys()):
            self.register_buffer(name, _finite_array(node, name, dt))
        for name in TIME_CONSTANTS:
            if name in self._buffers and not (getattr(self, name) > 0).all():
                raise ValueError(f"{name} of a {type(node).__name__} node must be above 0")
        if reset == "subtract" and "v_threshold" in self._buffers and (self.v_threshold <= 0).any():
            raise ValueError("v_threshold must be above 0 where spikes subtract it")

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Output and next state, from input (B, ...) and state; ``None`` is the state at rest."""
        raise NotImplementedError

    def require_fitting(self, shape: tuple[int, ...]) -> None:
        """Raise ``ValueError`` unless the arrays fit inputs of ``shape``, without batch: one value
        for all, or one for each along every axis. PyTorch would stretch others along other axes.
        """
        for name, values in self.named_buffers():
            _require_stretched(name, tuple(values.shape), shape)

    def _fire(self, v: Tensor, floor: bool = False) -> tuple[Tensor, Tensor]:
        """Spikes, and the membrane after the reset."""
        threshold = self.v_threshold
        if self.reset == "zero":
            spk = (v > threshold).to(v)
            return spk, torch.where(spk > 0, self.v_reset, v)
        spk = (v > 0) * torch.div(v, threshold, rounding_mode="trunc")
        v = v - spk * threshold
        return spk, torch.maximum(v, -threshold) if floor else v


def _finite_array(node: Any, name: str, dt: float) -> Tensor | None:
    """An array of a node as finite float32, with time in timesteps; ``None`` for the bias that a
    convolution lacks."""
    value, kind = getattr(node, name), type(node).__name__
    if value is None and name == "bias" and kind.startswith("Conv"):
        return None
    values = np.asarray(value)
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{name} of a {kind} node must hold numbers, got {values.dtype}")
    with np.errstate(over="ignore"):
        if name in TIME_CONSTANTS:
            values = values.astype(np.float64) / dt
        elif name == "r" and kind in ("I", "IF"):
            values = values.astype(np.float64) * dt
        values = np.array(values, np.float32)  # a copy: the network and the graph share nothing
    if not np.isfinite(values).all():
        without_leak = name in ("r", *TIME_CONSTANTS) and np.isinf(values).any()
        raise ValueError(
            f"{name} of a {kind} node holds values that are not finite in float32"
            + (": a neuron without leak is an I or IF" if without_leak else "")
        )
    return torch.from_numpy(values)


class Stateless(NodeStep):
    """A node without a state."""

    def __init__(self, node: Any, reset: str, dt: float) -> None:
        super().__init__(node, reset, dt)
        self.node = node

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, None]:
        return _STATELESS[type(self.node).__name__](self, x), None

    def require_fitting(self, shape: tuple[int, ...]) -> None:
        kind = type(self.node).__name__
        weight = tuple(self.weight.shape) if "weight" in self._buffers else ()
        if kind in ("Affine", "Linear"):
            expected = (*weight[:-2], *weight[-1:])
            if shape != expected:
                raise ValueError(f"its weight, of shape {weight}, takes {expected} for each sample")
            if kind == "Affine":
                _require_stretched("bias", tuple(self.bias.shape), weight[:-1])
        elif kind.startswith("Conv"):
            if len(shape) != len(weight) - 1:
                raise ValueError(f"expected samples, channels and {len(weight) - 2} more axes")
        elif kind == "Flatten" and int(self.node.start_dim) < -len(shape):
            raise ValueError(f"start_dim {int(self.node.start_dim)} would flatten the batch, too")
        elif kind == "Output":
            declared = np.asarray(self.node.input_type["input"])
            if declared.ndim and shape != tuple(declared.tolist()):
                raise ValueError(f"it declares {tuple(declared.tolist())} for each sample")
        elif kind in ("Scale", "Threshold"):
            super().require_fitting(shape)


class I(NodeStep):  # noqa: E742  # the name of the NIR node
    """v' = v + r x."""

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        v = (0 if state is None else state) + self.r * x
        return v, v


class LI(NodeStep):
    """v' = v + (v_leak − v + r x) / τ."""

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        v = torch.zeros_like(x) if state is None else state
        v = v + (self.v_leak - v + self.r * x) / self.tau
        return v, v


class IF(NodeStep):
    """v' = v + r x, then spikes."""

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        v = torch.zeros_like(x) if state is None else state
        return self._fire(v + self.r * x, floor=True)


class LIF(NodeStep):
    """v' = v + (v_leak − v + r x) / τ, then spikes."""

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        v = torch.zeros_like(x) if state is None else state
        return self._fire(v + (self.v_leak - v + self.r * x) / self.tau)


class CubaLI(NodeStep):
    """i' = i + (w_in x − i) / τ_syn, v' = v + (v_leak − v + r i') / τ_mem."""

    def _integrate(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        i, v = (torch.zeros_like(x),) * 2 if state is None else state.unbind()
        i = i + (self.w_in * x - i) / self.tau_syn
        return i, v + (self.v_leak - v + self.r * i) / self.tau_mem

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        i, v = self._integrate(x, state)
        return v, torch.stack((i, v))


class CubaLIF(CubaLI):
    """CubaLI, then spikes."""

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        i, v = self._integrate(x, state)
        spk, v = self._fire(v)
        return spk, torch.stack((i, v))


def _convolve(self: Any, x: Tensor) -> Tensor:
    node = self.node
    convolve = torch.conv1d if self.weight.ndim == 3 else torch.conv2d
    stride, padding, dilation = map(_sizes, (node.stride, node.padding, node.dilation))
    return convolve(x, self.weight, self.bias, stride, padding, dilation, int(node.groups))


def _pool(self: Any, x: Tensor) -> Tensor:
    node = self.node
    size, stride, padding = map(_sizes, (node.kernel_size, node.stride, node.padding))
    mean = torch.nn.functional.avg_pool2d(x, size, stride, padding)
    return mean * float(np.prod(size)) if type(node).__name__ == "SumPool2d" else mean


def _flatten(self: Any, x: Tensor) -> Tensor:
    start, end = int(self.node.start_dim), int(self.node.end_dim)
    return x.flatten(start + 1 if start >= 0 else start, end + 1 if end >= 0 else end)


def _require_stretched(name: str, values: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise unless values broadcast to ``shape`` axis by axis, but for a batch of one."""
    if len(values) == len(shape) + 1 and values[0] == 1:
        values = values[1:]
    same = len(values) == len(shape)
    each = same and all(n in (1, m) for n, m in zip(values, shape, strict=True))
    if not each and (math.prod(values) != 1 or len(values) > len(shape)):
        raise ValueError(f"{name} has shape {values}: expected one value, or one for each input")


def _linear(self: Any, x: Tensor) -> Tensor:
    weight: Tensor = self.weight
    if weight.ndim == 2:
        return x @ weight.mT
    return (weight @ x.unsqueeze(-1)).squeeze(-1)  # a matrix for each of the leading axes


def _sizes(value: Any) -> Any:
    """Strides and paddings as PyTorch takes them; files give arrays, numbers, text or bytes."""
    if isinstance(value, (str, bytes)):
        return value.decode() if isinstance(value, bytes) else value
    values = np.asarray(value).reshape(-1).tolist()
    values = [int(n) if isinstance(n, float) and n.is_integer() else n for n in values]
    return values[0] if len(values) == 1 else tuple(values)


_STATELESS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "Input": lambda self, x: x,
    "Output": lambda self, x: x,
    "Affine": lambda self, x: _linear(self, x) + self.bias,
    "Linear": _linear,
    "Scale": lambda self, x: x * self.scale,
    "Threshold": lambda self, x: (x > self.threshold).to(x),
    "Conv1d": _convolve,
    "Conv2d": _convolve,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": _flatten,
}
_STATEFUL = {cls.__name__: cls for cls in (I, LI, IF, LIF, CubaLI, CubaLIF)}
RUNNABLE = (*_STATELESS, *_STATEFUL)


def node_step(node: Any, reset: str, dt: float = 1.0) -> NodeStep:
    """The timestep of a NIR node; ``dt`` is its length in the unit of the time constants.

    Raises:
        ValueError: a type of node that is not in :data:`RUNNABLE`, or arrays that are not finite.
    """
    kind = type(node).__name__
    if kind in _STATEFUL:
        return _STATEFUL[kind](node, reset, dt)
    if kind in _STATELESS:
        return Stateless(node, reset, dt)
    raise ValueError(f"node of type {kind} cannot be run here: expected one of {RUNNABLE}")
