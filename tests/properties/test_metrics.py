"""Metrics stay within their bounds, or the call is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, metrics
from tests.properties.common import (
    FLOATS,
    REFUSED,
    anything,
    attempt,
    awkward,
    finite,
    mostly,
    numbers,
    ordinary,
    sizes,
    tensors,
)

ones = torch.ones
pair = mostly(st.tuples(*[tensors((3, 4), dtypes=FLOATS)] * 2), st.tuples(awkward, awkward))
spikes = mostly(tensors((3, 4), dtypes=FLOATS, least=0, most=4), tensors(dtypes=FLOATS) | awkward)


def bounded(value, least=-math.inf, most=math.inf):
    if value is REFUSED:
        return
    assert finite(value)
    assert bool(((value >= least - 1e-3) & (value <= most + 1e-3)).all())


@given(both=pair)
def test_reconstruction(both):
    x, x_hat = both
    bounded(attempt(lambda: metrics.r2(x, x_hat)), most=1)
    bounded(attempt(lambda: metrics.r2_per_sample(x, x_hat)), most=1)
    bounded(attempt(lambda: metrics.mse(x, x_hat)), least=0)
    bounded(attempt(lambda: metrics.mse_per_dim(x, x_hat)), least=0)


@given(x=ordinary((3, 4)), noise=ordinary((3, 4)))
def test_reconstruction_in_double_precision(x, noise):
    wide, far = x.detach().double(), (x + noise).detach().double()
    expected = 1 - (wide - far).square().sum(1) / (wide - wide.mean(1, keepdim=True)).square().sum(
        1
    )
    result = metrics.r2_per_sample(x, x + noise).double()
    blank = wide.amax(1) == wide.amin(1)
    assert torch.allclose(result[~blank], expected[~blank], rtol=1e-3, atol=1e-3)
    assert bool((metrics.r2_per_sample(x, x) == 1).all())


@given(spk=spikes)
def test_sparsity(spk):
    for metric in (metrics.zeros, metrics.lifetime_sparsity, metrics.population_sparsity):
        value = attempt(lambda metric=metric: metric(spk))
        if value is not REFUSED and bool((spk >= 0).all()):
            bounded(value, 0, 1)
        elif value is not REFUSED:
            assert finite(value)


@given(responses=spikes, angles=mostly(ordinary((3,)), awkward))
def test_tuning(responses, angles):
    for metric in (metrics.selectivity, metrics.by_selectivity, metrics.by_use):
        bounded(attempt(lambda metric=metric: metric(responses)), least=0)
    tuned = attempt(lambda: metrics.orientation_tuning(responses, angles))
    if tuned is not REFUSED:
        bounded(tuned[0], 0, 180)
        bounded(tuned[1], 0, 1)


@given(
    weight=mostly(tensors((16, 2), dtypes=FLOATS), awkward),
    shape=mostly(
        st.just((4, 4)), anything | st.tuples(sizes, sizes) | st.tuples(anything, anything)
    ),
)
def test_spectra(weight, shape):
    tuned = attempt(lambda: metrics.feature_tuning(weight, shape))
    if tuned is not REFUSED:
        assert finite(*tuned)
        bounded(tuned[2], 0, 1)
    bounded(attempt(lambda: metrics.by_tuning(weight, shape)), least=0)
    images = weight.mT if isinstance(weight, torch.Tensor) and weight.ndim == 2 else weight
    spectrum = attempt(lambda: metrics.radial_spectrum(images, shape))
    if spectrum is not REFUSED:
        bounded(spectrum, least=0)


@given(
    spk=mostly(tensors((5,), dtypes=FLOATS, least=0), spikes),
    signal=mostly(ordinary((5, 2)), awkward),
    before=mostly(st.integers(0, 3)),
    after=mostly(st.integers(0, 3)),
)
def test_spike_triggered(spk, signal, before, after):
    average = attempt(lambda: metrics.spike_triggered(spk, signal, before=before, after=after))
    if average is not REFUSED:
        assert len(average) == before + 1 + after
        assert finite(average)
        if bool((spk >= 0).all()) and finite(signal):
            slack = 0.05 * float(signal.detach().double().abs().max()) + 1e-3
            bounded(
                average, float(signal.detach().min()) - slack, float(signal.detach().max()) + slack
            )


@given(
    r2=mostly(
        st.floats(-2, 1) | st.lists(st.floats(-2, 1), min_size=60, max_size=70), anything | awkward
    ),
    zeros=mostly(numbers),
    length=st.integers(55, 80),
)
def test_curves(r2, zeros, length):
    distance = attempt(lambda: metrics.rate_distortion_distance(r2, zeros))
    if distance is not REFUSED:
        assert math.isfinite(distance)
        assert distance >= 0
    step = attempt(lambda: metrics.convergence_step(r2))
    assert step in (REFUSED, None) or 1 <= step <= len(r2)
    assert metrics.convergence_step([0.5] * length) == (60 if length >= 64 else None)


@given(
    train=mostly(ordinary((4, 3)), awkward),
    labels=mostly(st.just(torch.tensor([0, 1, 0, 1])), awkward),
    test=mostly(ordinary((2, 3)), awkward),
    test_labels=mostly(st.just(torch.tensor([0, 1])), awkward),
)
def test_probe(train, labels, test, test_labels):
    accuracy = attempt(lambda: metrics.probe_accuracy(train, labels, test, test_labels))
    assert accuracy is REFUSED or 0 <= accuracy <= 1


@given(
    x=mostly(ordinary((2, 4)) | ordinary((3, 2, 4)), awkward | tensors((2, 4), dtypes=FLOATS)),
    num_steps=mostly(
        st.none() | st.integers(1, 3), anything.filter(lambda n: not isinstance(n, int))
    ),
    seed=mostly(st.none() | st.integers(0, 3)),
    kind=mostly(st.sampled_from(["model", "network"]), st.sampled_from(["odd", "nothing"])),
)
def test_synops(x, num_steps, seed, kind):
    torch.manual_seed(0)
    network = {
        "model": lambda: IPVAE(4, 3),
        "network": lambda: nn.Sequential(nn.Linear(4, 3), IPVAENeuron(3, init_hidden=True)),
        "odd": lambda: nn.Sequential(nn.Bilinear(4, 4, 3)),
        "nothing": lambda: None,
    }[kind]()
    if kind == "network" and isinstance(x, torch.Tensor) and x.shape[-1:] != (4,):
        return  # the error comes from the network itself
    cost = attempt(lambda: metrics.synops(network, x, num_steps, seed=seed), network)
    if cost is not REFUSED:
        whole = cost.per_image
        for name in ("spikes", "events", "synops", "macs", "updates", "dense"):
            value = getattr(whole, name)
            assert math.isfinite(value)
            assert value >= 0
        assert whole.events <= whole.spikes
        assert str(cost)


INVALID_CALLS = {
    "R² of NaN": lambda: metrics.r2(torch.full((2, 3), math.nan), ones(2, 3)),
    "R² beyond float32": lambda: metrics.r2(torch.rand(2, 3), torch.full((2, 3), 1e38)),
    "zeros of NaN": lambda: metrics.zeros(torch.full((2, 3), math.nan)),
    "by_use of a scalar": lambda: metrics.by_use(ones(())),
    "by_use of no neurons": lambda: metrics.by_use(ones(2, 0)),
    "labels are None": lambda: metrics.probe_accuracy(ones(2, 2), None, ones(2, 2), None),
    "one label": lambda: metrics.probe_accuracy(
        ones(2, 2), torch.tensor([1, 1]), ones(2, 2), torch.tensor([1, 1])
    ),
    "rate-distortion distance of NaN": lambda: metrics.rate_distortion_distance(math.nan, 0.5),
    "convergence step of objects": lambda: metrics.convergence_step([object()]),
    "negative spikes": lambda: metrics.spike_triggered(-ones(3), ones(3)),
    "synops of another dtype": lambda: metrics.synops(
        nn.Sequential(nn.Linear(2, 3), IPVAENeuron(3, init_hidden=True)), ones(1, 2).double(), 2
    ),
}


@pytest.mark.parametrize("call", INVALID_CALLS.values(), ids=INVALID_CALLS)
def test_invalid_calls_are_refused(call, assert_refused):
    assert_refused(call)


def test_numpy_integers_are_accepted_as_windows():
    four = np.uint8(4)
    spk = torch.tensor([0.0, 0, 0, 0, 1, 0, 0, 0, 0])
    assert len(metrics.spike_triggered(spk, spk, before=four, after=four)) == 9


def test_feature_tuning_in_half_and_double_precision():
    tuned = metrics.feature_tuning(torch.rand(16, 2).half(), (4, 4))
    assert all(bool(values.isfinite().all()) for values in tuned)
    wide = metrics.feature_tuning(torch.rand(16, 2).double(), (4, 4))
    assert all(values.dtype == torch.float64 for values in wide)
