"""Event-driven inference of a single stimulus against the batched run."""

import pytest
import torch

from ipvae_snn import IPVAE, IPVAENeuron, Stream, surrogate


@pytest.fixture(params=["native", "plain"], autouse=True)
def kernels(request):
    if request.param == "plain":
        request.getfixturevalue("plain_kernels")


def make(**options):
    torch.manual_seed(0)
    model = IPVAE(12, 70, init_std=0.3, **options)
    with torch.no_grad():
        model.neuron.mem_init.fill_(-1.0)
    return model


FRAMES = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", [{}, {"leak": 0.2, "lateral_scale": 0.5, "clamp": 2.0}])
def test_a_stream_equals_a_run(options):
    model = make(spike_grad=surrogate.midpoint(generator=torch.Generator()), **options)
    stream = Stream(model, seed=4)
    model.neuron.spike_grad.generator.manual_seed(4)
    out = model.run(FRAMES[:, None])
    for frame, spk, mem in zip(FRAMES, out.spk[:, 0], out.mem[:, 0], strict=True):
        state = stream.push(frame)
        assert torch.equal(state.spk, spk)
        torch.testing.assert_close(state.mem, mem.detach(), rtol=0, atol=2e-5)
    assert stream.timestep == 30


def test_num_steps_repeats_a_frame():
    model = make()
    a, b = Stream(model, seed=1), Stream(model, seed=1)
    a.push(FRAMES[0], num_steps=5)
    b.push(FRAMES[0])
    for _ in range(4):
        b.push()
    assert torch.equal(a.state.spk, b.state.spk)
    assert torch.equal(a.state.mem, b.state.mem)


def test_reset_and_assigned_state():
    stream = Stream(make(), seed=1)
    assert torch.equal(stream.state.mem, torch.full((70,), -1.0))
    stream.push(FRAMES[0], 3)
    state = stream.state
    copy = state.mem.clone()
    stream.push(FRAMES[1], 3)
    assert torch.equal(state.mem, copy)  # copies, not views
    stream.state = state
    assert torch.equal(stream.state.spk, state.spk)
    stream.reset()
    assert stream.timestep == 0
    assert not stream.state.spk.any()
    assert stream.push().mem.shape == (70,)


def test_a_stream_of_a_neuron_takes_currents():
    torch.manual_seed(0)
    neuron = IPVAENeuron(9, mem_init=-1.0, spike_grad=surrogate.rounded())
    currents = torch.randn(10, 9)
    spk, _ = neuron.run(currents[:, None])
    stream = Stream(neuron)
    for current, expected in zip(currents, spk[:, 0], strict=True):
        assert torch.equal(stream.push(current).spk, expected.detach())


@pytest.mark.parametrize(
    "spike_grad", [surrogate.eat(0.3), surrogate.bernoulli(4), surrogate.rounded()], ids=repr
)
def test_every_estimator_streams_integer_counts(spike_grad):
    stream = Stream(make(spike_grad=spike_grad), seed=0)
    spk = stream.push(FRAMES[0], 20).spk
    assert torch.equal(spk, spk.round())
    assert spk.any()


def test_a_stream_changes_neither_the_random_state_nor_the_model():
    model = make()
    state = torch.get_rng_state()
    a, b = Stream(model, seed=7).push(FRAMES[0], 9), Stream(model, seed=7).push(FRAMES[0], 9)
    assert torch.equal(a.spk, b.spk)
    assert torch.equal(state, torch.get_rng_state())
    assert model.neuron.spike_grad.generator is None
    assert not model.neuron.mem.numel()


@pytest.mark.parametrize(
    ("frame", "error", "says"),
    [
        (torch.rand(11), ValueError, r"\(12,\)"),
        (torch.rand(1, 12), ValueError, r"\(12,\)"),
        (torch.full((12,), float("nan")), ValueError, "12 NaN"),
        (torch.ones(12, dtype=torch.long), TypeError, "floating"),
        (torch.rand(12).double(), TypeError, "float64"),
        ([0.0] * 12, TypeError, "torch.Tensor"),
    ],
)
def test_a_bad_frame_changes_nothing(frame, error, says):
    stream = Stream(make(), seed=0)
    stream.push(FRAMES[0], 2)
    before = stream.state
    with pytest.raises(error, match=says):
        stream.push(frame)
    assert torch.equal(stream.state.mem, before.mem)
    assert stream.timestep == 2


def test_unsupported_models_and_states_are_refused():
    with pytest.raises(TypeError, match="IPVAE"):
        Stream(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="state_quant"):
        Stream(IPVAENeuron(4, state_quant=torch.round))
    with pytest.raises(TypeError, match="estimator"):
        Stream(IPVAENeuron(4, spike_grad=torch.exp))
    with pytest.raises(ValueError, match=r"state\.mem"):
        Stream(make()).state = (torch.zeros(70), torch.zeros(69))


def test_a_stream_learns_from_what_it_sees():
    torch.manual_seed(0)
    features = torch.randn(12, 5)
    frames = (torch.rand(1500, 5) < 0.3).float() @ features.mT
    model = IPVAE(12, 8, bias=0.05)
    stream = Stream(model, seed=0, learn=True, lr=0.1, target_rate=0.5)
    errors = []
    for frame in frames:
        _, mem = stream.push(frame, num_steps=8)
        errors.append(float((frame - model.decode(mem.exp()).detach()).square().mean()))
    assert sum(errors[-200:]) < 0.5 * sum(errors[:200])
    assert model.decoder.weight.grad is None
    # The stream goes on with the weights that the model has now.
    again = Stream(model, seed=1)
    stream.state = again.state = stream.state
    stream._estimator.generator.manual_seed(5)
    again._estimator.generator.manual_seed(5)
    a, b = stream.push(frames[0], 3), again.push(frames[0], 3)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_learning_stream_keeps_the_mode_and_refuses_neurons():
    model = IPVAE(12, 8).eval()
    stream = Stream(model, learn=True)
    for frame in torch.rand(30, 12):
        stream.push(frame)
    assert not model.training
    assert stream.reset() is None
    assert stream.push(num_steps=30).mem.isfinite().all()  # nothing was shown: nothing is learned
    with pytest.raises(TypeError, match="learn=True needs an IPVAE"):
        Stream(IPVAENeuron(4), learn=True)
    with pytest.raises(ValueError, match="lr must be"):
        Stream(model, learn=True, lr=-1.0)
