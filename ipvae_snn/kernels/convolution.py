"""Inference under a convolutional decoder: all timesteps of a map of neurons as one function.

A dictionary of K features of k × k pixels in C channels, s pixels apart, becomes one of stride 1 by
taking the s × s pixels of a cell as channels: D = C s², features of q × q cells, q = ⌈k / s⌉. So
both directions are plain convolutions, which libraries compute faster than a transposed one with a
stride:

    f_t = Φ z_t                  cells (B, D, H, W) from counts (B, h, w, K), h = H + q − 1
    current = Φᵀ (x − f_{t−1})   where there are pixels: the mask is 0 elsewhere

Neurons lie wherever a feature overlaps the image, so that every pixel has equally many. Values are
in units of σ: x / σ and Φ / σ. Neurons are stored with those of a place side by side, (B, h, w, K),
which is the layout of both the convolutions and the kernels for neurons; cells, too, lie in memory
with the values of a place side by side. The draws of compiled kernels depend on the number of a
place.

Backward, with g_t = α h̄_t and c_t the gradient of the NLL:

    E_t = c_t (f_t − x) − Φ g_{t+1},   z̄_t = Φᵀ E_t
    Φ̄ = Σ_t E_t ⋆ z_t + (x − f_{t−1}) ⋆ g_t

Two convolutions forward and four backward per timestep. With compiled kernels the two that take
counts, Φ z_t and E_t ⋆ z_t, are sums over the neurons that spiked. Saved are membranes, counts and
f_t, which is small beside them.
"""

import math
from collections.abc import Sequence
from ctypes import byref
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ipvae_snn._utils.seeding import source
from ipvae_snn.kernels import equations, native, plain
from ipvae_snn.kernels.adjoint import draw_of, slope_of
from ipvae_snn.kernels.native import pointer
from ipvae_snn.kernels.spec import UnrollSpec, to_count_dtype

INPUTS = ("x", "weight", "spk", "mem", "step_size", "bias", "mem_rest")
"""The tensors of a spec that gradients flow to."""
OUTPUTS = ("spk", "mem", "nll", "kl", "last_spk", "last_mem")
BATCHED = 8
"""Timesteps whose gradients of Φ are added up in one operation."""
LARGEST_PART = 2**20
"""Neurons whose currents are computed at once, at most, where compiled kernels run."""
CLOSE_TO_CLAMP = 0.9
"""Largest ε (λ' + λ'/λ) for which h follows from the membranes alone; see plain.SATURATED."""


@dataclass
class MapSpec:
    """T timesteps of inference for B images and K neurons at each of h × w places.

    Attributes:
        x: cells in units of σ, (B, D, H, W), or (T, B, D, H, W) where the image changes.
        weight: Φ / σ, (K, D, q, q).
        spk, mem: initial state, (B, h, w, K).
        step_size: α, a scalar tensor.
        bias: what is taken from every current, (B h w, K), (h w, K) for all samples alike, or
            (1, K) for all places alike.
        mem_rest: the membrane that the leak pulls to, (K,).
        mask: what residuals are multiplied by, (D, H, W) or (B, D, H, W): 1 where a cell has a
            pixel, else 0, or the square root of its precision; x is multiplied already. None: 1.
        row_ids: int64, (B h w,): numbers of places that the draws of compiled kernels depend on.
        lateral_scale, leak, clamp, estimator, law, slope, kl_form, steps, fields, every: as in
            :class:`~ipvae_snn.kernels.spec.UnrollSpec`; a field ``nll``, ½ |x − f|² / σ², takes the
            place of ``quad``.
    """

    x: Tensor
    weight: Tensor
    spk: Tensor
    mem: Tensor
    step_size: Tensor
    bias: Tensor
    mem_rest: Tensor
    mask: Tensor | None
    lateral_scale: float
    leak: float
    clamp: float
    estimator: Any
    law: str = "own"
    slope: str = "own"
    kl_form: str = "exact"
    steps: int = 1
    fields: tuple[str, ...] = ()
    every: int = 1
    row_ids: Tensor | None = None

    def x_at(self, t: int) -> Tensor:
        return self.x[t] if self.x.ndim == 5 else self.x

    def neurons(self) -> UnrollSpec:
        """The neurons as rows (B h w, K) whose current is given whole."""
        latents = self.mem.shape[-1]
        spk, mem = (state.reshape(-1, latents) for state in (self.spk, self.mem))
        return UnrollSpec(
            drive=mem, gram=mem, spk=spk, mem=mem, step_size=self.step_size, bias=self.bias,
            mem_rest=self.mem_rest, lateral_scale=1.0, leak=self.leak, clamp=self.clamp,
            estimator=self.estimator, law=self.law, slope=self.slope, kl_form=self.kl_form,
            steps=self.steps, row_ids=self.row_ids,
        )  # fmt: skip


@dataclass
class MapResult:
    """Recorded fields, time first, else None; and the last state. ``nll`` and ``kl``: (T, B)."""

    spk: Tensor | None
    mem: Tensor | None
    nll: Tensor | None
    kl: Tensor | None
    last_spk: Tensor
    last_mem: Tensor


def infer_maps(spec: MapSpec) -> MapResult:
    """Run a spec; gradients flow to its tensors, once. Second derivatives are not available."""
    inputs: dict[str, Any] = {
        name: by_place(spec.x) if name == "x" else getattr(spec, name).contiguous()
        for name in INPUTS
    }
    spec, tensors = replace(spec, **inputs), list(inputs.values())
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in tensors):
        return _forward(spec)[0]
    outputs: tuple[Any, ...] = _Inference.apply(spec, *tensors)  # type: ignore[no-untyped-call]
    return MapResult(*outputs)


# -- cells and places -------------------------------------------------------------------------


def by_place(cells: Tensor) -> Tensor:
    """Cells (..., D, H, W), with the D values of a place side by side in memory."""
    return cells.movedim(-3, -1).contiguous().movedim(-1, -3)


def to_cells(images: Tensor, stride: tuple[int, int]) -> Tensor:
    """Images (..., C, height, width) as cells (..., C s_h s_w, H, W), zeros added at the end."""
    *rest, channels, height, width = images.shape
    images = pad(images, (0, -width % stride[1], 0, -height % stride[0]))
    rows, columns = images.shape[-2] // stride[0], images.shape[-1] // stride[1]
    cells = images.reshape(*rest, channels, rows, stride[0], columns, stride[1])
    return cells.movedim((-3, -1), (-4, -3)).reshape(*rest, -1, rows, columns)


def from_cells(cells: Tensor, stride: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`to_cells`: images of ``size``."""
    *rest, _, rows, columns = cells.shape
    parts = cells.reshape(*rest, -1, *stride, rows, columns).movedim((-4, -3), (-3, -1))
    images = parts.reshape(*rest, -1, rows * stride[0], columns * stride[1])
    return images[..., : size[0], : size[1]]


def decode(spk: Tensor, weight: Tensor) -> Tensor:
    """Φ z: cells (B, D, H, W) of counts (B, h, w, K)."""
    return conv2d(spk.movedim(-1, 1), _reversed(weight))


def project(cells: Tensor, weight: Tensor) -> Tensor:
    """Φᵀ of cells (B, D, H, W): currents (B, h, w, K)."""
    return conv2d(cells, weight, padding=_padding(weight)).movedim(1, -1).contiguous()


def _padding(weight: Tensor) -> tuple[int, int]:
    return weight.shape[-2] - 1, weight.shape[-1] - 1


def _reversed(weight: Tensor) -> Tensor:
    """The weights of the transposed convolution as those of a convolution."""
    return weight.transpose(0, 1).flip(-2, -1).contiguous(memory_format=torch.channels_last)


class Dictionary:
    """Φ in the layouts of both directions, and the gradient of both.

    ``events``: sum over spikes in compiled code.
    """

    def __init__(self, weight: Tensor, mask: Tensor | None, *, events: bool = False) -> None:
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.backward_weight = _reversed(weight)
        self.mask = None if mask is None else by_place(mask)
        # A residual has a mask of zeros and ones already.
        self.weighs = mask is not None and not bool(((mask == 0) | (mask == 1)).all())
        self.padding = _padding(weight)
        self.backward_grad = torch.zeros_like(self.backward_weight)
        self.rows = native.padded_rows(weight.detach()) if events else None
        self.of_spikes: native.MapGradientSum | None = None  # made when it is first added to

    def decode(self, neurons: Tensor) -> Tensor:
        """Φ of values of any kind."""
        return self.masked(conv2d(neurons.movedim(-1, 1), self.backward_weight))

    def decode_spikes(self, spk: Tensor) -> Tensor:
        """Φ z, by the neurons that spiked where compiled kernels run."""
        return self.decode(spk) if self.rows is None else self.masked(self.decode_unmasked(spk))

    def decode_unmasked(self, spk: Tensor) -> Tensor:
        """Φ z by the neurons that spiked, for a part of a map, too."""
        assert self.rows is not None
        cells = native.decode_map(spk, self.rows, self.weight.shape[-1], self.weight.shape[1])
        return cells.movedim(-1, 1)

    def project(self, cells: Tensor, part: "Part | None" = None) -> Tensor:
        """Φᵀ of cells; of the places of a part only."""
        padding = self.padding
        if part is not None:
            if part.rows.stop - part.rows.start == cells.shape[-2] + padding[0]:
                cells = cells[part.samples]  # all rows
            else:
                cells, padding = part.cells(cells, padding[0]), (0, padding[1])
        return conv2d(cells, self.weight, padding=padding).movedim(1, -1).contiguous()

    def masked(self, cells: Tensor) -> Tensor:
        return cells if self.mask is None else cells * self.mask

    def weigh_(self, cells: Tensor) -> None:
        """Residuals, or what flows back to Φ z, in place: as they act on neurons and on Φ."""
        if self.weighs and self.mask is not None:
            cells.mul_(self.mask)

    def add_gradient(self, cells: Tensor, neurons: Tensor) -> None:
        """Add cells ⋆ neurons, of an operation that mapped one to the other, either way."""
        grads = torch.ops.aten.convolution_backward(
            cells, neurons.movedim(-1, 1), self.backward_weight, None, [1, 1], [0, 0], [1, 1],
            False, [0, 0], 1, [False, True, False],
        )  # fmt: skip
        self.backward_grad += grads[1]

    def add_gradient_of_spikes(self, cells: Tensor, counts: Tensor) -> None:
        """Add cells ⋆ z, z in few bytes: by the neurons that spiked where compiled kernels run."""
        if self.rows is None:
            self.add_gradient(cells, counts.to(cells.dtype))
            return
        if self.of_spikes is None:
            self.of_spikes = native.MapGradientSum(self.weight)
        self.of_spikes.add(cells, counts)

    def gradient(self) -> Tensor:
        dense = self.backward_grad.flip(-2, -1).transpose(0, 1)
        return dense if self.of_spikes is None else dense + self.of_spikes.gradient()


# -- parts of large maps ----------------------------------------------------------------------


class Part(NamedTuple):
    """Some samples, or of one sample some rows of places."""

    samples: slice
    rows: slice

    def of(self, values: Tensor) -> Tensor:
        """A contiguous view of values (B, h, ...)."""
        return values[self.samples, self.rows]

    def cells(self, cells: Tensor, before: int) -> Tensor:
        """The rows of cells that these places see, ``before`` above each; zeros outside."""
        first, last = self.rows.start - before, self.rows.stop
        height = cells.shape[-2]
        seen = cells[self.samples, :, max(first, 0) : min(last, height)]
        return pad(seen, (0, 0, max(-first, 0), max(last - height, 0)))


def parts_of(shape: Sequence[int]) -> list[Part]:
    """Parts of a map (B, h, w, K) of at most ``LARGEST_PART`` neurons each, or one row."""
    batch, height, width, latents = shape
    in_row = width * latents
    in_sample = height * in_row
    if in_sample <= LARGEST_PART:
        step = max(1, LARGEST_PART // in_sample)
        starts = range(0, batch, step)
        return [Part(slice(i, min(i + step, batch)), slice(0, height)) for i in starts]
    step = max(1, LARGEST_PART // in_row)
    return [
        Part(slice(i, i + 1), slice(row, min(row + step, height)))
        for i in range(batch)
        for row in range(0, height, step)
    ]


# -- neurons ----------------------------------------------------------------------------------


class MapState(NamedTuple):
    """Counts and membranes (B, h, w, K), and, if asked for, the KL of each place."""

    spk: Tensor
    mem: Tensor
    kl: Tensor | None


class Saved(NamedTuple):
    """What the backward pass needs, time first: membranes, counts in few bytes, and Φ z."""

    mems: Tensor
    counts: Tensor
    decoded: Tensor


class PlainNeurons:
    """Timesteps of all neurons in PyTorch operations; states (B, h, w, K)."""

    def __init__(self, spec: MapSpec) -> None:
        self.spec, self.rows = spec, spec.neurons()
        self.shape = spec.mem.shape
        # (B, places, K), or (1, B places, K), to which the bias broadcasts
        places = len(spec.bias) if len(spec.bias) > 1 else self.shape[1] * self.shape[2]
        self.by_place = (-1, places, self.shape[-1])

    def draw_keys(self) -> None:
        """Nothing to do: PyTorch's generator goes on."""

    def parts(self) -> list[Part]:
        """One: PyTorch's generator draws for all neurons in turn."""
        return [Part(slice(0, self.shape[0]), slice(0, self.shape[1]))]

    def advance(
        self, t: int, current: Tensor, state: MapState, part: Part, saved: Saved | None = None
    ) -> None:
        """A timestep of ``state``, in place; also kept in ``saved``."""
        spec, before = self.spec, state.mem.view(self.by_place)
        after = equations.membrane_step(
            before, current.view(self.by_place), 0.0, step=spec.step_size, bias=spec.bias,
            leak=spec.leak, mem_rest=spec.mem_rest, clamp=spec.clamp,
        )  # fmt: skip
        if state.kl is not None:
            kl = equations.poisson_kl_sum(after, before, spec.kl_form)
            state.kl.copy_(kl.view(state.kl.shape))
        state.spk.copy_(draw_of(self.rows, after.reshape(-1, self.shape[-1])).view(self.shape))
        state.mem.copy_(after.view(self.shape))
        if saved is not None:
            saved.mems[t] = state.mem
            saved.counts[t] = to_count_dtype(state.spk, saved.counts.dtype)

    def prepare(self, mems: Tensor, counts: Tensor, kl_grad: Tensor) -> None:
        """Called before the backward pass, with what was saved and the gradient of the KL."""
        self.mems, self.counts = mems, counts
        self.kl_grad = kl_grad.repeat_interleave(self.shape[1] * self.shape[2], 1)
        self.mem_grad = torch.zeros_like(self.spec.mem)
        self.h_sum = torch.zeros_like(self.spec.bias)
        self.step_sum = self.spec.mem.new_zeros((), dtype=torch.float64)

    def go_back(self, t: int, current: Tensor | None, spk_grad: Tensor, g: Tensor) -> None:
        """Write g_t; leaves the gradient of the previous membranes in ``mem_grad``.

        ``current`` is given where membranes are close to their clamp.
        """
        spec, mem = self.spec, self.mems[t].view(self.by_place)
        before = self.mems[t - 1] if t else spec.mem
        slope = None
        if spec.slope != "none":
            rate = self.mems[t].exp().view(-1, self.shape[-1])
            slope = slope_of(spec.estimator, self.counts[t].to(rate.dtype).view_as(rate), rate)
            slope = slope.reshape(self.by_place)
        none = mem.new_zeros(())
        values = plain.Values(
            mem, before.view(self.by_place), self.counts[t].view(self.by_place), None,
            drive=none if current is None else current.view(self.by_place),
            inhibition_before=None if current is None else none, slope=slope,
        )  # fmt: skip
        grads = plain.Grads(
            self.mem_grad.view(self.by_place), spk=None, product=spk_grad.view(self.by_place),
            quad=none, quad_before=None, kl=self.kl_grad[t].view(-1, self.by_place[1], 1),
        )  # fmt: skip
        settings = plain.Settings(*(getattr(self.rows, n) for n in plain.Settings._fields))
        mem_grad, inhibition_grad, _, _, h_sum, step_sum = plain.backward(values, grads, settings)
        self.mem_grad = mem_grad.view(self.shape)
        self.h_sum += h_sum.sum(0, keepdim=True) if len(self.h_sum) == 1 else h_sum
        self.step_sum += step_sum
        torch.neg(inhibition_grad.view(self.shape), out=g)

    def sums(self) -> tuple[Tensor, Tensor]:
        """Σ h̄, in the shape of the bias, and Σ h h̄."""
        return self.h_sum, self.step_sum


class NativeNeurons:
    """The same in compiled C: float32 on the CPU."""

    def __init__(self, spec: MapSpec) -> None:
        self.spec, self.rows, self.threads = spec, spec.neurons(), torch.get_num_threads()
        self.latents, self.count = spec.mem.shape[-1], spec.mem[..., 0].numel()
        self.stride = self.latents + -self.latents % native.LANES
        self.library, self.dynamics = native.library(), native.dynamics_of(self.rows)
        self.row_ids = None if spec.row_ids is None else spec.row_ids.view(spec.mem.shape[:3])
        self.work = spec.mem.new_empty(self.threads, native.TEAM, self.stride + self.latents)
        self.draw_keys()

    def draw_keys(self) -> None:
        """Keys of the draws of all timesteps, once more for each round of them."""
        self.keys = None
        if self.spec.law == "poisson":
            generator = source(self.spec.estimator.generator, "cpu")
            self.keys = native.draw_keys(self.spec.steps, generator)

    def parts(self) -> list[Part]:
        return parts_of(self.spec.mem.shape)

    def advance(
        self, t: int, current: Tensor, state: MapState, part: Part, saved: Saved | None = None
    ) -> None:
        keys, row_ids = None if self.keys is None else self.keys[t:], self.row_ids
        bias = self.spec.bias
        if len(bias) > 1:
            maps = bias.view(-1, *state.mem.shape[1:])
            bias = (part.of(maps) if len(maps) > 1 else maps[:, part.rows]).flatten(0, 2)
        self.dynamics.bias, self.dynamics.places = pointer(bias), len(bias)
        arguments = native.Forward(
            steps=1, rows=current[..., 0].numel(), latents=self.latents, stride=self.stride,
            drive=pointer(current), keys=pointer(keys),
            row_ids=pointer(None if row_ids is None else part.of(row_ids)),
            spk=pointer(part.of(state.spk)), mem=pointer(part.of(state.mem)), spk_every=1,
            mem_every=1, kl=pointer(None if state.kl is None else part.of(state.kl)),
            all_mem=pointer(None if saved is None else part.of(saved.mems[t])),
            all_counts=pointer(None if saved is None else part.of(saved.counts[t])),
            count_bytes=0 if saved is None else saved.counts.element_size(),
            work=pointer(self.work), threads=self.threads,
        )  # fmt: skip
        self.library.ipvae_forward(byref(self.dynamics), byref(arguments))

    def prepare(self, mems: Tensor, counts: Tensor, kl_grad: Tensor) -> None:
        self.mems, self.counts = mems, counts
        places = self.count // len(self.spec.mem)
        self.kl_grad = kl_grad.repeat_interleave(places, 1)
        self.mem_grad = torch.zeros_like(self.spec.mem)
        self.h_sum = torch.zeros_like(self.spec.bias)
        self.h_sums = self.spec.mem.new_zeros(self.threads, self.stride)
        self.step_sums = torch.zeros(self.count, dtype=torch.float64)
        self.dynamics.bias, self.dynamics.places = pointer(self.spec.bias), len(self.spec.bias)
        self.dynamics.lateral_scale = -1.0  # so that product_input is +g

    def go_back(self, t: int, current: Tensor | None, spk_grad: Tensor, g: Tensor) -> None:
        spec, slope = self.spec, None
        if spec.slope == "own":
            rate = self.mems[t].exp().view(-1, self.latents)
            counts = self.counts[t].to(rate.dtype).view_as(rate)
            slope = slope_of(spec.estimator, counts, rate).contiguous()
        arguments = native.Backward(
            rows=self.count, latents=self.latents, stride=self.stride, mem=pointer(self.mems[t]),
            mem_before=pointer(self.mems[t - 1] if t else spec.mem),
            counts=pointer(self.counts[t]), count_bytes=self.counts.element_size(),
            drive=pointer(current), work=pointer(self.work), product=pointer(spk_grad),
            slope=pointer(slope), **native.slope_of_kind(spec.slope, spec.estimator),
            kl_grad=pointer(self.kl_grad[t]), mem_grad=pointer(self.mem_grad),
            product_input=pointer(g), bias_grad=pointer(self.h_sums),
            step_sum=pointer(self.step_sums), threads=self.threads,
        )  # fmt: skip
        self.library.ipvae_backward(byref(self.dynamics), byref(arguments))
        if len(spec.bias) > 1:
            self.h_sum += g.view(-1, *spec.bias.shape).sum(0)

    def sums(self) -> tuple[Tensor, Tensor]:
        if len(self.spec.bias) > 1:
            return self.h_sum / self.spec.step_size, self.step_sums.sum()
        return self.h_sums.sum(0, keepdim=True)[:, : self.latents], self.step_sums.sum()


def is_native(spec: MapSpec) -> bool:
    tensors = (getattr(spec, name) for name in INPUTS)
    return spec.law != "own" and native.supports_tensors(*tensors)


def make_neurons(spec: MapSpec) -> PlainNeurons | NativeNeurons:
    return NativeNeurons(spec) if is_native(spec) else PlainNeurons(spec)


# -- forward and backward ---------------------------------------------------------------------


def _forward(spec: MapSpec, save: bool = False) -> tuple[MapResult, Saved | None]:
    """The result, and with ``save`` membranes, counts and f of all timesteps."""
    dictionary = Dictionary(spec.weight, spec.mask, events=is_native(spec))
    neurons = make_neurons(spec)
    spk, mem = spec.spk.clone(), spec.mem.clone()
    kl = mem.new_empty(mem.shape[:3]) if "kl" in spec.fields else None
    state, parts = MapState(spk, mem, kl), neurons.parts()
    recorded: dict[str, list[Tensor]] = {name: [] for name in spec.fields}
    saved = _room_for(spec, neurons.rows.count_dtype()) if save else None
    decoded = dictionary.decode_spikes(spk) if bool(spk.any()) else torch.zeros_like(spec.x_at(0))
    residual = None
    for t in range(spec.steps):
        x = spec.x_at(t)
        if residual is None or spec.lateral_scale != 1 or spec.x.ndim == 5:
            residual = torch.sub(x, decoded, alpha=spec.lateral_scale)
        dictionary.weigh_(residual)
        for part in parts:
            neurons.advance(t, dictionary.project(residual, part), state, part, saved)
        last = t + 1 == spec.steps
        if not last or saved is not None or "nll" in recorded:
            decoded = dictionary.decode_spikes(spk)
            residual = x - decoded
        if saved is not None:
            saved.decoded[t] = decoded
        for name, rows in recorded.items():
            if name == "nll":
                rows.append(0.5 * residual.square().sum((1, 2, 3)))
            elif name == "kl":
                assert kl is not None
                rows.append(kl.sum((1, 2)))
            elif (t + 1) % spec.every == 0:
                rows.append((spk if name == "spk" else mem).clone())
    empty = mem.new_empty(0, *mem.shape)
    values = {name: torch.stack(rows) if rows else empty for name, rows in recorded.items()}
    result = MapResult(
        **{name: values.get(name) for name in OUTPUTS[:4]}, last_spk=spk, last_mem=mem
    )
    return result, saved


def _room_for(spec: MapSpec, counts: torch.dtype) -> Saved:
    mem, x = spec.mem, spec.x_at(0)
    return Saved(
        mem.new_empty(spec.steps, *mem.shape),
        mem.new_empty(spec.steps, *mem.shape, dtype=counts),
        torch.empty_like(x[None].expand(spec.steps, *x.shape)),
    )


class _Inference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spec: MapSpec, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        inputs: dict[str, Any] = dict(zip(INPUTS, tensors, strict=True))
        spec = replace(spec, **inputs)
        result, saved = _forward(spec, save=True)
        assert saved is not None
        ctx.save_for_backward(*tensors, *saved)
        ctx.settings = {
            f.name: getattr(spec, f.name) for f in fields_of(spec) if f.name not in INPUTS
        }
        ctx.set_materialize_grads(False)
        if spec.slope == "none":
            counts = (result.spk, result.last_spk)
            ctx.mark_non_differentiable(*(spk for spk in counts if spk is not None))
        return tuple(getattr(result, name) for name in OUTPUTS)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "the unrolled network has first derivatives only: for second ones write the loop "
                "over time with ipvae_snn.functional"
            )
        *tensors, mems, counts, decoded = ctx.saved_tensors
        spec = MapSpec(**dict(zip(INPUTS, tensors, strict=True)), **ctx.settings)
        needed = dict(zip(INPUTS, ctx.needs_input_grad[1:], strict=True))
        adjoint = _Adjoint(spec, (mems, counts, decoded), needed)
        found = adjoint(dict(zip(OUTPUTS, grads, strict=True)))
        return None, *(found[name] if needed[name] else None for name in INPUTS)


class _Adjoint:
    """Gradients of the tensors of a spec, from those of the result."""

    def __init__(self, spec: MapSpec, saved: tuple[Tensor, ...], needed: dict[str, bool]) -> None:
        self.spec, self.needed = spec, needed
        self.mems, self.counts, self.decoded = saved
        self.dictionary = Dictionary(spec.weight, spec.mask, events=is_native(spec))

    def __call__(self, grads: dict[str, Tensor | None]) -> dict[str, Tensor]:
        spec, dictionary = self.spec, self.dictionary
        neurons = make_neurons(spec)
        nll_grad, kl_grad = grads["nll"], grads["kl"]
        none = spec.mem.new_zeros(spec.steps, len(spec.mem))
        neurons.prepare(self.mems, self.counts, none if kl_grad is None else kl_grad.contiguous())
        x_grad = torch.zeros_like(spec.x)
        errors, residuals = (torch.empty_like(self.decoded[:BATCHED]) for _ in range(2))
        gs = spec.mem.new_empty(len(errors), *spec.mem.shape)
        spk_grad = sent_back = None  # Φ g of the next timestep
        for t in range(spec.steps - 1, -1, -1):
            x, f, slot = spec.x_at(t), self.decoded[t], t % BATCHED
            error_grad, g = errors[slot], gs[slot]  # E_t and g_t
            if nll_grad is None:
                error_grad.zero_()
            else:
                torch.sub(f, x, out=error_grad).mul_(nll_grad[t].view(-1, 1, 1, 1))
                self._at(x_grad, t).sub_(error_grad)
            if sent_back is not None:
                error_grad.sub_(sent_back, alpha=spec.lateral_scale)
            dictionary.weigh_(error_grad)
            spk_grad = self._recorded("spk", t, grads)
            if spec.slope != "none":
                by_error = dictionary.project(error_grad)
                spk_grad = by_error if spk_grad is None else spk_grad + by_error
            mem_grad = self._recorded("mem", t, grads)
            if mem_grad is not None:
                neurons.mem_grad = neurons.mem_grad + mem_grad
            zeros = torch.zeros_like(spec.mem) if spk_grad is None else spk_grad.contiguous()
            residual, before = residuals[slot], self._decoded_before(t)
            torch.sub(x, before, alpha=spec.lateral_scale, out=residual)
            dictionary.weigh_(residual)
            current = dictionary.project(residual) if self._is_close_to_clamp(t) else None
            neurons.go_back(t, current, zeros, g)
            if self.needed["weight"] and slot == 0:
                n = min(BATCHED, spec.steps - t)
                dictionary.add_gradient(residuals[:n].flatten(0, 1), gs[:n].flatten(0, 1))
                counts = self.counts[t : t + n].flatten(0, 1)
                dictionary.add_gradient_of_spikes(errors[:n].flatten(0, 1), counts)
            first = t == 0
            if not first or self.needed["x"] or self.needed["spk"] or bool(spec.spk.any()):
                sent_back = dictionary.decode(g)
                self._at(x_grad, t).add_(sent_back)
        return self._finish(neurons, x_grad, sent_back)

    def _finish(
        self, neurons: PlainNeurons | NativeNeurons, x_grad: Tensor, sent_back: Tensor | None
    ) -> dict[str, Tensor]:
        spec, dictionary = self.spec, self.dictionary
        spk_grad = torch.zeros_like(spec.spk)
        if sent_back is not None and (self.needed["spk"] or bool(spec.spk.any())):
            # What spikes of the initial state leave.
            first = -spec.lateral_scale * sent_back
            dictionary.weigh_(first)
            spk_grad = dictionary.project(first)
            dictionary.add_gradient(first, spec.spk)
        h_sum, step_sum = neurons.sums()
        return {
            "x": x_grad,
            "weight": dictionary.gradient(),
            "spk": spk_grad,
            "mem": neurons.mem_grad,
            "step_size": (step_sum / spec.step_size).to(spec.step_size.dtype),
            "bias": -spec.step_size * h_sum,
            "mem_rest": spec.step_size * spec.leak * h_sum.sum(0),
        }

    def _at(self, grad: Tensor, t: int) -> Tensor:
        """The part of the gradient of x that timestep t adds to."""
        return grad[t] if self.spec.x.ndim == 5 else grad

    def _decoded_before(self, t: int) -> Tensor:
        if t:
            return self.decoded[t - 1]
        return self.dictionary.decode(self.spec.spk)

    def _is_close_to_clamp(self, t: int) -> bool:
        """Whether du'/dh may be so small that it cannot be computed from membranes alone."""
        mem, before = self.mems[t], self.mems[t - 1] if t else self.spec.mem
        epsilon = math.exp(-self.spec.clamp)
        rate, grown = (float(v.max().exp()) for v in (mem, mem - before))
        return epsilon * (rate + grown) >= CLOSE_TO_CLAMP

    def _recorded(self, name: str, t: int, grads: dict[str, Tensor | None]) -> Tensor | None:
        """Gradient of the recorded spikes or membranes of timestep t, if any."""
        found: Tensor | None = None
        every, recorded, last = self.spec.every, grads[name], grads[f"last_{name}"]
        if recorded is not None and (t + 1) % every == 0:
            found = recorded[t // every]
        if last is not None and t + 1 == self.spec.steps:
            found = last if found is None else found + last
        return found
