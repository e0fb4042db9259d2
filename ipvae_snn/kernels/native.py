"""The unroll and the Poisson sampler in compiled C: float32 on the CPU.

PyTorch alone is slower for three reasons. Its Poisson sampler is scalar and runs on one thread,
which takes longer than the (K, K) product of a timestep. Sampling by inversion needs a loop whose
length depends on the data, which ``torch.compile`` cannot generate. And no operation sums only the
rows of G of the neurons that spiked. The C code is some 900 lines (``*.h``); everything runs
without it.
"""

import ctypes
import math
import os
from collections.abc import Callable
from ctypes import Structure, byref, c_float, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.seeding import source
from ipvae_snn.kernels import build
from ipvae_snn.kernels.spec import INPUTS, UnrollResult, UnrollSpec

P = c_void_p
LANES, TEAM = 64, 4  # as in poisson.h and forward.h
LONGEST_VECTOR = 16
"""Floats of the longest vector register."""
SLOPES = ("midpoint", "rate", "own", "none")  # as slope_kind in backward.h
SWITCH = "IPVAE_SNN_NATIVE"
"""Environment variable: 0 switches the compiled kernels off."""


@cache
def _load() -> ctypes.CDLL | build.BuildError:
    """The compiled kernels, or the reason why there are none."""
    if os.environ.get(SWITCH, "1") == "0":
        return build.BuildError(f"{SWITCH}=0")
    try:
        lib = build.load()
        _check_structure_sizes(lib)
        lib.ipvae_poisson.argtypes = [c_int64, c_int64, P, c_uint64, P, c_int32]
        lib.ipvae_sum_rows.argtypes = [*[c_int64] * 4, *[P] * 4, c_float, c_int32]
        lib.ipvae_gram_gradient.argtypes = [*[c_int64] * 4, P, c_int64, c_int32, *[P] * 3, c_int32]
        lib.ipvae_backward.restype = lib.ipvae_backward_tape.restype = c_int64
    except build.BuildError as error:
        return error
    except AttributeError as error:
        return build.BuildError(f"the compiled library lacks a function: {error}")
    return lib


def _check_structure_sizes(lib: ctypes.CDLL) -> None:
    """Raise ``BuildError`` unless the structures have the same sizes here and in the library."""
    expected = [ctypes.sizeof(structure) for structure in STRUCTURES]
    sizes = (c_int64 * len(expected))()
    lib.ipvae_sizes(sizes)
    if list(sizes) != expected:
        raise build.BuildError(
            f"the compiled structures have {list(sizes)} bytes, those of Python {expected}: "
            "native.py and the headers differ"
        )


def library() -> ctypes.CDLL:
    """The compiled kernels; raises :class:`~ipvae_snn.kernels.build.BuildError` without them."""
    loaded = _load()
    if isinstance(loaded, build.BuildError):
        raise build.BuildError(str(loaded))
    return loaded


def unavailable_reason() -> str:
    """Why the compiled kernels cannot be used here; empty if they can."""
    loaded = _load()
    return str(loaded) if isinstance(loaded, build.BuildError) else ""


why_not = unavailable_reason  # its former name


def available() -> bool:
    """Whether the compiled kernels can be used here."""
    return not unavailable_reason()


def supports_tensors(*tensors: Tensor) -> bool:
    """Whether the kernels accept these tensors: plain float32 on the CPU, not being traced."""
    return (
        not torch.compiler.is_compiling()
        and all(
            tensor.dtype == torch.float32
            and tensor.device.type == "cpu"
            and type(tensor) in (Tensor, torch.nn.Parameter)
            and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
            for tensor in tensors
        )
        and available()
    )


def supports(spec: UnrollSpec) -> bool:
    """Whether the kernels accept a spec: all its tensors, and the law of its counts."""
    return (
        spec.law != "own"
        and spec.step_size.ndim == 0
        and spec.bias.shape == spec.mem_rest.shape == spec.gram.shape[:1]
        and supports_tensors(*(getattr(spec, name) for name in INPUTS))
    )


def poisson(rate: Tensor, key: Tensor) -> Tensor:
    """Poisson counts for float32 rates in [0, e^16] of any shape (..., K).

    Exact in distribution: by inversion up to rate 16, by transformed rejection above. A count
    depends on the key (:func:`draw_keys`), its row and its column, not on the number of threads.
    """
    rate = rate.contiguous()
    spk = torch.empty_like(rate)
    latents = rate.shape[-1] if rate.ndim else 1
    if rate.numel():
        rows, threads = rate.numel() // latents, torch.get_num_threads()
        library().ipvae_poisson(rows, latents, pointer(rate), int(key), pointer(spk), threads)
    return spk


def draw_keys(count: int, generator: torch.Generator | None) -> Tensor:
    """Keys of the random numbers of ``count`` timesteps.

    Drawn in one call or one by one, they are the same.
    """
    return torch.randint(2**63 - 1, (count,), generator=generator)


def pointer(tensor: Tensor | None) -> c_void_p:
    return c_void_p(None if tensor is None else tensor.data_ptr())


def timestep_addresses(tensor: Tensor) -> Callable[[int], int]:
    """The address of timestep t of a tensor (T, ...): cheaper than a view."""
    start, stride = tensor.data_ptr(), tensor.stride(0) * tensor.element_size()
    return lambda t: start + t * stride


def _structure(name: str, **fields: Any) -> type[Structure]:
    # Without a __dict__ a field that is not there is an error, and not an attribute.
    return type(name, (Structure,), {"_fields_": list(fields.items()), "__slots__": ()})


# Field by field the structures of dynamics.h, forward.h and backward.h.
Dynamics = _structure(
    "Dynamics", bias=P, mem_rest=P, places=c_int64, alpha=c_float, lateral_scale=c_float,
    leak=c_float, epsilon=c_float, published=c_int32, rounded=c_int32,
)  # fmt: skip
Forward = _structure(
    "Forward", steps=c_int64, rows=c_int64, latents=c_int64, stride=c_int64, drive=P,
    drive_stride=c_int64, gram=P, keys=P, row_ids=P, spk=P, mem=P, inhibition=P, all_spk=P,
    all_mem=P, spk_every=c_int64, mem_every=c_int64, all_counts=P, count_bytes=c_int32, kl=P,
    quad=P, work=P, threads=c_int32, dense_above=c_float,
)  # fmt: skip
Backward = _structure(
    "Backward", rows=c_int64, latents=c_int64, stride=c_int64, mem=P, mem_before=P, counts=P,
    counts_before=P, count_bytes=c_int32, drive=P, gram=P, first_spk=P, work=P, product=P, slope=P,
    slope_floor=c_float, slope_kind=c_int32, quad_grad=P, kl_grad=P, quad_grad_before=P,
    spk_grad=P, mem_grad=P, drive_grad=P, product_input=P, gram_factor=P, bias_grad=P, step_sum=P,
    threads=c_int32,
)  # fmt: skip


Map = _structure(
    "Map", batch=c_int64, height=c_int64, width=c_int64, latents=c_int64, rows=c_int64,
    columns=c_int64, depth=c_int64, stride=c_int64, spk=P, weight=P, cells=P, active=P, count=P,
    sum=P, threads=c_int32,
)  # fmt: skip


MapInhibition = _structure(
    "MapInhibition", height=c_int64, width=c_int64, latents=c_int64, reach_h=c_int64,
    reach_w=c_int64, spk=P, gram=P, inhibition=P, active=P, count=P, threads=c_int32,
)  # fmt: skip


MapGradient = _structure(
    "MapGradient", batch=c_int64, height=c_int64, width=c_int64, latents=c_int64, rows=c_int64,
    columns=c_int64, depth=c_int64, counts=P, count_bytes=c_int32, cells=P, grad=P, spk=P, active=P,
    threads=c_int32,
)  # fmt: skip
Tape = _structure(
    "Tape", first=c_int64, last=c_int64, step=c_int64, drive_step=c_int64,
    drive_grad_step=c_int64, slots=c_int64, mem=P, drive=P, gram=P, counts=P, quad_grad=P,
    kl_grad=P, drive_grad=P, gram_factor=P, product=P, work=P,
)  # fmt: skip
Measure = _structure(
    "Measure", rows=c_int64, latents=c_int64, pixels=c_int64, stride=c_int64, spk=P, weight=P, x=P,
    error=P, total=P, squares=P, fired=P, by_neuron=P, squares_by_neuron=P, work=P,
    threads=c_int32,
)  # fmt: skip
STRUCTURES = (Dynamics, Forward, Backward, Map, MapInhibition, MapGradient, Tape, Measure)


def padded_rows(weight: Tensor) -> Tensor:
    """Features (K, D, q_h, q_w) as :func:`decode_map` takes them: rows of vectors, (K, q_h, n)."""
    rows = weight.permute(0, 2, 3, 1).flatten(2)
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % LONGEST_VECTOR)).contiguous()


def decode_map(spk: Tensor, features: Tensor, columns: int, depth: int) -> Tensor:
    """Cells (B, H, W, D), the sum over the spikes (B, h, w, K) of :func:`padded_rows`."""
    (batch, height, width, latents), (_, rows, stride) = spk.shape, features.shape
    cells = spk.new_empty(batch, height - rows + 1, width - columns + 1, depth)
    active = torch.empty(spk.shape, dtype=torch.int32)
    count = torch.empty(spk.shape[:3], dtype=torch.int32)
    threads = torch.get_num_threads()
    work = active, count, spk.new_empty(threads, stride)
    sizes = batch, height, width, latents, rows, columns, depth, stride
    pointers = (pointer(tensor) for tensor in (spk, features, cells, *work))
    library().ipvae_decode_map(byref(Map(*sizes, *pointers, threads)))
    return cells


def inhibit_map(spk: Tensor, gram: Tensor, out: Tensor) -> None:
    """What the spikes (h, w, K) take from all neurons, into ``out``.

    Args:
        spk: counts.
        gram: of a neuron at a place with those around, (K, 2 r_h + 1, 2 r_w + 1, K).
        out: (h, w, K).
    """
    (height, width, latents), reach = spk.shape, [(side - 1) // 2 for side in gram.shape[1:3]]
    active = torch.empty(spk.shape, dtype=torch.int32)
    count = torch.empty(spk.shape[:2], dtype=torch.int32)
    pointers = (pointer(tensor) for tensor in (spk, gram, out, active, count))
    arguments = MapInhibition(height, width, latents, *reach, *pointers, torch.get_num_threads())
    library().ipvae_inhibit_map(byref(arguments))


class MapGradientSum:
    """Σ cells ⋆ counts, the gradient of features that decoded counts, over their spikes.

    Args:
        weight: features (K, D, q_h, q_w).
    """

    def __init__(self, weight: Tensor) -> None:
        latents, depth, rows, columns = weight.shape
        self.threads = torch.get_num_threads()
        self.total = weight.new_zeros(self.threads, latents, rows, columns, depth)
        self.work = (
            weight.new_empty(self.threads, latents),
            torch.empty(self.threads, latents, dtype=torch.int32),
        )

    def add(self, cells: Tensor, counts: Tensor) -> None:
        """Cells (B, D, H, W) and counts (B, h, w, K), integers of 1, 2 or 4 bytes."""
        by_place = cells.movedim(1, -1).contiguous()
        _, _, rows, columns, depth = self.total.shape
        arguments = MapGradient(
            *counts.shape, rows, columns, depth, pointer(counts), counts.element_size(),
            pointer(by_place), pointer(self.total), *map(pointer, self.work), self.threads,
        )  # fmt: skip
        library().ipvae_map_gradient(byref(arguments))

    def gradient(self) -> Tensor:
        """(K, D, q_h, q_w)."""
        return self.total.sum(0).movedim(-1, 1)


def slope_of_kind(slope: str, estimator: Any) -> dict[str, Any]:
    """The fields of ``Backward`` for the slope of an estimator."""
    floor = float(getattr(estimator, "floor", 0.0))
    return {"slope_kind": SLOPES.index(slope), "slope_floor": floor}


def dynamics_of(spec: UnrollSpec) -> Any:
    return Dynamics(
        bias=pointer(spec.bias),
        mem_rest=pointer(spec.mem_rest),
        places=1,
        alpha=float(spec.step_size),
        lateral_scale=spec.lateral_scale,
        leak=spec.leak,
        epsilon=math.exp(-spec.clamp),
        published=spec.kl_form == "published",
        rounded=spec.law == "rounded",
    )


def padded(weight: Tensor) -> Tensor:
    """A matrix with zeros at the end of each row, up to a multiple of LANES."""
    extra = -weight.shape[1] % LANES
    return torch.nn.functional.pad(weight, (0, extra)) if extra else weight.contiguous()


def sum_rows(spk: Tensor, weight: Tensor, out: Tensor, dense_above: float = 1.0) -> None:
    """zW of each row of ``spk`` (N, K) into ``out`` (N, M), for a :func:`padded` W (K, M).

    Above a share ``dense_above`` of neurons that spike, by dense products of some rows.
    """
    (rows, latents), stride = spk.shape, weight.shape[1]
    threads = max(1, min(torch.get_num_threads(), -(-rows // TEAM)))
    work = weight.new_empty(threads, TEAM, stride + latents)
    pointers = [pointer(tensor) for tensor in (spk, weight, out, work)]
    sizes = rows, latents, out.shape[1], stride
    library().ipvae_sum_rows(*sizes, *pointers, dense_above, threads)


def measure(spk: Tensor, weight: Tensor, x: Tensor) -> "CodeSums":
    """Sums over counts (N, K) that decode to zW, for a :func:`padded` W (K, M); x is (N, M)."""
    (rows, latents), stride, threads = spk.shape, weight.shape[1], torch.get_num_threads()
    of_rows = spk.new_empty(4, rows)
    of_neurons = spk.new_zeros(2, threads, latents)
    work = spk.new_empty(threads, TEAM, stride + latents)
    tensors = (spk, weight, x, *of_rows, *of_neurons, work)
    pointers = (pointer(tensor) for tensor in tensors)
    sizes = rows, latents, x.shape[1], stride
    library().ipvae_measure(byref(Measure(*sizes, *pointers, threads)))
    return CodeSums(*of_rows, *of_neurons.sum(1))


class CodeSums(NamedTuple):
    """Of codes z of one timestep, N rows of K neurons.

    Attributes:
        error: squared error of the reconstruction of each sample.
        total, squares, fired: Σ z, Σ z² and the number of z ≠ 0 of each row, (N,).
        by_neuron, squares_by_neuron: Σ z and Σ z² over the rows, (K,).
    """

    error: Tensor
    total: Tensor
    squares: Tensor
    fired: Tensor
    by_neuron: Tensor
    squares_by_neuron: Tensor


def add_gram_gradient(counts: Tensor, factor: Tensor, gradient: Tensor, events: Tensor) -> None:
    """Add Σ_t z_tᵀ f_t to ``gradient``, summed over the spikes.

    Args:
        counts: z, (T, B, K), integers of 1, 2 or 4 bytes.
        factor: f, (T, B, n), contiguous, its rows :func:`padded`.
        gradient: (K, n).
        events: work space, (threads, LANES, T B, 2).
    """
    library().ipvae_gram_gradient(
        *counts.shape, gradient.shape[1], pointer(counts), counts.stride(0),
        counts.element_size(), pointer(factor), pointer(gradient), pointer(events), len(events),
    )  # fmt: skip


def forward(spec: UnrollSpec, dense_above: float = 0.5) -> UnrollResult:
    """All timesteps in one call. The tensors must be contiguous: C gets their addresses.

    Args:
        spec: the network.
        dense_above: share of neurons that spike above which zG of some rows is a dense product.
    """
    gram, drive = padded(spec.gram), spec.drive
    rows, latents = spec.mem.shape
    threads, every = min(torch.get_num_threads(), -(-rows // TEAM)), spec.every  # a team has one
    outputs = {name: spec.output_buffer(name) for name in ("spk", "quad", "kl")}
    all_mem = spec.empty(spec.steps, rows, latents) if spec.save else spec.output_buffer("mem")
    counts = None
    if spec.save:
        counts = spec.empty(spec.steps, rows, latents, dtype=spec.count_dtype())
    spk, mem = spec.spk.clone(), spec.mem.clone()
    work = spec.empty(threads, TEAM, gram.shape[1] + latents)
    keys = None
    if spec.law == "poisson":
        keys = draw_keys(spec.steps, source(spec.estimator.generator, "cpu"))
    arguments = Forward(
        steps=spec.steps,
        rows=rows,
        latents=latents,
        stride=gram.shape[1],
        drive=pointer(drive),
        drive_stride=rows * latents if drive.ndim == 3 else 0,
        gram=pointer(gram),
        keys=pointer(keys),
        row_ids=pointer(spec.row_ids),
        spk=pointer(spk),
        mem=pointer(mem),
        all_spk=pointer(outputs["spk"]),
        all_mem=pointer(all_mem),
        spk_every=every,
        mem_every=1 if spec.save else every,
        all_counts=pointer(counts),
        count_bytes=0 if counts is None else counts.element_size(),
        kl=pointer(outputs["kl"]),
        quad=pointer(outputs["quad"]),
        work=pointer(work),
        threads=threads,
        dense_above=dense_above,
    )
    library().ipvae_forward(byref(dynamics_of(spec)), byref(arguments))
    returned_mem, saved = all_mem, None
    if all_mem is not None and counts is not None:
        saved = all_mem, counts
        if "mem" not in spec.fields:
            returned_mem = None
        elif every > 1:
            returned_mem = all_mem[every - 1 :: every].clone()
    return UnrollResult(**outputs, mem=returned_mem, last_spk=spk, last_mem=mem, saved=saved)
