"""Validation of arguments: each error says what was expected, what was given, and what to do."""

import cmath
import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


class NotFinite(ValueError):
    """NaN or infinity where there must be none."""


def require_instance(value: Any, name: str, kind: type = object) -> None:
    """Raise ``TypeError`` unless ``value`` is an instance of ``kind``, and no class."""
    if isinstance(value, type):
        raise TypeError(f"{name} {value.__name__} is a class: did you forget the parentheses?")
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")


def require_float(tensor: Any, name: str) -> None:
    """Raise ``TypeError`` unless ``tensor`` is a floating-point torch tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(tensor).__name__}: "
            "convert arrays with torch.as_tensor(..., dtype=torch.float32)"
        )
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} must be floating point, got {tensor.dtype}: convert it with {name}.float() "
            "(and bring images to [0, 1])"
        )
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "a nested one" if tensor.is_nested else tensor.layout
        raise TypeError(
            f"{name} must be a dense tensor, got {kind}: "
            f"convert it with {name}.to_dense() or to_padded_tensor(0)"
        )
    if tensor.dtype.itemsize < 2:
        raise TypeError(f"{name} is {tensor.dtype}, in which nothing is computed: use bfloat16")


def require_finite(tensor: Tensor, name: str, advice: str = "remove them first") -> None:
    """Raise :class:`NotFinite`, with ``advice``, if ``tensor`` holds NaN or infinity.

    Checks nothing inside ``torch.compile``, ``torch.export`` and ``torch.func`` transforms, where
    values are unknown.
    """
    if not _holds(lambda values: not describe_nonfinite(values, name), tensor):
        raise NotFinite(f"{describe_nonfinite(tensor, name)}: {advice}")


def describe_nonfinite(tensor: Tensor, name: str) -> str:
    """How many values of ``tensor`` are NaN or infinite, in words; empty if none is."""
    tensor = tensor.detach()  # isfinite would save tensors for a backward pass
    if cmath.isfinite(tensor.sum().item()):  # faster than torch's; weights may be complex
        return ""
    bad = tensor.numel() - int(torch.isfinite(tensor).sum())  # 0 if only the sum overflowed
    return f"{name} holds {bad} NaN or infinite value(s) of {tensor.numel()}" if bad else ""


def require_all_finite(**tensors: Tensor) -> None:
    """:func:`require_finite` for several small tensors; usually with one host synchronisation."""
    total = sum(tensor.detach().sum() for tensor in tensors.values())
    if not (isinstance(total, Tensor) and _holds(lambda sum_: math.isfinite(sum_.item()), total)):
        for name, tensor in tensors.items():
            require_finite(tensor, name)


def require_all_within(tensor: Tensor, name: str, most: float) -> None:
    """Raise ``ValueError`` unless all values of ``tensor`` are finite and within ± ``most``."""
    require_finite(tensor, name)
    if not tensor.is_meta and not _holds(lambda values: (values.abs() <= most).all(), tensor):
        raise ValueError(f"{name} must be from {-most:g} to {most:g}")


def require_not_negative(tensor: Tensor, message: str) -> None:
    """Raise ``ValueError`` with ``message`` if a value of ``tensor`` is below 0."""
    if not _holds(lambda values: (values >= 0).all(), tensor):
        raise ValueError(message)


def _holds(condition: Callable[[Tensor], Any], tensor: Tensor) -> bool:
    """``condition(tensor)``; True where values are unknown."""
    if torch.compiler.is_compiling():
        return True
    try:
        return bool(condition(tensor))
    except RuntimeError:  # a torch.func transform refuses control flow that depends on data
        return True


def require_values(weight: Tensor) -> None:
    """Raise unless ``weight`` holds values: on the meta device there are none."""
    if weight.is_meta:
        raise ValueError(
            "the weights are on the meta device, which holds no values: move the model with "
            '.to_empty(device="cpu") and load weights into it'
        )


def require_fitting(tensor: Tensor, name: str, like: Tensor) -> None:
    """Raise unless ``tensor`` is on the device of ``like``, and its dtype casts to that safely."""
    require_values(like)
    if not like.is_floating_point():
        raise TypeError(
            f"the weights are {like.dtype}, in which nothing is computed: "
            "move the model with .to(torch.float32)"
        )
    if tensor.device != like.device:
        raise ValueError(
            f"{name} is on {tensor.device}, the weights are on {like.device}: "
            f"move one of them with .to(device)"
        )
    if torch.promote_types(tensor.dtype, like.dtype) != like.dtype:
        raise TypeError(
            f"{name} is {tensor.dtype}, the weights are {like.dtype}: "
            f"convert one of them with .to(dtype)"
        )


def require_same_kind(name: str, tensor: Tensor, like: Tensor) -> None:
    """Raise unless ``tensor``, the parameter ``name``, has dtype and device of ``like``."""
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise TypeError(
            f"{name} is {tensor.dtype} on {tensor.device}, other weights are {like.dtype} on "
            f"{like.device}: move all of them, with model.to(...)"
        )


def require_input(x: Any, num_steps: Any, pixels: int, like: Tensor) -> int:
    """Validate the input of a run; returns its number of timesteps.

    Args:
        x: (B, M), the same at every timestep, or (T, B, M), one frame per timestep.
        num_steps: T; may be ``None`` if x has a time axis.
        pixels: M.
        like: the weights; x must fit their device and dtype.

    Raises:
        TypeError, ValueError: x has a wrong type, shape, device or dtype; or ``num_steps`` is
            missing, or not the T of x. NaN and infinity are for :func:`require_finite` to find.
    """
    require_float(x, "x")
    if x.ndim not in (2, 3) or x.shape[-1] != pixels or 0 in x.shape:
        raise ValueError(
            f"x must have shape (B, {pixels}), or (T, B, {pixels}) for changing input, and not be "
            f"empty; got {tuple(x.shape)}"
        )
    if num_steps is None and x.ndim == 2:
        raise ValueError("num_steps must be given for constant input x of shape (B, M)")
    steps = x.shape[0] if num_steps is None else require_integer(num_steps, "num_steps")
    if x.ndim == 3 and steps != x.shape[0]:
        raise ValueError(
            f"x changes over {x.shape[0]} timesteps but num_steps is {steps}: leave num_steps "
            "out, or give x the shape (B, M)"
        )
    require_fitting(x, "x", like=like)
    return int(steps)


def require_code(spk: Any, latents: int, like: Tensor) -> None:
    """Raise unless ``spk``, which is to be decoded, has shape (..., K) and fits ``like``."""
    require_float(spk, "spk")
    if spk.shape[-1:] != (latents,):
        raise ValueError(f"spk must have shape (..., {latents}), got {tuple(spk.shape)}")
    require_fitting(spk, "spk", like=like)


def require_integer(value: Any, name: str, least: int = 1) -> int:
    """Raise ``TypeError`` or ``ValueError`` unless ``value`` is an integer ≥ ``least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def require_number(
    value: Any, name: str, least: float = -math.inf, most: float = math.inf
) -> float:
    """Raise ``TypeError`` or ``ValueError`` unless ``value`` is a number in [least, most]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer or a fraction that exceeds the largest float
        number = math.inf
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError(f"{name} must be a finite number in [{least:g}, {most:g}], got {value}")
    return number


def require_flag(value: Any, name: str) -> bool:
    """Raise ``TypeError`` unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def require_choice(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    """Raise ``ValueError`` unless ``value`` is one of the words ``allowed``."""
    if not (isinstance(value, str) and value in allowed):
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    return value


def require_shape(tensor: Any, name: str, shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless ``tensor`` is a tensor of that shape."""
    found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
    if found != shape:
        raise ValueError(f"{name} must be a tensor of shape {shape}, got {found}")


def require_broadcastable(**tensors: Any) -> None:
    """Raise unless all are floating-point tensors whose shapes broadcast together."""
    for name, tensor in tensors.items():
        require_float(tensor, name)
    shapes = [tensor.shape for tensor in tensors.values()]
    if all(shape == shapes[0] for shape in shapes):  # the usual case, and quick to check
        return
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError as error:
        got = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(
            f"{', '.join(tensors)} must have shapes that broadcast together, got {got}"
        ) from error


def require_per_pixel(values: Any, log_scale: Any, name: str, axis: int) -> None:
    """Raise unless ``log_scale`` is ``None`` or has one number for each pixel of ``values``.

    Args:
        values: floating-point tensor with the pixels along ``axis``.
        log_scale: log σ, shape (M,).
        name: name of ``values``.
        axis: −1 for inputs (..., M), −2 for weights (M, K).
    """
    require_float(values, name)
    if values.ndim < -axis:
        expected = "(..., M)" if axis == -1 else "(M, K)"
        raise ValueError(f"{name} must have shape {expected}, got {tuple(values.shape)}")
    if log_scale is None:
        return
    require_float(log_scale, "log_scale")
    if log_scale.shape != values.shape[axis:][:1]:
        raise ValueError(
            f"log_scale must have shape ({values.shape[axis]},), one number per pixel of {name}, "
            f"got {tuple(log_scale.shape)}"
        )


def require_inputs_of(weight: Tensor, x: Any) -> None:
    """Raise unless ``x`` has shape (..., M) and the dtype of ``weight``, (M, K)."""
    require_float(x, "x")
    if x.shape[-1:] != weight.shape[-2:-1] or x.dtype != weight.dtype:
        raise ValueError(
            f"x must be {weight.dtype} of shape (..., {weight.shape[-2]}), as the weights are, got "
            f"{x.dtype} of shape {tuple(x.shape)}"
        )
    if weight.ndim > 2:
        try:
            torch.broadcast_shapes(x.shape[:-2], weight.shape[:-2])
        except RuntimeError:
            raise ValueError(
                f"x of shape {tuple(x.shape)} and weights of shape {tuple(weight.shape)} do not "
                "broadcast over their leading axes"
            ) from None


def per_neuron(
    value: Any, name: str, features: int, like: Tensor, least: float = -math.inf
) -> Tensor:
    """``value`` as one number for each neuron, shape (K,), with dtype and device of ``like``.

    Args:
        value: a number for all neurons, or shape (K,).
        name: name of ``value``.
        features: K.
        like: tensor that gives dtype and device.
        least: lower bound.

    Raises:
        TypeError: not numbers.
        ValueError: a wrong shape, NaN, infinity, or a value below ``least``.
    """
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        tensor = None
    if tensor is None or tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"{name} must be a number or a tensor of numbers, got {value!r}")
    if tensor.layout != torch.strided or (tensor.is_meta and not like.is_meta):
        raise TypeError(f"{name} must be a dense tensor that holds values, got {value!r}")
    values = tensor.detach().to(like)
    if values.shape not in ((), (features,)):
        raise ValueError(
            f"{name} must be a number or have shape ({features},), got {tuple(values.shape)}"
        )
    require_finite(values, name)
    rounded = least - 1e-7 * abs(least)  # a bound itself may have gone through float32
    if not values.is_meta and bool((values < rounded).any()):
        raise ValueError(f"{name} must be at least {least:g}, got {float(values.min()):g}")
    return values.expand(features).clone()


def require_image_shape(shape: Any, least: int = 1) -> tuple[int, int]:
    """Validate a shape (H, W) of integers ≥ ``least``; returns it as a tuple."""
    if not isinstance(shape, tuple | list | torch.Size) or len(shape) != 2:
        raise TypeError(f"shape must be a pair (H, W), got {shape!r}")
    height, width = (require_integer(side, "shape", least) for side in shape)
    return height, width


def require_seed(value: Any) -> int:
    """Raise ``TypeError`` or ``ValueError`` unless ``value`` can seed a generator."""
    seed = require_integer(value, "seed", least=0)
    if seed >= 2**63:
        raise ValueError(f"seed must be below 2**63, got {seed}")
    return seed


def require_device(name: str | torch.device) -> torch.device:
    """The torch device of that name; ``ValueError`` if this machine cannot use it."""
    try:
        probe = torch.zeros(1, device=name)
        probe.item()  # fails on devices without memory, such as "meta"
        return probe.device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(name)!r} cannot be used here: {reason}") from error
