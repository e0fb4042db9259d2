"""One neuron layer: timesteps, sequences, state, options and currents, for any arguments."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAENeuron, currents, surrogate
from tests.properties.common import (
    FLOATS,
    HUGE,
    REFUSED,
    anything,
    attempt,
    awkward,
    counts,
    finite,
    mostly,
    ordinary,
    sizes,
    tensors,
)

K = 3
ones = torch.ones
inputs = mostly(
    ordinary((2, K)) | ordinary((2, K), least=-1e4, most=1e4),
    awkward | tensors((2, K), dtypes=FLOATS) | tensors((K,), dtypes=FLOATS),
)
states = mostly(st.none() | ordinary((2, K), least=0), awkward | tensors((2, K), dtypes=FLOATS))


def state_of(neuron):
    return lambda: (neuron.spk.detach().clone(), neuron.mem.detach().clone(), neuron._fresh)


def assert_valid(neuron, spk, mem, shape):
    assert spk.shape == mem.shape == shape
    assert spk.dtype == mem.dtype == neuron.mem_init.dtype
    assert finite(mem)
    assert bool((mem <= neuron.clamp + 1e-3).all())
    assert counts(spk)


@given(
    input_=inputs,
    spk=states,
    mem=states,
    dtype=st.sampled_from(FLOATS[:2]),
    hidden=mostly(st.just(False), st.just(True)),
    gram=mostly(st.none() | ordinary((K, K)), awkward),
)
def test_a_timestep_is_valid_or_refused(input_, spk, mem, dtype, hidden, gram):
    neuron = IPVAENeuron(K, init_hidden=hidden, output=True).to(dtype)
    neuron(torch.zeros(2, K, dtype=dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a stored state of another shape
        out = attempt(lambda: neuron(input_, spk, mem, gram=gram), neuron, state_of(neuron))
    if out is not REFUSED:
        assert_valid(neuron, *out, input_.shape)
        assert neuron.mem is out[1]


@given(
    input_=mostly(
        ordinary((4, 2, K)), awkward | tensors((4, 2, K), dtypes=FLOATS) | ordinary((4, K))
    ),
    spk=states,
    mem=states,
    carry=st.booleans(),
)
def test_a_sequence_is_valid_or_refused(input_, spk, mem, carry):
    neuron = IPVAENeuron(K)
    neuron(torch.zeros(2, K))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        out = attempt(lambda: neuron.run(input_, spk, mem, carry=carry), neuron, state_of(neuron))
    if out is not REFUSED:
        assert_valid(neuron, *out, input_.shape)
        assert torch.equal(neuron.mem, out.mem[-1])


@given(
    input_=tensors((4, 2, K), dtypes=(torch.float32,), extremes=False),
    estimator=st.sampled_from([surrogate.rounded, surrogate.midpoint, surrogate.eat]),
)
def test_a_sequence_equals_its_timesteps(input_, estimator):
    neuron = IPVAENeuron(K, spike_grad=estimator())
    torch.manual_seed(1)
    whole = neuron.run(input_)
    torch.manual_seed(1)
    spk, mem = neuron.reset_mem()
    for t, current in enumerate(input_):
        spk, mem = neuron(current, spk, mem)
        assert torch.allclose(mem, whole.mem[t], atol=1e-5)
        assert torch.allclose(spk, whole.spk[t], atol=1e-4)


@given(input_=ordinary((4, K)), order=st.permutations(range(4)))
def test_a_timestep_is_equivariant_to_the_order_of_samples(input_, order):
    neuron = IPVAENeuron(K, spike_grad=surrogate.rounded())
    _, mem = neuron(input_)
    neuron.reset_mem()
    _, moved = neuron(input_[order])
    assert torch.allclose(moved, mem[order], atol=1e-5)


@given(input_=ordinary((3, 2, K), least=-1e4, most=1e4))
def test_reset_restores_the_initial_state(input_):
    neuron = IPVAENeuron(K, spike_grad=surrogate.rounded(), init_hidden=True, output=True)
    net = nn.Sequential(neuron)
    first = neuron(input_[0])
    for current in input_:
        neuron(current)
    ipvae_snn.reset(net)
    again = neuron(input_[0])
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


estimators = st.sampled_from([make() for make in surrogate.ESTIMATORS.values()])
flags = st.booleans()
OPTIONS = {
    "lateral_scale": st.floats(0, 3), "leak": st.floats(0, 1), "clamp": st.floats(-7, 16),
    "step": st.floats(1e-6, 9), "bias": st.floats(1e-6, 9) | ordinary((K,), least=0.1),
    "mem_init": st.floats(-9, 9) | ordinary((K,)), "gram": ordinary((K, K)), "learn_gram": flags,
    "learn_step": flags, "learn_bias": flags, "learn_mem_init": flags, "spike_grad": estimators,
    "surrogate_disable": flags, "init_hidden": flags, "output": flags,
    "threshold": st.just(1.0), "inhibition": st.just(False), "learn_threshold": st.just(False),
    "reset_mechanism": st.just("subtract"), "graded_spikes_factor": st.just(1.0),
    "state_quant": st.sampled_from([False, torch.round, lambda u: u.sum(), lambda u: None]),
    "reset_delay": st.just(True), "learn_graded_spikes_factor": st.just(False),
}  # fmt: skip


@given(
    options=st.fixed_dictionaries(
        {}, optional={n: mostly(v, anything | awkward) for n, v in OPTIONS.items()}
    ),
    source=mostly(st.just(K) | st.builds(lambda m: nn.Linear(K, m, bias=False), st.integers(1, 3))),
)
def test_options_are_accepted_or_refused(options, source):
    made = attempt(lambda: IPVAENeuron(source, **options))
    if made is REFUSED or made.features > 100:
        return
    for _ in range(3):
        out = attempt(lambda: made(torch.ones(2, made.features)), state_of(made))
        if out is not REFUSED:
            assert finite(made.spk, made.mem)


grams = st.builds(lambda a: (a + a.mT).detach() / 2, ordinary((2, 2)) | ordinary((3, 3))) | st.just(
    torch.eye(2)
)


@given(source=mostly(st.integers(1, 3)), gram=mostly(st.none() | grams, awkward))
def test_lateral_weights_are_symmetric_or_refused(source, gram):
    for learn in (False, True):
        made = attempt(lambda learn=learn: IPVAENeuron(source, gram=gram, learn_gram=learn))
        if made is not REFUSED and made.features < 100:
            made_gram = made.gram().detach()
            assert finite(made_gram)
            assert torch.allclose(
                made_gram, made_gram.mT, rtol=1e-3, atol=1e-4 * float(made_gram.abs().max())
            )
            if isinstance(gram, torch.Tensor):
                scale = 1e-3 * float(made_gram.abs().max()) + 1e-5
                assert torch.allclose(made_gram, gram.detach().float(), atol=scale)


@given(
    x=mostly(tensors((2, 4), dtypes=FLOATS), awkward),
    log_scale=mostly(st.none() | ordinary((4,)), awkward),
)
def test_drive_is_finite_or_refused(x, log_scale):
    decoder = nn.Linear(K, 4, bias=False)
    made = attempt(lambda: IPVAENeuron(decoder, log_scale=log_scale))
    if made is not REFUSED:
        drive = attempt(lambda: made.drive(x))
        assert drive is REFUSED or drive.shape == (*x.shape[:-1], K)
        assert drive is REFUSED or finite(drive)


@given(
    net=mostly(st.builds(nn.Linear, st.just(2), st.just(2))),
    input_=mostly(ordinary((5, 2, K)), awkward),
    window=mostly(st.integers(0, 7)),
    loss=st.sampled_from(["sum", "vector", "number", "none"]),
)
def test_tbptt_covers_all_windows(net, input_, window, loss):
    for of_network in (ipvae_snn.reset, ipvae_snn.detach):
        attempt(lambda of_network=of_network: of_network(net))
    neuron = IPVAENeuron(K, init_hidden=True)
    make = {
        "sum": lambda x, _: sum(neuron(frame).sum() for frame in x),
        "vector": lambda x, _: neuron(x[0]),
        "number": lambda x, _: 1.0,
        "none": lambda x, _: None,
    }[loss]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        losses = attempt(
            lambda: ipvae_snn.tbptt(neuron, input_, make, window=window), random_state=False
        )
    if losses is not REFUSED:
        assert len(losses) == -(-len(input_) // window)
        assert finite(torch.tensor(losses))


@given(shape=st.lists(sizes, max_size=3))
def test_empty_batches_and_up_to_four_dimensions(shape):
    neuron = IPVAENeuron(K, dim=-1)
    spk, mem = neuron(torch.ones(*shape, K))
    assert_valid(neuron, spk, mem, (*shape, K))
    assert_valid(neuron, *neuron.run(torch.ones(2, *shape, K)), (2, *shape, K))


@given(
    drive=mostly(ordinary((2, 3)), awkward),
    spk=mostly(ordinary((4, 2, 3), least=0), awkward),
    mem=mostly(ordinary((4, 2, 3)), awkward),
    state=mostly(st.none(), st.tuples(awkward, awkward) | anything),
)
def test_currents_add_up_to_the_change_of_the_membrane(drive, spk, mem, state):
    neuron = IPVAENeuron(3)
    parts = attempt(lambda: currents.parts(neuron, drive, spk, mem, state=state))
    if parts is not REFUSED:
        assert finite(*parts)
        assert torch.allclose(sum(parts)[1:], mem.detach().diff(dim=0), atol=1e-3)


def constant_loss(x, start):
    return torch.zeros(())


INVALID_CALLS = {
    "step beyond float64": lambda: IPVAENeuron(3, step=HUGE),
    "bias beyond float64": lambda: IPVAENeuron(3, bias=HUGE),
    "complex bias": lambda: IPVAENeuron(3, bias=1j),
    "init_hidden is a tensor": lambda: IPVAENeuron(3, init_hidden=ones(2)),
    "learn_step is text": lambda: IPVAENeuron(3, learn_step="no"),
    "2^31 neurons": lambda: IPVAENeuron(2**31),
    "leak above 1": lambda: IPVAENeuron(3, leak=7),
    "bias of another shape": lambda: IPVAENeuron(3, bias=ones(4)),
    "gram is a number": lambda: IPVAENeuron(3)(ones(2, 3), gram=1.0),
    "gram of another dtype": lambda: IPVAENeuron(3)(ones(2, 3), gram=torch.eye(3).double()),
    "gram of NaN": lambda: IPVAENeuron(3)(ones(2, 3), gram=torch.full((3, 3), math.nan)),
    "drive of infinity": lambda: IPVAENeuron(nn.Linear(3, 2, bias=False)).drive(
        torch.full((1, 2), math.inf)
    ),
    "tbptt without input": lambda: ipvae_snn.tbptt(nn.Linear(2, 2), None, constant_loss, window=1),
    "tbptt window is True": lambda: ipvae_snn.tbptt(
        nn.Linear(2, 2), ones(2, 1, 2), constant_loss, window=True
    ),
    "tbptt loss without gradient": lambda: ipvae_snn.tbptt(
        nn.Linear(2, 2), ones(2, 1, 2), constant_loss, window=1
    ),
    "state of a scalar": lambda: currents.parts(
        IPVAENeuron(3), ones(2, 3), ones(4, 2, 3), ones(4, 2, 3), state=(ones(()), None)
    ),
}


@pytest.mark.parametrize("call", INVALID_CALLS.values(), ids=INVALID_CALLS)
def test_invalid_calls_are_refused(call, assert_refused):
    assert_refused(call)


def test_initial_membranes_without_a_finite_kl_are_refused():
    with pytest.raises(ValueError, match="mem_init must be at least -60"):
        IPVAENeuron(3, mem_init=-1e4)
    edge = IPVAENeuron(3, mem_init=-60.0)
    assert torch.isfinite(edge.run(torch.ones(2, 1, 3))[1]).all()
