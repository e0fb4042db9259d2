"""A recorder keeps the selected timesteps and neurons, changes nothing, and refuses bad options."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, Recorder
from tests.properties.common import REFUSED, anything, attempt, awkward, mostly, ordinary

ones = torch.ones


def make(kind):
    torch.manual_seed(0)
    if not isinstance(kind, str):
        return kind
    if kind == "model":
        return IPVAE(4, 3)
    if kind == "layers":
        return nn.Sequential(IPVAENeuron(3), IPVAENeuron(3))
    return nn.Linear(2, 2) if kind == "none" else kind


@given(
    kind=mostly(st.sampled_from(["model", "layers"]), anything | st.just("none")),
    record=mostly(st.sampled_from(["spk", "mem", ("spk", "mem"), ["mem"]]), anything | st.text()),
    every=mostly(st.integers(1, 4)),
    neurons=mostly(
        st.none() | st.lists(st.integers(0, 2), min_size=1, max_size=3),
        st.lists(st.integers(-1, 4), max_size=3) | awkward | anything,
    ),
)
def test_options_are_accepted_or_refused(kind, record, every, neurons):
    model = make(kind)
    recorder = attempt(lambda: Recorder(model, record, every=every, neurons=neurons))
    if recorder is REFUSED:
        if isinstance(model, nn.Module):
            assert not any(getattr(m, "observers", []) for m in model.modules())
        return
    with recorder:
        if isinstance(kind, str) and kind == "model":
            out = model.run(torch.rand(2, 4), 7, seed=0)
            recorded = attempt(lambda: recorder.spk)
            if recorded is not REFUSED:
                expected = out.spk[every - 1 :: every]
                expected = expected if neurons is None else expected[..., torch.as_tensor(neurons)]
                assert torch.equal(recorded, expected)
                (trace,) = recorder.traces.values()
                assert trace.steps == list(range(every, 8, every))
    assert not any(getattr(m, "observers", []) for m in model.modules())


@given(
    x=ordinary((2, 4)), num_steps=st.integers(1, 5), every=st.integers(1, 3), seed=st.integers(0, 9)
)
def test_recording_does_not_change_the_run(x, num_steps, every, seed):
    model = make("model")
    alone = model.run(x, num_steps, seed=seed)
    with Recorder(model, every=every) as recorder:
        watched = model.run(x, num_steps, seed=seed)
        again = model.run(x, num_steps, seed=seed)
    assert torch.equal(alone.spk, watched.spk)
    assert torch.equal(alone.mem, watched.mem)
    both = torch.cat([watched.mem, again.mem])[every - 1 :: every]
    recorded = attempt(lambda: recorder.mem)
    assert recorded is REFUSED if not len(both) else torch.equal(recorded, both.detach())


INVALID_CALLS = {
    "neurons are objects": lambda: Recorder(IPVAE(2, 3), neurons=object()),
    "neurons are complex": lambda: Recorder(IPVAE(2, 3), neurons=ones(1, dtype=torch.complex64)),
    "neurons are bool": lambda: Recorder(IPVAE(2, 3), neurons=torch.tensor([True])),
}


@pytest.mark.parametrize("call", INVALID_CALLS.values(), ids=INVALID_CALLS)
def test_invalid_calls_are_refused(call, assert_refused):
    assert_refused(call)
