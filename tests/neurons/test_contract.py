"""The contract of every neuron of this package with snnTorch, in every return form.

To add a neuron, add a line to ``NEURONS``: its name, and a function that makes a layer of ``K``
neurons with given options.
"""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import snntorch as snn
import torch
from snntorch.functional import probe
from torch import nn

from ipvae_snn import IPVAENeuron, detach, reset, surrogate
from ipvae_snn.neurons.base import StatefulNeuron

K = 6
SYMMETRIC = torch.tensor([[1.0 if i == j else 0.2 for j in range(K)] for i in range(K)])

NEURONS = {
    "decoder": lambda **o: IPVAENeuron(nn.Linear(K, 10, bias=False), **o),
    "scaled decoder": lambda **o: IPVAENeuron(
        nn.Linear(K, 10, bias=False), log_scale=nn.Parameter(torch.linspace(-1, 1, 10)), **o
    ),
    "own gram": lambda **o: IPVAENeuron(K, **o),
    "fixed gram": lambda **o: IPVAENeuron(K, gram=SYMMETRIC, **o),
    "learned gram": lambda **o: IPVAENeuron(K, gram=SYMMETRIC, learn_gram=True, **o),
    "leaky, relaxed": lambda **o: IPVAENeuron(
        K, leak=0.2, mem_init=0.0, spike_grad=surrogate.eat(0.5), **o
    ),
    "bernoulli": lambda **o: IPVAENeuron(K, spike_grad=surrogate.bernoulli(4), **o),
    "rounded": lambda **o: IPVAENeuron(K, spike_grad=surrogate.rounded(), mem_init=0.0, **o),
}
FORMS = {
    "explicit": {},
    "explicit, output": {"output": True},
    "hidden": {"init_hidden": True},
    "hidden, output": {"init_hidden": True, "output": True},
}
STATES = ("spk", "mem")
CURRENT = torch.rand(4, K, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture(params=NEURONS, ids=lambda name: name.replace(", ", "+").replace(" ", "_"))
def make(request):
    def make_one(**options):
        torch.manual_seed(2)
        return NEURONS[request.param](**options)

    return make_one


@pytest.fixture(params=FORMS, ids=lambda name: name.replace(", ", "+"))
def form(request):
    return FORMS[request.param]


def split(returned, form):
    """(spk, mem or None) from the return value of a call; checks its form."""
    if form.get("init_hidden") and not form.get("output"):
        assert isinstance(returned, torch.Tensor)
        return returned, None
    spk, mem = returned
    return spk, mem


def unroll(neuron, form, steps=6, current=CURRENT):
    """Spikes and membranes of a number of timesteps from reset, in any form."""
    spks, mems = [], []
    state = neuron.reset_mem()
    for _ in range(steps):
        returned = neuron(current) if form.get("init_hidden") else neuron(current, *state)
        spk, mem = split(returned, form)
        state = (spk, mem)
        spks.append(spk)
        mems.append(neuron.mem)
        assert mem is None or torch.equal(mem, neuron.mem)
    return torch.stack(spks), torch.stack(mems)


# -- calls ----------------------------------------------------------------------------------------


def test_return_forms(make, form):
    neuron = make(**form)
    spk, mem = split(neuron(CURRENT), form)
    assert spk.shape == neuron.mem.shape == CURRENT.shape
    assert neuron.spk is spk
    assert mem is None or neuron.mem is mem


def test_states_are_positional_spk_then_mem(make):
    neuron = make()
    spk, mem = torch.ones(4, K), torch.full((4, K), -1.0)
    torch.manual_seed(0)
    by_position = neuron(CURRENT, spk, mem)
    torch.manual_seed(0)
    by_name = neuron(CURRENT, mem=mem, spk=spk)
    assert all(torch.equal(a, b) for a, b in zip(by_position, by_name, strict=True))


def test_every_form_gives_the_same_trajectory(make, form):
    torch.manual_seed(7)
    reference = unroll(make(), {})
    torch.manual_seed(7)
    ours = unroll(make(**form), form)
    assert torch.equal(ours[0], reference[0])
    assert torch.equal(ours[1], reference[1])


def test_run_equals_a_loop_over_timesteps(make, form):
    neuron = make(**form)
    frames = torch.rand(9, 4, K)
    torch.manual_seed(3)
    spk, mem = neuron.run(frames)
    stored = neuron.mem
    torch.manual_seed(3)
    neuron.reset_mem()
    state = neuron.initial_state((4, K))
    for t, frame in enumerate(frames):
        state = neuron(frame) if form.get("init_hidden") else neuron(frame, *state)
        assert torch.equal(neuron.spk, spk[t])
        assert torch.equal(neuron.mem, mem[t])
    assert torch.equal(stored, mem[-1])


def test_run_resets_the_state_unless_it_carries(make):
    neuron = make().eval()
    frames = torch.rand(8, 4, K)
    torch.manual_seed(1)
    whole = neuron.run(frames)
    torch.manual_seed(1)
    first = neuron.run(frames[:5])
    carried = neuron.run(frames[5:], carry=True)
    assert torch.equal(torch.cat([first.mem, carried.mem]), whole.mem)
    torch.manual_seed(1)
    assert torch.equal(neuron.run(frames).mem, whole.mem)


def test_explicit_states_with_init_hidden_are_refused(make):
    neuron = make(init_hidden=True)
    neuron(CURRENT)
    before = [getattr(neuron, s) for s in STATES]
    for states in ((torch.zeros(4, K), torch.zeros(4, K)), (None, torch.zeros(4, K))):
        with pytest.raises(TypeError, match="init_hidden"):
            neuron(CURRENT, *states)
    assert all(getattr(neuron, s) is b for s, b in zip(STATES, before, strict=True))


def test_counts_are_nonnegative_integers(make, form):
    neuron = make(**form).eval()
    spk, _ = unroll(neuron, form, 30)
    assert (spk >= 0).all()
    assert torch.equal(spk, spk.round())
    assert spk.any()


def test_same_seed_same_spikes(make, form):
    torch.manual_seed(5)
    first = unroll(make(**form), form)[0]
    torch.manual_seed(5)
    torch.rand(3)
    torch.manual_seed(2)  # as make() seeds
    torch.manual_seed(5)
    assert torch.equal(first, unroll(make(**form), form)[0])


def test_shapes_from_unbatched_to_deep(make):
    for dim, shape in ((None, (K,)), (None, (1, K)), (-1, (3, 2, K)), (1, (3, K, 2, 2))):
        assert make(dim=dim)(torch.rand(shape))[0].shape == shape


# -- state ----------------------------------------------------------------------------------------


def test_states_exist_from_construction_and_are_no_part_of_the_model(make):
    neuron = make()
    for state in STATES:
        assert getattr(neuron, state).shape == (0,)
        assert state not in neuron.state_dict()
        assert state not in dict(neuron.named_buffers())


def test_reset_mem_before_and_after_the_first_call(make, form):
    neuron = make(**form)
    assert [s.shape for s in neuron.reset_mem()] == [(0,), (0,)]
    neuron(CURRENT)
    spk, mem = neuron.reset_mem()
    assert torch.equal(spk, torch.zeros(4, K))
    assert torch.equal(mem, neuron.mem_init.expand(4, K))
    assert neuron.spk is spk
    assert neuron.mem is mem


def test_the_learned_initial_membrane_gets_its_gradient_after_reset(make, form):
    neuron = make(**form)
    unroll(neuron, form, 2)[1].sum().backward()
    assert neuron.mem_init.grad.abs().sum() > 0
    # ... and after an optimizer step the next sequence starts from the new value.
    with torch.no_grad():
        neuron.mem_init.add_(1.0)
    assert torch.equal(neuron.reset_mem()[1], neuron.mem_init.expand(4, K))


def test_nested_reset_and_detach_reach_three_levels(make):
    neuron = make(init_hidden=True)
    net = nn.Sequential(nn.ModuleList([nn.Sequential(neuron)])[0], nn.Linear(K, 2))
    net(CURRENT)
    detach(net)
    assert all(not getattr(neuron, s).requires_grad for s in STATES)
    assert neuron.mem.abs().sum() > 0
    reset(net)
    assert torch.equal(neuron.mem, neuron.mem_init.expand(4, K))


def test_two_networks_are_isolated(make):
    ours, other = make(init_hidden=True), make(init_hidden=True)
    for neuron in (ours, other):
        neuron(CURRENT)
    before = other.mem
    reset(nn.Sequential(ours))
    detach(nn.Sequential(ours))
    assert other.mem is before
    assert other.mem.requires_grad


def test_class_methods_reach_every_live_neuron(make):
    neuron = make()
    neuron(CURRENT)
    assert neuron.mem.requires_grad
    type(neuron).detach_hidden()
    assert all(not getattr(neuron, s).requires_grad for s in STATES)
    type(neuron).reset_hidden()
    assert not neuron.spk.any()


@pytest.mark.parametrize("change", ["batch", "dtype"])
def test_a_state_of_another_shape_or_dtype_is_reset_with_a_warning(make, change):
    neuron = make(init_hidden=True, output=True)
    neuron(CURRENT)
    current = CURRENT[:2]
    if change == "dtype":
        neuron, current = neuron.double(), CURRENT.double()
        neuron.mem = neuron.mem.float()
        neuron.spk = neuron.spk.float()
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="started afresh"):
        _, mem = neuron(current)
    neuron.reset_mem()
    torch.manual_seed(0)
    assert torch.equal(mem, neuron(current)[1])


def test_a_state_from_inference_mode_allows_gradients(make, form):
    neuron = make(**form)
    with torch.inference_mode():
        neuron(CURRENT)
    neuron(CURRENT)
    neuron.mem.sum().backward()


def test_after_reset_any_batch_size_is_accepted_without_a_warning(make):
    neuron = make(init_hidden=True)
    neuron(CURRENT)
    reset(neuron)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert neuron(CURRENT[:1]).shape == (1, K)


def test_explicit_states_of_another_shape_are_refused(make):
    neuron = make()
    with pytest.raises(ValueError, match="spk must have the shape"):
        neuron(CURRENT, torch.zeros(3, K), torch.zeros(4, K))
    with pytest.raises(ValueError, match="mem must have the shape"):
        neuron(CURRENT, torch.zeros(4, K), torch.zeros(1, K))
    with pytest.raises(ValueError, match="second argument is spk"):
        neuron(CURRENT, torch.zeros(4, K))  # as one calls snn.Leaky
    with pytest.raises(ValueError, match="second argument is spk"):
        neuron(CURRENT, torch.full((4, K), -2.0), torch.zeros(4, K))
    with pytest.raises(TypeError, match="got a pair"):
        neuron(CURRENT, neuron.reset_mem())
    assert neuron.mem.shape == (0,)


# -- gradients ------------------------------------------------------------------------------------


def test_gradients_reach_every_parameter_through_time(make, form):
    neuron = make(**form)
    spk, mem = unroll(neuron, form)
    (spk.sum() + mem.sum()).backward()
    for name, parameter in neuron.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("size", [100.0, -100.0])
def test_gradients_are_finite_for_extreme_currents(make, size):
    neuron = make()
    current = torch.full((4, K), size, requires_grad=True)
    spk, mem = neuron.run(current.expand(5, 4, K))
    (spk.sum() + mem.sum()).backward()
    assert torch.isfinite(current.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in neuron.parameters())


def test_surrogate_disable_keeps_the_spikes_and_cuts_their_gradient(make):
    torch.manual_seed(9)
    spk = make().eval().run(CURRENT.expand(5, 4, K)).spk
    torch.manual_seed(9)
    cut = make(surrogate_disable=True).eval().run(CURRENT.expand(5, 4, K)).spk
    assert torch.equal(spk, cut)
    assert not cut.requires_grad


def test_state_quant(make):
    neuron = make(state_quant=lambda u: (u * 4).round().double() / 4)
    _, mem = neuron(CURRENT)
    assert mem.dtype == torch.float32
    assert torch.equal(mem * 4, (mem * 4).round())


# -- precision, compilers, transforms -------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(make, dtype):
    spk, mem = make().to(dtype)(CURRENT.to(dtype))
    assert spk.dtype == mem.dtype == dtype
    assert torch.isfinite(mem).all()


def test_autocast_keeps_the_membrane_in_float32(make):
    neuron, layer = make(), nn.Linear(3, K)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        current = layer(torch.rand(4, 3))
        assert current.dtype == torch.bfloat16
        spk, mem = neuron.run(current.expand(4, 4, K))
    assert mem.dtype == spk.dtype == torch.float32
    (spk.sum() + mem.sum()).backward()
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("form", ["explicit", "hidden"], indirect=True)
def test_compiles_without_graph_breaks_and_agrees_with_eager(make, form):
    if isinstance(make().spike_grad, surrogate.eat):
        make = _with_exact_estimator(make)  # the shape of the noise of soft counts depends on data
    torch._dynamo.reset()
    eager, neuron = make(**form), make(**form)
    compiled = torch.compile(neuron, fullgraph=True, backend="aot_eager")
    for net in (eager, compiled):
        torch.manual_seed(4)
        for _ in range(3):
            net(CURRENT)
    torch.testing.assert_close(neuron.mem, eager.mem)


def _with_exact_estimator(make):
    def exact(**options):
        neuron = make(**options)
        neuron.spike_grad = surrogate.midpoint()
        return neuron

    return exact


def exportable(make, **options):
    neuron = make(**options).eval()
    if isinstance(neuron.spike_grad, surrogate.eat):
        neuron.spike_grad = surrogate.midpoint()
    return neuron


# An exported program runs without this package, so it draws with torch.poisson.
def test_exports_with_states_passed(make, plain_kernels):
    neuron = exportable(make)
    state = [part.detach() for part in neuron.initial_state((4, K))]
    program = torch.export.export(neuron, (CURRENT, *state)).module()
    for _ in range(3):
        torch.manual_seed(6)
        exported = program(CURRENT, *state)
        torch.manual_seed(6)
        expected = neuron(CURRENT, *state)
        torch.testing.assert_close(exported[0], expected[0])
        torch.testing.assert_close(exported[1], expected[1])
        state = [part.detach() for part in expected]


def test_exports_with_stored_state_after_a_first_call(make, plain_kernels):
    neuron = exportable(make, init_hidden=True)
    with pytest.raises(ValueError, match="first call"):
        torch.export.export(neuron, (CURRENT,))
    with torch.no_grad():
        neuron(CURRENT)
        # A copy, as a program shares the buffers of the module it was exported from.
        program = torch.export.export(copy.deepcopy(neuron), (CURRENT,)).module()
        for _ in range(3):  # the program updates its state like the module
            torch.manual_seed(6)
            exported = program(CURRENT)
            torch.manual_seed(6)
            torch.testing.assert_close(exported, neuron(CURRENT))


def test_vmap_over_samples(make):
    neuron = make().eval()
    spk, mem = neuron.initial_state((4, K))
    mapped = torch.func.vmap(neuron, randomness="different")
    out = mapped(CURRENT, spk, mem)
    torch.testing.assert_close(out[1], neuron(CURRENT, spk, mem)[1])
    assert torch.isfinite(neuron.mem).all()  # no tensor of the transform is left in the state
    hidden = make(init_hidden=True).eval()
    mapped = torch.func.vmap(hidden, randomness="different")
    assert mapped(CURRENT).shape == CURRENT.shape
    assert hidden.mem.shape == (0,)


# -- copies, pickles and state dicts --------------------------------------------------------------


def test_state_dict_round_trip_across_batch_sizes(make):
    neuron, other = make(), make()
    with torch.no_grad():
        for parameter in neuron.parameters():
            parameter.add_(0.1)
    neuron(CURRENT)
    other(CURRENT[:1])
    other.load_state_dict(neuron.state_dict())
    for a, b in zip(neuron.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_pickle_and_deepcopy_after_a_forward_pass(make, form):
    neuron = make(**form)
    neuron(CURRENT)
    for duplicate in (copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))):
        twin = duplicate(neuron)
        assert torch.equal(twin.mem, neuron.mem)
        assert not twin.mem.requires_grad
        assert twin in StatefulNeuron._live.values()
        assert repr(twin) == repr(neuron)
        torch.manual_seed(8)
        ours = split(neuron(CURRENT), form)[0]
        torch.manual_seed(8)
        assert torch.equal(ours, split(twin(CURRENT), form)[0])


def test_deleted_neurons_are_freed(make):
    neuron = make()
    neuron(CURRENT)
    gone = weakref.ref(neuron)
    del neuron
    gc.collect()
    assert gone() is None


def test_a_replica_of_data_parallel_does_not_touch_the_original(make):
    neuron = make(init_hidden=True)
    neuron(CURRENT)
    before = neuron.mem
    replica = neuron._replicate_for_data_parallel()
    for name, parameter in neuron.named_parameters(recurse=False):
        setattr(replica, name, parameter)
    replica(CURRENT)
    assert neuron.mem is before


# -- together with snnTorch's neurons and monitors ------------------------------------------------


def test_in_sequential_between_snntorch_neurons(make):
    net = nn.Sequential(
        nn.Linear(5, 4),
        snn.Leaky(0.9, init_hidden=True),
        nn.Linear(4, K),
        make(init_hidden=True),
        nn.Linear(K, 3),
        snn.Leaky(0.9, init_hidden=True, output=True),
    )
    for _ in range(2):  # reset works on both kinds of neuron
        reset(net)
        mems = [net(5 * torch.rand(3, 5))[1] for _ in range(6)]
        torch.stack(mems).sum().backward()
    assert net[2].bias.grad.abs().sum() > 0


def test_attribute_monitor_records_the_membrane(make):
    net = nn.Sequential(nn.Linear(3, K), make(init_hidden=True))
    monitor = probe.AttributeMonitor("mem", False, net, instance=type(net[1]))
    for _ in range(5):
        net(torch.rand(2, 3))
    assert len(monitor.records) == 5
    assert torch.equal(monitor.records[-1], net[1].mem)
    monitor.remove_hooks()


def test_output_monitor_records_the_spikes(make):
    net = nn.Sequential(nn.Linear(3, K), make(init_hidden=True))
    monitor = probe.OutputMonitor(net, instance=type(net[1]))
    spks = [net(torch.rand(2, 3)) for _ in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(monitor.records, spks, strict=True))
    monitor.remove_hooks()
