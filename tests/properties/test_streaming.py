"""A stream equals a run, frame by frame, and a refused call leaves its state unchanged."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ipvae_snn import IPVAE, IPVAENeuron, Stream, surrogate
from tests.properties.common import (
    FLOATS,
    REFUSED,
    anything,
    attempt,
    awkward,
    counts,
    finite,
    mostly,
    ordinary,
    tensors,
)

M, K = 4, 3
num_steps_values = mostly(
    st.integers(1, 4), anything.filter(lambda n: not isinstance(n, int) or n < 9)
)


def make(kind, **options):
    torch.manual_seed(0)
    return IPVAE(M, K, **options) if kind == "model" else IPVAENeuron(K, **options)


def state_of(stream):
    return lambda: (*stream.state, torch.tensor(stream.timestep), stream._spec.drive.clone())


@given(
    kind=st.sampled_from(["model", "neuron"]),
    frames=st.lists(
        mostly(st.none() | tensors((M,), dtypes=FLOATS) | tensors((K,), dtypes=FLOATS), awkward),
        max_size=4,
    ),
    num_steps=num_steps_values,
)
def test_frames_are_accepted_or_refused(kind, frames, num_steps):
    stream = Stream(make(kind), seed=0)
    for frame in frames:
        before = stream.timestep
        out = attempt(lambda frame=frame: stream.push(frame, num_steps), state_of(stream))
        if out is not REFUSED:
            assert out.spk.shape == out.mem.shape == (K,)
            assert counts(out.spk)
            assert finite(out.mem)
            assert stream.timestep == before + num_steps


@given(frames=ordinary((5, M)), scale=st.sampled_from([0.01, 0.3, 3.0]))
def test_a_stream_equals_a_run(frames, scale):
    model = make("model", spike_grad=surrogate.rounded(), init_std=scale)
    run = model.run(frames[:, None])
    stream = Stream(model)
    for t, frame in enumerate(frames):
        _, mem = stream.push(frame)
        assert torch.allclose(mem, run.mem[t, 0], atol=1e-3)


@given(
    state=mostly(
        st.tuples(*[mostly(ordinary((K,), least=0), awkward)] * 2),
        awkward | st.tuples(awkward, awkward),
    )
)
def test_states_are_accepted_or_refused(state):
    stream = Stream(make("model"), seed=0)
    stream.push(torch.ones(M))

    def assign():
        stream.state = state

    if attempt(assign, state_of(stream)) is not REFUSED:
        spk, mem = stream.push(torch.ones(M), 2)
        assert counts(spk)
        assert finite(mem)


@given(
    model=mostly(st.sampled_from(["model", "neuron"])),
    seed=mostly(st.none() | st.integers(0, 3)),
    estimator=st.sampled_from(list(surrogate.ESTIMATORS.values())),
)
def test_models_and_seeds_are_accepted_or_refused(model, seed, estimator):
    if isinstance(model, str) and model in ("model", "neuron"):
        model = make(model, spike_grad=estimator())
    stream = attempt(lambda: Stream(model, seed=seed))
    if stream is not REFUSED:
        first = stream.push(num_steps=3)
        stream.reset()
        assert stream.timestep == 0
        assert counts(first.spk)
        assert finite(first.mem)


def test_numpy_integers_are_accepted_as_num_steps():
    stream = Stream(IPVAE(2, 3), seed=0)
    for _ in range(70):
        stream.push(num_steps=np.uint8(4))
    assert stream.timestep == 280
