"""Shared by the property tests: strategies for awkward inputs, and the check of refusals."""

import json
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from ipvae_snn.neurons.base import StatefulNeuron

HUGE = 10**400
"""An integer beyond float64."""
REFUSED = object()
"""What :func:`attempt` returns for a call that was refused."""

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DTYPES = (*FLOATS, torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64)
EXTREME = (
    0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -7.5, 16.0, 100.0, 1e4, -1e4, 1e-38, 1e-45, -1e-45, 1e38, -1e38,
    3.4e38, 1e300, math.inf, -math.inf, math.nan,
)  # fmt: skip
NOT_TENSORS = (None, 1.0, 3, "x", [1.0, 2.0], np.zeros(3), (), object())
NOT_NUMBERS = (
    None, "1", "", "nan", b"1", True, np.bool_(True), [], (1.0,), {}, 1j, math.nan, math.inf,
    -math.inf, object(), torch.tensor(1.0), np.array([1.0]),
)  # fmt: skip
NUMBERS = (
    0, 1, 2, 5, -1, 0.0, -0.0, 1.0, 0.5, -0.5, 1e-7, 1e-300, 1e300, 10**400, -(10**400), 2**31,
    2**63, 2**64, np.float32(0.3), np.float64(1.5), np.int64(3), np.uint8(4), np.float16(2),
    Fraction(1, 3), Fraction(10**400, 3),
)  # fmt: skip

numbers = st.sampled_from(NUMBERS) | st.floats() | st.integers()
anything = st.sampled_from((*NUMBERS, *NOT_NUMBERS))
sizes = st.integers(0, 4)
seeds = st.integers(0, 2**32)


def mostly(good: Any, odd: Any = anything) -> st.SearchStrategy[Any]:
    """Seven in eight values are good, so that calls with several arguments often succeed."""
    return st.integers(0, 7).flatmap(lambda n: odd if n == 7 else good)


@st.composite
def tensors(
    draw: Any,
    shape: tuple[int, ...] | None = None,
    *,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    extremes: bool = True,
    least: float = -3.0,
    most: float = 3.0,
) -> Tensor:
    """A tensor of a given or any shape, in any memory layout, ordinary or with an extreme value."""
    if shape is None:
        shape = tuple(draw(st.lists(sizes, max_size=4)))
    dtype = draw(st.sampled_from(dtypes))
    generator = torch.Generator().manual_seed(draw(seeds))
    values = torch.rand(shape, generator=generator, dtype=torch.float64) * (most - least) + least
    if extremes and values.numel() and draw(st.booleans()):
        index = draw(st.integers(0, values.numel() - 1))
        values.view(-1)[index] = draw(st.sampled_from(EXTREME))
    if not (dtype.is_floating_point or dtype.is_complex):
        values = values.nan_to_num(0, 0, 0).clamp(-100, 100)
        values = values.abs() if dtype in (torch.uint8, torch.bool) else values
    tensor = _laid_out(values.to(dtype), draw(st.integers(0, 5)))
    if dtype.is_floating_point and draw(st.integers(0, 3)) == 0:
        tensor.requires_grad_()
    return tensor


def _laid_out(tensor: Tensor, layout: int) -> Tensor:
    """The same values in another memory layout: transposed, strided, expanded, copied or offset."""
    if layout == 1 and tensor.ndim > 1:
        return tensor.mT.contiguous().mT
    if layout == 2 and tensor.ndim:
        spaced = torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype)
        spaced[..., ::2] = tensor
        return spaced[..., ::2]
    if layout == 3 and tensor.ndim and len(tensor) > 1:
        return tensor[:1].expand_as(tensor)
    if layout == 4 and tensor.ndim:
        return tensor.flip(0).contiguous().flip(0)
    if layout == 5 and tensor.ndim:
        return torch.cat([tensor[:0], tensor, tensor])[: len(tensor)]
    return tensor


def ordinary(shape: tuple[int, ...], **options: Any) -> st.SearchStrategy[Tensor]:
    """Finite floats of a shape, by default float32."""
    return tensors(shape, **{"dtypes": (torch.float32,), "extremes": False, **options})


awkward = tensors() | st.sampled_from(NOT_TENSORS)


@contextmanager
def little_memory(extra_bytes: int = 2**31) -> Iterator[None]:
    """Limit the address space of the process to so many bytes more than it uses now."""
    status = Path("/proc/self/status").read_text().split()
    used = int(status[status.index("VmSize:") + 1]) * 1024
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(call: Callable[[], Any], *watched: Any, random_state: bool = True) -> Any:
    """The result of the call, or :data:`REFUSED` after an error with a message and no side effect.

    A refused call must leave unchanged: the random state of torch, and what is ``watched``, which
    are modules, tensors, and functions that return a state.
    """
    watched = (*watched, torch.get_rng_state) if random_state else watched
    before = _snapshot(watched)
    try:
        return call()
    except (ValueError, TypeError, OSError) as error:
        refusal = error
    assert str(refusal).strip()
    assert not isinstance(refusal, (json.JSONDecodeError, UnicodeError)), repr(refusal)
    after = _snapshot(watched)
    same = len(before) == len(after) and all(map(_same, before, after))
    assert same, f"a refused call changed a watched state: {refusal}"
    return REFUSED


def _snapshot(watched: tuple[Any, ...]) -> list[Any]:
    states: list[Any] = []
    for item in watched:
        if isinstance(item, nn.Module):
            neurons = [part for part in item.modules() if isinstance(part, StatefulNeuron)]
            hidden = [state for neuron in neurons for state in (neuron.spk, neuron.mem)]
            tensors = (*item.parameters(), *item.buffers(), *hidden)
            states += [t.detach().clone() for t in tensors]
            states.append(item.training)
        elif callable(item):
            states.append(item())
        elif isinstance(item, Tensor):
            states.append(item.detach().clone())
    return states


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return all(map(_same, a, b))
    if isinstance(a, Tensor):
        return (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.allclose(a.double(), b.double(), 0, 0, equal_nan=True)
        )
    return bool(a == b)


def finite(*tensors: Tensor) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def counts(spk: Tensor) -> bool:
    """Whether all values are nonnegative integers."""
    return finite(spk) and bool(((spk >= 0) & (spk == spk.round())).all())
