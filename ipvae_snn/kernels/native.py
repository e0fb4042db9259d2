"""The unroll and the Poisson sampler in compiled code: float32 on the CPU.

Why native code: PyTorch's CPU sampler is scalar and runs on one thread, slower than the (K, K)
product of a timestep; a draw by inversion needs a loop that ends with the data, which
``torch.compile`` cannot write; and adding up the rows of G for the spikes that occurred has no
counterpart in PyTorch. It is some 700 lines (``*.h``), and everything runs without.
"""

import ctypes
import math
import os
from collections.abc import Callable
from ctypes import Structure, byref, c_float, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ipvae_snn.kernels import build
from ipvae_snn.kernels.spec import INPUTS, UnrollResult, UnrollSpec

LANES, TEAM = 64, 4  # as in poisson.h and forward.h
SLOPES = ("midpoint", "rate", "own", "none")  # as slope_kind in backward.h
SWITCH = "IPVAE_SNN_NATIVE"


@cache
def _loaded() -> ctypes.CDLL | build.BuildError:
    """The compiled kernels, or why there are none."""
    if os.environ.get(SWITCH, "1") == "0":
        return build.BuildError(f"{SWITCH}=0")
    try:
        lib = build.load()
        _require_same_structures(lib)
    except build.BuildError as error:
        return error
    lib.ipvae_backward.restype = c_int64
    return lib


def _require_same_structures(lib: ctypes.CDLL) -> None:
    """Raise unless the structures here have the sizes that they have in the compiled code."""
    sizes = (c_int64 * 3)()
    lib.ipvae_sizes(sizes)
    own = [ctypes.sizeof(structure) for structure in (Dynamics, Forward, Backward)]
    if list(sizes) != own:
        raise build.BuildError(
            f"the compiled structures have {list(sizes)} bytes, those of Python {own}: native.py "
            "and the headers differ"
        )


def kernels() -> ctypes.CDLL:
    """The compiled kernels; :class:`~ipvae_snn.kernels.build.BuildError` where there are none."""
    loaded = _loaded()
    if isinstance(loaded, build.BuildError):
        raise build.BuildError(str(loaded))
    return loaded


def unavailable_reason() -> str:
    """Why there are no compiled kernels here, empty where there are."""
    loaded = _loaded()
    return str(loaded) if isinstance(loaded, build.BuildError) else ""


why_not = unavailable_reason  # the name it had


@torch.compiler.assume_constant_result
def available() -> bool:
    """Whether the compiled kernels can be used here."""
    return not unavailable_reason()


def fits(tensor: Tensor) -> bool:
    """Whether the kernels take this tensor: plain float32 on the CPU, outside any tracing."""
    return (
        not torch.compiler.is_compiling()
        and tensor.dtype == torch.float32
        and tensor.device.type == "cpu"
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and available()
    )


def suits(spec: UnrollSpec) -> bool:
    """Whether the kernels take a spec: all its tensors, and counts of a law they can draw."""
    return spec.law != "own" and all(fits(getattr(spec, name)) for name in INPUTS)


def poisson(rate: Tensor, key: Tensor) -> Tensor:
    """Poisson counts for float32 rates in [0, e^16] of any shape (..., K).

    Exact in law: by inversion up to rate 16, by transformed rejection above. A count depends on
    the key (:func:`keys`), its row and its column, not on threads.
    """
    rate = rate.contiguous()
    spk = torch.empty_like(rate)
    latents = rate.shape[-1] if rate.ndim else 1
    if rate.numel():
        kernels().ipvae_poisson(
            c_int64(rate.numel() // latents), c_int64(latents), at(rate), c_uint64(int(key)),
            at(spk), c_int32(torch.get_num_threads()),
        )  # fmt: skip
    return spk


def keys(count: int, generator: torch.Generator | None) -> Tensor:
    """Keys of so many draws: drawing them at once or one by one gives the same."""
    return torch.randint(2**63 - 1, (count,), generator=generator)


def at(tensor: Tensor | None) -> c_void_p:
    return c_void_p(None if tensor is None else tensor.data_ptr())


def walker(tensor: Tensor) -> Callable[[int], int]:
    """Addresses of the timesteps of a tensor, (T, ...): cheaper than taking views."""
    start, step = tensor.data_ptr(), tensor.stride(0) * tensor.element_size()
    return lambda t: start + t * step


def _structure(name: str, **fields: Any) -> type[Structure]:
    return type(name, (Structure,), {"_fields_": list(fields.items())})


P = c_void_p
# Field by field the structures of dynamics.h, forward.h and backward.h.
Dynamics = _structure(
    "Dynamics", bias=P, rest=P, alpha=c_float, scale=c_float, leak=c_float, epsilon=c_float,
    published=c_int32, rounded=c_int32,
)  # fmt: skip
Forward = _structure(
    "Forward", steps=c_int64, rows=c_int64, latents=c_int64, stride=c_int64, drive=P,
    drive_step=c_int64, gram=P, keys=P, row_ids=P, spk=P, mem=P, inhibition=P, all_spk=P, all_mem=P,
    spk_every=c_int64, mem_every=c_int64, all_counts=P, count_bytes=c_int32, kl=P, quad=P, work=P,
    threads=c_int32,
)  # fmt: skip
Backward = _structure(
    "Backward", rows=c_int64, latents=c_int64, stride=c_int64, mem=P, mem_before=P, counts=P,
    counts_before=P, count_bytes=c_int32, drive=P, gram=P, first_spk=P, work=P,
    product=P, slope=P, slope_kind=c_int32, quad_grad=P, kl_grad=P,
    quad_grad_before=P, spk_grad=P, carry=P, drive_grad=P, push=P, half_push=P,
    bias_grad=P, step_sum=P, threads=c_int32,
)  # fmt: skip


def dynamics_of(spec: UnrollSpec) -> Any:
    return Dynamics(
        bias=at(spec.bias), rest=at(spec.rest), alpha=float(spec.step), scale=spec.scale,
        leak=spec.leak, epsilon=math.exp(-spec.clamp), published=spec.kl_form == "published",
        rounded=spec.law == "rounded",
    )  # fmt: skip


def padded(gram: Tensor) -> Tensor:
    """G with rows that end on a whole block of neurons."""
    extra = -gram.shape[1] % LANES
    return torch.nn.functional.pad(gram, (0, extra)) if extra else gram.contiguous()


def sum_inhibition(spk: Tensor, gram: Tensor, out: Tensor) -> None:
    """zG of each row of ``spk`` (B, K) into ``out``, for a :func:`padded` G."""
    work = gram.new_empty(TEAM, gram.shape[1] + spk.shape[1])
    kernels().ipvae_inhibition(
        c_int64(len(spk)), c_int64(spk.shape[1]), c_int64(gram.shape[1]), at(spk), at(gram),
        at(out), at(work),
    )  # fmt: skip


def forward(spec: UnrollSpec) -> UnrollResult:
    """All timesteps in one call. The tensors must be contiguous: the kernels get addresses."""
    gram, drive = padded(spec.gram), spec.drive
    rows, latents = spec.mem.shape
    threads, every = torch.get_num_threads(), spec.every
    outputs = {name: spec.output(name) for name in ("spk", "quad", "kl")}
    all_mem = spec.empty(spec.steps, rows, latents) if spec.keep else spec.output("mem")
    counts = None
    if spec.keep:
        counts = spec.empty(spec.steps, rows, latents, dtype=spec.count_dtype())
    spk, mem = spec.spk.clone(), spec.mem.clone()
    work = spec.empty(threads, TEAM, gram.shape[1] + latents)
    draws = keys(spec.steps, spec.estimator.generator) if spec.law == "poisson" else None
    arguments = Forward(
        steps=spec.steps, rows=rows, latents=latents, stride=gram.shape[1], drive=at(drive),
        drive_step=rows * latents if drive.ndim == 3 else 0, gram=at(gram), keys=at(draws),
        row_ids=at(spec.row_ids), spk=at(spk), mem=at(mem), all_spk=at(outputs["spk"]),
        all_mem=at(all_mem), spk_every=every, mem_every=1 if spec.keep else every,
        all_counts=at(counts), count_bytes=0 if counts is None else counts.element_size(),
        kl=at(outputs["kl"]), quad=at(outputs["quad"]), work=at(work), threads=threads,
    )  # fmt: skip
    kernels().ipvae_forward(byref(dynamics_of(spec)), byref(arguments))
    returned_mem, saved = all_mem, None
    if all_mem is not None and counts is not None:
        saved = all_mem, counts
        if "mem" not in spec.fields:
            returned_mem = None
        elif every > 1:
            returned_mem = all_mem[every - 1 :: every].clone()
    return UnrollResult(**outputs, mem=returned_mem, last_spk=spk, last_mem=mem, saved=saved)
