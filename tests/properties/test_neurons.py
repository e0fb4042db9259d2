"""One neuron layer: a timestep, a sequence, its state and its options."""

import warnings

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAENeuron, surrogate
from tests.properties.common import (
    FLOATS,
    REFUSED,
    anything,
    attempt,
    awkward,
    counts,
    finite,
    ordinary,
    sizes,
    tensors,
)

K = 3
currents = awkward | tensors((2, K), dtypes=FLOATS) | tensors((K,), dtypes=FLOATS)
states = st.none() | awkward | tensors((2, K), dtypes=FLOATS) | ordinary((2, K), least=0)


def state_of(neuron):
    return lambda: (neuron.spk.detach().clone(), neuron.mem.detach().clone(), neuron._fresh)


def sound(neuron, spk, mem, shape):
    assert spk.shape == mem.shape == shape
    assert spk.dtype == mem.dtype == neuron.mem_init.dtype
    assert finite(mem)
    assert bool((mem <= neuron.clamp + 1e-3).all())
    assert counts(spk)


@given(
    input_=currents,
    spk=states,
    mem=states,
    dtype=st.sampled_from(FLOATS[:2]),
    hidden=st.booleans(),
    gram=st.none() | awkward | ordinary((K, K)),
)
def test_one_timestep(input_, spk, mem, dtype, hidden, gram):
    neuron = IPVAENeuron(K, init_hidden=hidden, output=True).to(dtype)
    neuron(torch.zeros(2, K, dtype=dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a stored state of another shape
        out = attempt(lambda: neuron(input_, spk, mem, gram=gram), neuron, state_of(neuron))
    if out is not REFUSED:
        sound(neuron, *out, input_.shape)
        assert neuron.mem is out[1]


@given(
    input_=awkward | tensors((4, 2, K), dtypes=FLOATS) | tensors((4, K), dtypes=FLOATS),
    spk=states,
    mem=states,
    carry=st.booleans(),
)
def test_a_sequence(input_, spk, mem, carry):
    neuron = IPVAENeuron(K)
    neuron(torch.zeros(2, K))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        out = attempt(lambda: neuron.run(input_, spk, mem, carry=carry), neuron, state_of(neuron))
    if out is not REFUSED:
        sound(neuron, *out, input_.shape)
        assert torch.equal(neuron.mem, out.mem[-1])


@given(
    input_=tensors((4, 2, K), dtypes=(torch.float32,), extremes=False),
    estimator=st.sampled_from([surrogate.rounded, surrogate.midpoint, surrogate.eat]),
)
def test_a_sequence_is_its_timesteps(input_, estimator):
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
def test_samples_may_come_in_any_order(input_, order):
    neuron = IPVAENeuron(K, spike_grad=surrogate.rounded())
    _, mem = neuron(input_)
    neuron.reset_mem()
    _, moved = neuron(input_[order])
    assert torch.allclose(moved, mem[order], atol=1e-5)


@given(input_=ordinary((3, 2, K), least=-1e4, most=1e4))
def test_reset_forgets(input_):
    neuron = IPVAENeuron(K, spike_grad=surrogate.rounded(), init_hidden=True, output=True)
    net = nn.Sequential(neuron)
    first = neuron(input_[0])
    for current in input_:
        neuron(current)
    ipvae_snn.reset(net)
    again = neuron(input_[0])
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


OPTIONS = [
    "log_scale", "gram", "learn_gram", "lateral_scale", "leak", "clamp", "step", "bias", "mem_init",
    "learn_step", "learn_bias", "learn_mem_init", "threshold", "spike_grad", "surrogate_disable",
    "init_hidden", "inhibition", "learn_threshold", "reset_mechanism", "state_quant", "output",
    "graded_spikes_factor", "learn_graded_spikes_factor", "reset_delay",
]  # fmt: skip
estimators = st.sampled_from([make() for make in surrogate.ESTIMATORS.values()])
values = anything | awkward | ordinary((K,)) | ordinary((K, K)) | estimators | st.floats(0, 6)


@given(
    options=st.dictionaries(st.sampled_from(OPTIONS), values, min_size=1, max_size=2),
    source=st.just(K) | st.builds(lambda m: nn.Linear(K, m, bias=False), st.integers(1, 3))
    | anything,
)  # fmt: skip
def test_options_are_taken_or_refused(options, source):
    made = attempt(lambda: IPVAENeuron(source, **options))
    if made is REFUSED or made.features > 100:
        return
    for _ in range(3):
        out = attempt(lambda: made(torch.ones(2, made.features)), state_of(made))
        if out is not REFUSED:
            assert finite(made.spk, made.mem)


@given(source=anything | st.integers(-3, 4), gram=st.none() | awkward | ordinary((2, 2)))
def test_lateral_weights_are_symmetric_or_refused(source, gram):
    for learn in (False, True):
        made = attempt(lambda learn=learn: IPVAENeuron(source, gram=gram, learn_gram=learn))
        if made is not REFUSED and made.features < 100:
            found = made.gram().detach()
            assert finite(found)
            assert torch.allclose(found, found.mT, rtol=1e-3, atol=1e-4 * float(found.abs().max()))
            if isinstance(gram, torch.Tensor):
                scale = 1e-3 * float(found.abs().max()) + 1e-5
                assert torch.allclose(found, gram.detach().float(), atol=scale)


@given(
    x=awkward | tensors((2, 4), dtypes=FLOATS),
    log_scale=st.none() | awkward | ordinary((4,)),
)
def test_drive_is_finite_or_refused(x, log_scale):
    decoder = nn.Linear(K, 4, bias=False)
    made = attempt(lambda: IPVAENeuron(decoder, log_scale=log_scale))
    if made is not REFUSED:
        drive = attempt(lambda: made.drive(x))
        assert drive is REFUSED or drive.shape == (*x.shape[:-1], K)
        assert drive is REFUSED or finite(drive)


@given(
    net=st.builds(nn.Linear, st.just(2), st.just(2)) | anything,
    input_=awkward | ordinary((5, 2, K)),
    window=st.integers(-1, 7) | anything,
    loss=st.sampled_from(["sum", "vector", "number", "none"]),
)
def test_truncated_windows(net, input_, window, loss):
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
def test_empty_batches_and_any_number_of_dimensions(shape):
    neuron = IPVAENeuron(K)
    spk, mem = neuron(torch.ones(*shape, K))
    sound(neuron, spk, mem, (*shape, K))
    sound(neuron, *neuron.run(torch.ones(2, *shape, K)), (2, *shape, K))
