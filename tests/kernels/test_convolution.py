"""Inference under a convolutional decoder equals that under the dense, unrolled dictionary."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import conv_transpose2d, pad

from ipvae_snn import surrogate
from ipvae_snn.kernels import convolution, equations, native
from ipvae_snn.kernels.convolution import MapSpec, from_cells, infer_maps, to_cells

K, B, T = 3, 2, 4
CLAMP = 5.0
GEOMETRIES = [  # kernel, stride, channels, image
    ((5, 5), (2, 2), 1, (7, 9)),
    ((4, 4), (2, 2), 3, (8, 8)),
    ((3, 3), (1, 1), 1, (5, 4)),
    ((8, 5), (4, 3), 2, (11, 10)),
    ((3, 4), (3, 4), 1, (7, 7)),
    ((16, 16), (4, 4), 3, (20, 18)),
    ((1, 6), (1, 2), 1, (1, 15)),
]


def unrolled(weight, stride, size, latents=K):
    """Every feature at every place as an image, (M, h w K), and (h, w): an own implementation."""
    cells = [-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True)]
    places = [-(-n // s) + q - 1 for n, s, q in zip(size, stride, cells, strict=True)]
    unit = torch.eye(math.prod(places) * latents, dtype=weight.dtype)
    canvas = conv_transpose2d(
        unit.unflatten(1, (*places, latents)).movedim(-1, 1), weight, stride=stride
    )
    canvas = pad(canvas, (0, cells[1] * stride[1], 0, cells[0] * stride[0]))
    top, left = ((q - 1) * s for q, s in zip(cells, stride, strict=True))
    return canvas[..., top : top + size[0], left : left + size[1]].flatten(1).mT, places


class Problem:
    """Random weights, images and states; everything that needs a gradient is in ``tensors``."""

    def __init__(self, geometry, dtype, *, moving=False, lateral_scale=1.0, leak=0.0):
        self.kernel, self.stride, channels, self.size = geometry
        self.lateral_scale, self.leak = lateral_scale, leak
        torch.manual_seed(0)
        weight = 0.3 * torch.randn(K, channels, *self.kernel, dtype=torch.float64)
        self.places = unrolled(weight, self.stride, self.size)[1]
        state = (B, *self.places, K)
        made = {
            "weight": weight,
            "log_scale": 0.2 * torch.randn(channels),
            "x": torch.randn(*((T, B) if moving else (B,)), channels, *self.size),
            "bias": 0.3 * torch.rand(K),
            "step": torch.tensor(0.3),
            "rest": 0.5 * torch.randn(K),
            "mem": 0.5 * torch.randn(state),
            "spk": torch.poisson(torch.full(state, 0.3)),
        }
        self.tensors = {name: v.to(dtype).requires_grad_() for name, v in made.items()}

    def spec(self, estimator, law="poisson", **changes):
        t = self.tensors
        scale = t["log_scale"].exp().view(-1, 1, 1)
        weight = to_cells(t["weight"] / scale, self.stride)
        mask = to_cells(torch.ones(t["x"].shape[-3:], dtype=t["x"].dtype), self.stride)
        variance = convolution.project(mask[None], weight.square())[0].flatten(0, 1)
        options = {
            "x": to_cells(t["x"] / scale, self.stride), "weight": weight, "spk": t["spk"],
            "mem": t["mem"], "step_size": t["step"], "bias": t["bias"] + 0.5 * variance,
            "mem_rest": t["rest"], "mask": None if mask.all() else mask,
            "lateral_scale": self.lateral_scale, "leak": self.leak, "clamp": CLAMP,
            "estimator": estimator, "law": law, "slope": "midpoint", "steps": T,
            "fields": ("spk", "mem", "nll", "kl"),
        }  # fmt: skip
        return MapSpec(**{**options, **changes})

    def objective(self, out):
        """Of all fields, so that a gradient flows through each."""
        dtype = out.nll.dtype
        by_step = torch.linspace(0.5, 1, T, dtype=dtype)[:, None]
        by_neuron = torch.linspace(0, 1, K, dtype=dtype)
        return (
            (out.nll * by_step).sum() + 2 * out.kl.sum() + (out.spk * by_neuron).sum()
            + 0.1 * out.mem.square().sum() + out.last_mem.sum()
        )  # fmt: skip

    def dense(self, counts):
        """The same objective by autograd in float64, of given counts (T, B, h, w, K)."""
        tensors = {n: v.detach().double().requires_grad_() for n, v in self.tensors.items()}
        weight, log_scale, x, bias, step, rest, mem, spk = tensors.values()
        phi, _ = unrolled(weight, self.stride, self.size)
        precision = (-2 * log_scale).exp().repeat_interleave(math.prod(self.size))
        places = math.prod(self.places)
        tonic = bias.repeat(places) + 0.5 * (phi.square() * precision[:, None]).sum(0)
        mem, spk, rows = mem.flatten(1), spk.flatten(1), []
        for t, z in enumerate(counts.double().flatten(2)):
            image = (x[t] if x.ndim == 5 else x).flatten(1)
            current = (image - self.lateral_scale * spk @ phi.mT) * precision @ phi - tonic
            change = step * (current - self.leak * (mem - rest.repeat(places)))
            before, mem = (
                mem,
                equations.soft_clamp(mem + equations.soft_clamp(change, CLAMP), CLAMP),
            )
            slope = ((z + mem.exp()) / 2).detach()
            spk = z + slope * (mem - mem.detach())
            error = image - spk @ phi.mT
            shape = (B, *self.places, K)
            nll = 0.5 * (error.square() * precision).sum(1)
            kl = equations.poisson_kl(mem, before).sum(1)
            rows.append((spk.view(shape), mem.view(shape), nll, kl))
        fields = [torch.stack(column) for column in zip(*rows, strict=True)]
        out = convolution.MapResult(*fields, last_spk=fields[0][-1], last_mem=fields[1][-1])
        loss = self.objective(out)
        return loss, dict(zip(tensors, torch.autograd.grad(loss, tensors.values()), strict=True))


class Known(surrogate.midpoint):
    """Draws by torch, so that the plain operations run."""

    law = "own"

    def draw(self, mem):
        return torch.poisson(mem.detach().exp())


WAYS = {"published": {}, "leaky": {"leak": 0.3, "lateral_scale": 0.8}, "moving": {"moving": True}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_the_unrolled_dictionary(geometry, dtype, way):
    problem = Problem(geometry, dtype, **WAYS[way])
    known = dtype == torch.float64
    out = infer_maps(
        problem.spec(Known() if known else surrogate.midpoint(), "own" if known else "poisson")
    )
    loss, expected = problem.dense(out.spk.detach())
    tolerance = 1e-12 if known else 1e-4
    found = problem.objective(out)
    assert found.item() == pytest.approx(loss.item(), rel=tolerance)
    grads = torch.autograd.grad(found, problem.tensors.values())
    for name, grad in zip(problem.tensors, grads, strict=True):
        largest = expected[name].abs().max()
        torch.testing.assert_close(
            grad.double(), expected[name], rtol=0, atol=float(10 * tolerance * largest), msg=name
        )


def test_cells_and_back():
    images = torch.randn(2, 3, 7, 10)
    for stride in ((1, 1), (2, 3), (4, 5), (7, 10), (8, 11)):
        cells = to_cells(images, stride)
        assert torch.equal(from_cells(cells, stride, (7, 10)), images)
        assert cells.shape[1] == 3 * math.prod(stride)


def test_saturated_membranes_have_exact_gradients():
    """At the clamp, what changes the membrane is recomputed."""
    problem = Problem(GEOMETRIES[0], torch.float32)
    problem.tensors["mem"] = (4.9 + 0 * problem.tensors["mem"]).detach().requires_grad_()
    problem.tensors["x"] = (40 * problem.tensors["x"]).detach().requires_grad_()
    out = infer_maps(problem.spec(surrogate.midpoint()))
    assert out.mem.max() > 4.9
    _, expected = problem.dense(out.spk.detach())
    grads = torch.autograd.grad(problem.objective(out), problem.tensors.values())
    for name, grad in zip(problem.tensors, grads, strict=True):
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(
            grad.double(), expected[name], rtol=0, atol=2e-3 * largest, msg=name
        )


@pytest.mark.parametrize("estimator", [surrogate.rounded(), surrogate.midpoint()], ids=repr)
def test_compiled_and_plain_operations_agree(estimator):
    problem = Problem(GEOMETRIES[1], torch.float32, leak=0.2)
    law = estimator.law
    for tensor in problem.tensors.values():
        tensor.requires_grad_(False)
    spec = problem.spec(estimator, law, slope=estimator.slope_kind)
    if not native.available():
        pytest.skip(native.unavailable_reason())
    compiled, plain = convolution.NativeNeurons(spec), convolution.PlainNeurons(spec)
    current = torch.randn_like(spec.mem)

    def advanced(neurons):
        state = convolution.MapState(
            spec.spk.clone(), spec.mem.clone(), torch.empty(spec.mem.shape[:3])
        )
        (part,) = neurons.parts()
        neurons.advance(0, current, state, part)
        return state

    found, expected = advanced(compiled), advanced(plain)
    torch.testing.assert_close(found.mem, expected.mem, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.kl, expected.kl, rtol=1e-4, atol=1e-6)
    if law == "rounded":
        assert torch.equal(found.spk, expected.spk)


@pytest.mark.parametrize("largest", [1, 100, 700, 10**9])
def test_parts_cover_a_map_once(largest, monkeypatch):
    monkeypatch.setattr(convolution, "LARGEST_PART", largest)
    times = torch.zeros(3, 7, 5, 4)
    for part in convolution.parts_of(times.shape):
        seen = part.of(times)
        assert seen.is_contiguous()
        assert seen.numel() <= max(largest, 5 * 4)
        seen += 1
    assert torch.equal(times, torch.ones_like(times))


def test_draws_depend_on_the_number_of_a_place_alone():
    if not native.available():
        pytest.skip(native.unavailable_reason())
    problem = Problem(GEOMETRIES[1], torch.float32)
    places = math.prod(problem.places)
    numbers = torch.randperm(1000)[: B * places]

    def drawn(ids):
        estimator = surrogate.midpoint(generator=torch.Generator().manual_seed(1))
        spec = problem.spec(estimator, row_ids=ids, lateral_scale=0.0, steps=1)
        spec = replace(spec, x=torch.zeros_like(spec.x), bias=spec.bias * 0)
        spec = replace(spec, mem=torch.full_like(spec.mem, 1.0))
        with torch.no_grad():
            return infer_maps(spec).last_spk.reshape(-1, K)

    order = torch.randperm(B * places)
    assert torch.equal(drawn(numbers)[order], drawn(numbers[order]))


def test_memory_of_a_run_without_a_record_is_that_of_one_timestep():
    problem = Problem(GEOMETRIES[0], torch.float32)
    with torch.no_grad():
        out = infer_maps(problem.spec(surrogate.midpoint(), fields=(), steps=50))
    assert (out.spk, out.mem, out.nll, out.kl) == (None, None, None, None)


def test_second_derivatives_are_refused():
    problem = Problem(GEOMETRIES[0], torch.float32)
    out = infer_maps(problem.spec(surrogate.midpoint()))
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(problem.objective(out), problem.tensors["weight"], create_graph=True)


@pytest.mark.parametrize(
    ("latents", "depth", "cells"),
    [(3, 1, (1, 1)), (70, 16, (4, 4)), (5, 3, (2, 3)), (64, 20, (3, 1))],
)
def test_the_sum_over_spikes_is_the_convolution(latents, depth, cells):
    if not native.available():
        pytest.skip(native.unavailable_reason())
    torch.manual_seed(0)
    weight = torch.randn(latents, depth, *cells)
    spk = torch.poisson(torch.full((2, 9, 7, latents), 0.3))
    expected = convolution.decode(spk, weight)
    rows = native.padded_rows(weight)
    found = native.decode_map(spk, rows, cells[1], depth).movedim(-1, 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    # A part of the map gives the same cells, to the last bit.
    part = spk[1:, 2:8, 1:].contiguous()
    some = native.decode_map(part, rows, cells[1], depth).movedim(-1, 1)
    assert torch.equal(some, found[1:, :, 2 : 2 + some.shape[2], 1 : 1 + some.shape[3]])
