"""A recorder stores every timestep of a run and does not change it."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, Recorder, surrogate
from ipvae_snn.neurons.states import reset


def learned_step(model, x, seed=0):
    model.zero_grad()
    with model.seeded(seed):
        loss = model.loss(x, 12)
    loss.backward()
    return loss.detach(), model.weight.grad.clone()


@pytest.mark.parametrize("estimator", [surrogate.midpoint(), surrogate.bernoulli(4)])
@pytest.mark.parametrize("every", [1, 3])
def test_it_records_what_run_returns_and_changes_nothing(estimator, every):
    model, x = IPVAE(20, 12, spike_grad=estimator, init_std=0.3), torch.rand(5, 20)
    plain = model.run(x, 12, every=every, seed=3)
    last, gradient = learned_step(model, x)
    with Recorder(model, every=every) as recorder:
        watched = model.run(x, 12, every=every, seed=3)
        silent = model.run(x, 12, record=(), seed=3)
        assert torch.equal(recorder.spk[: 12 // every], plain.spk)
        recorder.clear()
        now, same = learned_step(model, x)
    for field in ("spk", "mem", "nll", "kl"):
        assert torch.equal(getattr(plain, field), getattr(watched, field))
    assert torch.equal(silent.state.spk, plain.state.spk)
    assert torch.equal(now, last)
    assert torch.equal(same, gradient)
    assert recorder["neuron"].steps == list(range(every, 13, every))
    assert not recorder.mem.requires_grad
    assert model.neuron.observers == []


def test_it_records_layers_called_step_by_step_or_with_run():
    net = nn.Sequential(
        nn.Linear(6, 8),
        IPVAENeuron(8, init_hidden=True, mem_init=0.0),
        nn.Linear(8, 9),
        IPVAENeuron(9, init_hidden=True, mem_init=0.0),
    )
    x = torch.rand(7, 3, 6)

    def outputs():
        torch.manual_seed(0)
        reset(net)
        return torch.stack([net(frame) for frame in x])

    plain = outputs()
    with Recorder(net, "spk", every=2, neurons=[5, 0]) as recorder:
        assert torch.equal(outputs(), plain)
    assert torch.equal(recorder["3"].spk, plain[1::2][..., [5, 0]])
    assert recorder["1"].steps == [2, 4, 6]
    with pytest.raises(ValueError, match="choose one of"):
        recorder.spk  # noqa: B018
    with pytest.raises(ValueError, match="ask for 'mem'"):
        recorder["1"].mem  # noqa: B018
    with pytest.raises(KeyError, match="layers are"):
        recorder["2"]

    with Recorder(net[1]) as recorder:
        spk, mem = net[1].run(torch.rand(4, 3, 8))
    assert torch.equal(recorder.spk, spk)
    assert torch.equal(recorder.mem, mem)


def test_timesteps_are_counted_across_calls():
    model, x = IPVAE(6, 4), torch.rand(2, 6)
    with Recorder(model, every=4) as recorder:
        state = None
        for steps in (3, 3, 1, 9):
            state = model.run(x, steps, record=(), state=state).state
    assert recorder["neuron"].steps == [4, 8, 12, 16]
    assert torch.equal(recorder.mem[-1], state.mem)
    assert len(recorder.spk) == 4


def test_sequences_of_another_shape_need_a_clear():
    model = IPVAE(6, 4)
    recorder = Recorder(model)
    model.run(torch.rand(2, 6), 3)
    model.run(torch.rand(5, 6), 3)
    with pytest.raises(ValueError, match="clear"):
        recorder.spk  # noqa: B018
    recorder.clear()
    model.run(torch.rand(5, 6), 3)
    assert recorder.spk.shape == (3, 5, 4)


def test_a_copy_is_not_recorded():
    model = IPVAE(6, 4)
    with Recorder(model) as recorder:
        deepcopy(model).run(torch.rand(2, 6), 3)
        with pytest.raises(ValueError, match="run the network"):
            recorder.spk  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("model",), {}, TypeError),
        ((nn.Linear(2, 2),), {}, ValueError),
        ((IPVAE(4, 3), "nll"), {}, ValueError),
        ((IPVAE(4, 3), ()), {}, ValueError),
        ((IPVAE(4, 3),), {"every": 0}, ValueError),
        ((IPVAE(4, 3),), {"neurons": [3]}, ValueError),
        ((IPVAE(4, 3),), {"neurons": [0.5]}, ValueError),
    ],
)
def test_bad_options_are_refused_and_leave_no_observer(arguments, options, error):
    with pytest.raises(error):
        Recorder(*arguments, **options)
    if isinstance(arguments[0], IPVAE):
        assert arguments[0].neuron.observers == []
