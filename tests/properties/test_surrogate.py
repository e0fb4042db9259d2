"""Estimators: counts and slopes are finite for every finite membrane; options and configs."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipvae_snn import surrogate
from ipvae_snn.surrogate.relaxed import Relaxed
from tests.properties.common import (
    HUGE,
    REFUSED,
    anything,
    attempt,
    awkward,
    counts,
    finite,
    tensors,
)

MAKERS = list(surrogate.ESTIMATORS.values())
membranes = tensors(dtypes=(torch.float32, torch.float64, torch.float16, torch.bfloat16))


@pytest.mark.parametrize("make", MAKERS)
@given(mem=awkward)
def test_spikes_are_counts_or_refused(make, mem):
    estimator = make()
    for emit in (estimator, estimator.sample):
        spk = attempt(lambda emit=emit: emit(mem))
        if spk is REFUSED:
            assert not (isinstance(mem, torch.Tensor) and mem.is_floating_point() and finite(mem))
            continue
        assert (spk.shape, spk.dtype) == (mem.shape, mem.dtype)
        soft = emit is estimator and isinstance(estimator, Relaxed)
        assert finite(spk) if soft else counts(spk)
        assert bool((spk >= 0).all())


@pytest.mark.parametrize("make", MAKERS)
@given(mem=membranes)
def test_slopes_are_finite(make, mem):
    mem = mem.detach().requires_grad_()
    spk = attempt(lambda: make()(mem))
    if spk is not REFUSED:
        (slope,) = torch.autograd.grad(spk.sum(), mem)
        assert (slope.shape, slope.dtype) == (mem.shape, mem.dtype)
        assert finite(slope)


@given(mem=membranes)
def test_rounded_spikes_are_the_rounded_rate(mem):
    spk = attempt(lambda: surrogate.rounded()(mem))
    if spk is not REFUSED:
        top = min(16.0, math.log(torch.finfo(mem.dtype).max) - 0.5)
        rate = mem.detach().double().clamp(-30, top).exp()
        assert torch.allclose(spk.double(), rate, rtol=0.01, atol=0.501)


@pytest.mark.parametrize("make", MAKERS)
@given(name=st.sampled_from(["temp", "substeps", "indicator", "generator", "odd"]), value=anything)
def test_options_are_accepted_or_refused(make, name, value):
    config = {"name": make.__name__, name: value}
    estimator = attempt(lambda: surrogate.from_config(config))
    if estimator is not REFUSED:
        assert counts(attempt(lambda: estimator.sample(torch.zeros(3))))
        assert finite(attempt(lambda: estimator(torch.zeros(3))))
        assert surrogate.from_config(surrogate.to_config(estimator)) == estimator


@given(
    config=st.dictionaries(
        st.sampled_from(["name", "temp", "indicator", "substeps"]),
        anything | st.sampled_from(list(surrogate.ESTIMATORS)) | st.text(max_size=5),
    )
    | anything
)
def test_configs_are_read_or_refused(config):
    estimator = attempt(lambda: surrogate.from_config(config))
    if estimator is not REFUSED:
        assert finite(attempt(lambda: estimator(torch.zeros(3))))


@given(thing=anything)
def test_only_estimators_have_configs(thing):
    assert attempt(lambda: surrogate.to_config(thing)) is REFUSED


INVALID_CALLS = {
    "generator is a number": lambda: surrogate.midpoint(generator=0),
    "substeps beyond 2^64": lambda: surrogate.bernoulli(HUGE),
    "indicator is a list": lambda: surrogate.eat(indicator=[]),
    "name is a list": lambda: surrogate.from_config({"name": []}),
}


@pytest.mark.parametrize("call", INVALID_CALLS.values(), ids=INVALID_CALLS)
def test_invalid_calls_are_refused(call, assert_refused):
    assert_refused(call)
