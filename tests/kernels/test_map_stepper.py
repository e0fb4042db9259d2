"""Sums of events over a map are the convolutions, borders included."""

import pytest
import torch

from ipvae_snn import surrogate
from ipvae_snn.kernels import native
from ipvae_snn.kernels.convolution import Dictionary, infer_maps
from ipvae_snn.kernels.map_stepper import MapStepper
from tests.kernels.test_convolution import GEOMETRIES, Problem

if not native.available():
    pytest.skip(native.unavailable_reason(), allow_module_level=True)

SIZES = [((4, 4), (2, 2), 1, size) for size in ((1, 1), (1, 9), (2, 2), (3, 8), (9, 30), (20, 5))]


def assert_one_current(stepper):
    expected = stepper.dense_current()
    atol = 2e-6 * float(expected.abs().max())
    torch.testing.assert_close(stepper.current_of_events(), expected, rtol=0, atol=atol)


def one_image(geometry, **options):
    problem = Problem(geometry, torch.float32, **options)
    spec = problem.spec(surrogate.rounded(), "rounded", steps=1)
    for name in ("x", "spk", "mem"):
        setattr(spec, name, getattr(spec, name)[:1].detach().contiguous())
    spec.weight = spec.weight.detach()
    for name in ("step_size", "bias", "mem_rest"):
        setattr(spec, name, getattr(spec, name).detach())
    spec.row_ids = None
    return spec


@pytest.mark.parametrize("geometry", GEOMETRIES + SIZES, ids=str)
@pytest.mark.parametrize("lateral_scale", [1.0, 0.7])
def test_both_forms_give_one_current(geometry, lateral_scale):
    stepper = MapStepper(one_image(geometry, lateral_scale=lateral_scale))
    assert stepper.state.spk.any()
    if any(n > side for n, side in zip(stepper.edges, stepper.x.shape[-2:], strict=True)):
        assert stepper.most_events == -1  # all places are at an edge
    else:
        assert_one_current(stepper)


@pytest.mark.parametrize("most_events", [-1, 10**9])
def test_timesteps_are_those_of_a_run(most_events):
    spec = one_image(GEOMETRIES[1])
    stepper = MapStepper(spec)
    stepper.most_events = most_events
    spec.steps = 5
    with torch.no_grad():
        expected = infer_maps(spec)
    for _ in range(5):
        stepper.advance()
    torch.testing.assert_close(stepper.state.mem, expected.last_mem, rtol=1e-4, atol=1e-4)
    assert torch.equal(stepper.state.spk, expected.last_spk)


def test_another_image_has_another_drive():
    stepper = MapStepper(one_image(GEOMETRIES[0]))
    stepper.current_of_events()
    stepper.show(2 * stepper.x)
    assert_one_current(stepper)


@pytest.mark.parametrize("events", [2, 3])
def test_events_are_summed_where_they_are_few(events, monkeypatch):
    spec = one_image(GEOMETRIES[1])
    spec.spk = torch.zeros_like(spec.spk)
    spec.spk.view(-1)[:events] = 4.0
    stepper, taken = MapStepper(spec), []
    stepper.most_events = 2
    for name in ("current_of_events", "dense_current"):
        plain = getattr(stepper, name)
        monkeypatch.setattr(stepper, name, lambda n=name, f=plain: taken.append(n) or f())
    stepper.advance()
    assert taken == ["current_of_events" if events == 2 else "dense_current"]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_gradient_of_features_is_a_sum_over_spikes(geometry, dtype):
    spec = one_image(geometry)
    counts = torch.poisson(torch.full((3, *spec.spk.shape[1:]), 0.5))
    cells = torch.randn(3, *spec.x.shape[1:])
    found = native.MapGradientSum(spec.weight)
    dense = Dictionary(spec.weight, None)
    for scale in (1.0, 0.5):
        found.add(scale * cells, counts.to(dtype))
        dense.add_gradient(scale * cells, counts)
    torch.testing.assert_close(found.gradient(), dense.gradient(), rtol=1e-4, atol=1e-4)
