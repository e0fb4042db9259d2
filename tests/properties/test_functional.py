"""The functions of the model against float64 references and their mathematical properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipvae_snn import functional as F
from tests.properties.common import (
    FLOATS,
    HUGE,
    REFUSED,
    anything,
    attempt,
    awkward,
    finite,
    numbers,
    ordinary,
    sizes,
    tensors,
)

ones = torch.ones


@st.composite
def linear(draw):
    """A batch, a decoder and log σ per pixel, of any size and memory layout."""
    batch, pixels, neurons = (draw(sizes) for _ in "BMK")
    dtype = draw(st.sampled_from(FLOATS[:2]))
    options = {"dtypes": (dtype,)}
    scale = draw(st.none() | ordinary((pixels,), **options))
    return (
        draw(ordinary((batch, pixels), **options)),
        draw(ordinary((pixels, neurons), **options)),
        scale,
    )


def close(result, reference, tolerance=1e-4):
    assert result.shape == reference.shape
    return torch.allclose(result.double(), reference, rtol=tolerance, atol=tolerance)


def to_float64(*tensors):
    return [None if t is None else t.detach().double() for t in tensors]


@given(parts=linear())
def test_gram_and_drive_equal_dense_products(parts):
    x, weight, scale = parts
    xs, weights, scales = to_float64(*parts)
    precision = torch.ones(len(weight)).double() if scale is None else torch.exp(-2 * scales)
    gram, drive = F.gram(weight, scale), F.drive(x, weight, scale)
    assert (gram.dtype, drive.dtype) == (weight.dtype, weight.dtype)
    assert close(gram, weights.T @ precision.diag() @ weights)
    assert close(drive, xs @ precision.diag() @ weights)
    assert torch.equal(gram, gram.mT) or close(gram, gram.mT.double())
    energy = F.input_energy(x, scale)
    assert close(energy, xs.square() @ precision)


@given(parts=linear())
def test_drive_is_equivariant_to_the_order_of_samples(parts):
    x, weight, scale = parts
    assert torch.allclose(
        F.drive(x.flip(0), weight, scale).flip(0), F.drive(x, weight, scale), atol=1e-4
    )


@given(parts=linear())
def test_both_forms_of_the_likelihood_agree(parts):
    x, weight, scale = to_float64(*parts)
    spk = torch.randint(0, 4, (len(x), weight.shape[1])).double()
    constant = F.nll_constant(len(weight), scale)
    by_pixels = F.gaussian_nll(x - spk @ weight.mT, scale)
    by_spikes = F.gaussian_nll_gram(
        spk,
        spk @ F.gram(weight, scale),
        F.drive(x, weight, scale),
        F.input_energy(x, scale),
        constant,
    )
    # For precisions of e^6 the terms are large and cancel.
    assert torch.allclose(by_pixels, by_spikes, rtol=1e-9, atol=1e-7)
    assert bool((by_pixels >= constant - 1e-9).all())


@given(v=tensors(dtypes=FLOATS), clamp=st.none() | st.floats(-7, 16))
def test_soft_clamp_stays_within_its_bounds(v, clamp):
    result = F.soft_clamp(v, clamp)
    assert (result.shape, result.dtype) == (v.shape, v.dtype)
    if clamp is not None and finite(v):
        assert finite(result)
        slack = 0.1 if v.dtype in FLOATS[2:] else 1e-4
        assert bool((result <= clamp + slack).all())
        assert bool((result >= clamp - math.log1p(math.exp(clamp + 8)) - slack).all())


@given(
    values=st.tuples(*[ordinary((3, 2), least=-8, most=16, dtypes=FLOATS[:2])] * 2),
    form=st.sampled_from(["exact", "published"]),
)
def test_kl_is_never_negative(values, form):
    mem, prior = values
    kl = F.poisson_kl(mem, prior, form)
    rates, priors = (v.detach().double().exp() for v in (mem, prior))
    exact = rates * (mem.detach().double() - prior.detach().double()) - rates + priors
    reference = exact if form == "exact" else exact * rates / priors
    assert finite(kl)
    assert bool((kl >= 0).all())
    assert torch.allclose(kl.double(), reference, rtol=1e-3, atol=1e-3 * float(rates.max()))
    assert bool((F.poisson_kl(mem, mem, form) == 0).all())


@given(
    parts=st.tuples(*[ordinary((2, 3), least=-8, most=8)] * 3),
    step=st.floats(1e-6, 2),
    leak=st.floats(0, 1),
    clamp=st.none() | st.floats(-7, 16),
)
def test_membrane_step_equals_its_formula(parts, step, leak, clamp):
    mem, drive, inhibition = parts
    result = F.membrane_step(
        mem, drive, inhibition, step=step, bias=0.1, leak=leak, mem_rest=-1.0, clamp=clamp
    )
    u, d, z = to_float64(*parts)
    h = step * (d - z - 0.1 - leak * (u + 1))
    assert close(result, F.soft_clamp(u + F.soft_clamp(h, clamp), clamp), 1e-3)


@given(weight=awkward, other=awkward, third=awkward | st.none())
def test_arguments_are_accepted_or_refused(weight, other, third):
    for call in (
        lambda: F.gram(weight, third),
        lambda: F.drive(other, weight, third),
        lambda: F.drive_weight(weight, third),
        lambda: F.gaussian_nll(weight, third),
        lambda: F.input_energy(weight, third),
        lambda: F.bound_log_scale(weight),
        lambda: F.poisson_kl(weight, other),
        lambda: F.soft_clamp(weight, 5.0),
        lambda: F.membrane_step(weight, other, other),
        lambda: F.free_energy(weight, other, 1.0, 4),
    ):
        result = attempt(call)
        assert result is REFUSED or result.is_floating_point()


@given(clamp=anything, form=anything, number=numbers | st.sampled_from([0, 1, 256]))
def test_options_are_accepted_or_refused(clamp, form, number):
    v = torch.tensor([-50.0, 0.0, 50.0])
    for call in (
        lambda: F.soft_clamp(v, clamp),
        lambda: F.poisson_kl(v, v, form),
        lambda: F.free_energy(v[None], v[None], 1.0, number),
    ):
        result = attempt(call)
        assert result is REFUSED or result.is_floating_point()


INVALID_CALLS = {
    "gram of a vector": lambda: F.gram(ones(3)),
    "drive with another number of pixels": lambda: F.drive(ones(2, 3), ones(4, 2)),
    "drive of another dtype": lambda: F.drive(ones(2, 4).double(), ones(4, 2)),
    "nll with another number of pixels": lambda: F.gaussian_nll(ones(2, 3), ones(2)),
    "KL of different shapes": lambda: F.poisson_kl(ones(2), ones(3)),
    "membrane step of different shapes": lambda: F.membrane_step(ones(2), ones(3), ones(2)),
    "soft clamp of complex": lambda: F.soft_clamp(ones(2, dtype=torch.complex64), 1.0),
    "soft clamp at 10^400": lambda: F.soft_clamp(ones(2), HUGE),
    "free energy of 0 pixels": lambda: F.free_energy(ones(1, 1), ones(1, 1), 1.0, 0),
}


@pytest.mark.parametrize("call", INVALID_CALLS.values(), ids=INVALID_CALLS)
def test_invalid_calls_are_refused(call, assert_refused):
    assert_refused(call)
