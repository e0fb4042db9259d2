"""Activation checkpointing gives the gradient that it gives without, or refuses."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ipvae_snn import IPVAE, IPVAENeuron, Recorder, reset, surrogate
from ipvae_snn._utils.seeding import Draws
from ipvae_snn.baselines import LCA, PoissonVAE

K, STEPS = 5, 6
X = torch.rand(STEPS, 3, K, generator=torch.Generator().manual_seed(0))
MODES = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not_reentrant"])


def layer(features=K, **options):
    torch.manual_seed(1)
    return IPVAENeuron(features, **{"mem_init": -0.5, "step": 0.3, **options})


def network(**options):
    options = {"init_hidden": True, "clamp": 3.0, **options}
    inner = nn.Sequential(layer(**options), nn.Linear(K, 4))
    torch.manual_seed(2)
    return nn.Sequential(nn.Sequential(nn.Linear(K, K), inner), layer(4, **options))


class Sequence(nn.Module):
    """A network over all timesteps, from reset."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        reset(self.net)
        return torch.stack([self.net(frame) for frame in x])


def gradients(module, call):
    """Gradients of the input and of every parameter, after ``call(x)``."""
    x = X.clone().requires_grad_()
    torch.manual_seed(3)
    loss = (call(x) ** 2).mean()
    loss.backward()
    return [loss.detach(), x.grad, *(parameter.grad for parameter in module.parameters())]


def assert_same(ours, expected):
    assert any(part.abs().sum() > 0 for part in expected[1:])
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.fixture(params=["midpoint", "rounded", "bernoulli", "plain callable"])
def estimator(request):
    if request.param == "plain callable":
        exact = surrogate.midpoint()
        return lambda mem: exact(mem)
    return surrogate.ESTIMATORS[request.param]()


# -- what is exact --------------------------------------------------------------------------------


@MODES
def test_a_sequence_from_reset(reentrant, estimator):
    expected = Sequence(network(spike_grad=estimator))
    expected_gradients = gradients(expected, expected)
    ours = Sequence(network(spike_grad=estimator))
    found = gradients(ours, lambda x: checkpoint(ours, x, use_reentrant=reentrant))
    assert_same(found, expected_gradients)


@MODES
def test_passed_states(reentrant, estimator):
    def unrolled(neuron, call):
        def loss(x):
            spk, mem = neuron.reset_mem()
            total = []
            for frame in x:
                spk, mem = call(frame, spk, mem)
                total.append(spk * mem)
            return torch.stack(total)

        return gradients(neuron, loss)

    plain, neuron = (layer(spike_grad=estimator) for _ in range(2))
    expected = unrolled(plain, plain)
    ours = unrolled(neuron, lambda *states: checkpoint(neuron, *states, use_reentrant=reentrant))
    assert_same(ours, expected)


@MODES
def test_run_and_what_carries_on_from_it_in_one_function(reentrant):
    def both(neuron):
        def run(x):
            first = neuron.run(x[:4])
            second = neuron.run(x[4:], carry=True)
            return torch.cat([first.spk + first.mem, second.spk + second.mem, neuron.mem[None]])

        return run

    plain, neuron = layer(), layer()
    expected = gradients(plain, both(plain))
    ours = gradients(neuron, lambda x: checkpoint(both(neuron), x, use_reentrant=reentrant))
    assert_same(ours, expected)


def test_nested_checkpoints():
    inner, outer = layer(), nn.Linear(K, K)

    def run(x, wrap):
        return wrap(lambda part: outer(wrap(lambda p: inner.run(p).spk, part)), x)

    both = nn.ModuleList([inner, outer])
    expected = gradients(both, lambda x: run(x, lambda f, part: f(part)))
    both.zero_grad()
    ours = gradients(both, lambda x: run(x, lambda f, p: checkpoint(f, p, use_reentrant=False)))
    assert_same(ours, expected)


def test_two_backward_passes_recompute_twice():
    module = Sequence(network())
    torch.manual_seed(3)
    loss = checkpoint(module, X, use_reentrant=False).square().mean()
    weight = module.net[0][0].weight
    first, second = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2))
    assert first.abs().sum() > 0
    assert torch.equal(first, second)


@MODES
def test_states_and_observers_see_each_call_once(reentrant):
    module = Sequence(network())
    neuron = module.net[1]
    with Recorder(module) as recorder:
        y = checkpoint(module, X.clone().requires_grad_(), use_reentrant=reentrant)
        with torch.no_grad():
            module.net(X[0])  # the state advances once more
        before = neuron.spk, neuron.mem
        y.sum().backward()
        assert neuron.spk is before[0]
        assert neuron.mem is before[1]
        assert recorder["net.1"].steps == list(range(1, STEPS + 2))
    module.net(X[0])


# -- what is refused ------------------------------------------------------------------------------


def by_steps(neuron, reentrant):
    return lambda x: torch.stack([checkpoint(neuron, f, use_reentrant=reentrant) for f in x])


def by_chunks(neuron, reentrant):
    def run(part, first):
        return neuron.run(part, carry=not first).spk

    return lambda x: torch.cat(
        [checkpoint(run, x[t : t + 3], t == 0, use_reentrant=reentrant) for t in (0, 3)]
    )


def of_read_states(neuron, reentrant):
    def run(frame):
        return neuron(frame, neuron.spk, neuron.mem)[0]

    return lambda x: torch.stack([checkpoint(run, f, use_reentrant=reentrant) for f in x])


def with_late_closure(neuron, reentrant):
    def call(x):
        spk, mem = neuron.reset_mem()
        total = 0
        for frame in x:
            spk, mem = checkpoint(
                lambda f: neuron(f, spk, mem),  # noqa: B023
                frame,
                use_reentrant=reentrant,
            )
            total = total + spk
        return total

    return call


def after_another_that_reset(neuron, reentrant):
    def run(part, first):
        if first:
            neuron.reset_mem()
        return torch.stack([neuron(frame) for frame in part])

    def call(x):
        neuron.reset_mem()
        continued = checkpoint(run, x[:3], False, use_reentrant=reentrant)
        return torch.cat([continued, checkpoint(run, x[3:], True, use_reentrant=reentrant)])

    return call


REFUSED = {
    "steps": (by_steps, {"init_hidden": True}),
    "chunks": (by_chunks, {}),
    "read states": (of_read_states, {}),
    "late closure": (with_late_closure, {}),
    "after another": (after_another_that_reset, {"init_hidden": True}),
}


@MODES
@pytest.mark.parametrize(("make", "options"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("fresh", [False, True], ids=["advanced", "reset_since"])
def test_a_start_from_the_stored_state_is_refused(make, options, reentrant, fresh):
    neuron = layer(**options)
    neuron(X[0])
    y = make(neuron, reentrant)(X.clone().requires_grad_())
    if fresh and make is not with_late_closure:
        neuron.reset_mem()
    before = neuron.spk, neuron.mem
    with pytest.raises(RuntimeError, match=r"checkpoint\(neuron, input_, spk, mem"):
        y.sum().backward()
    assert neuron.spk is before[0]
    assert neuron.mem is before[1]


@MODES
def test_other_draws_are_refused(reentrant):
    own = Sequence(network(spike_grad=surrogate.midpoint(generator=torch.Generator())))
    y = checkpoint(own, X.clone().requires_grad_(), use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match="generator at None"):
        y.sum().backward()
    options = {"use_reentrant": reentrant, "preserve_rng_state": False}
    y = checkpoint(Sequence(network()), X.clone().requires_grad_(), **options)
    with pytest.raises(RuntimeError, match="preserve_rng_state=True"):
        y.sum().backward()
    rounded = Sequence(network(spike_grad=surrogate.rounded(generator=torch.Generator())))
    checkpoint(rounded, X.clone().requires_grad_(), **options).sum().backward()


def test_going_on_without_the_graph_is_refused():
    neuron = layer()

    def halves(x, **options):
        first = checkpoint(lambda part: neuron.run(part).spk, x[:3], **options)
        return torch.cat([first, neuron.run(x[3:], carry=True).spk])

    x = X.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        halves(x, use_reentrant=True).sum().backward()
    halves(x, use_reentrant=False).sum().backward()


# -- whole models ---------------------------------------------------------------------------------

MODELS = {
    "kernels": lambda **options: IPVAE(K, 6, init_std=0.5, **options),
    "loop": lambda **options: IPVAE(K, 6, init_std=0.5, **options).double(),
    "baseline": lambda **options: PoissonVAE(K, 6, **options),
}
whole_models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def model_gradients(make, call, **options):
    torch.manual_seed(1)
    model = make(**options)
    x = X[0].to(model.like.dtype).requires_grad_()
    torch.manual_seed(3)
    call(model, x).backward()
    return [x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@MODES
@whole_models
def test_models_under_checkpoints(make, reentrant):
    options = {"use_reentrant": reentrant}
    expected = model_gradients(make, lambda m, x: m.loss(x, 4))
    found = model_gradients(make, lambda m, x: checkpoint(m.loss, x, 4, **options))
    assert_same(found, expected)

    def seeded(model, x):
        with model.seeded(5):
            return model.loss(x, 4)

    options["preserve_rng_state"] = False
    expected = model_gradients(make, seeded)
    found = model_gradients(make, lambda m, x: checkpoint(seeded, m, x, **options))
    assert_same(found, expected)


@MODES
@whole_models
def test_other_draws_of_models_are_refused(make, reentrant):
    def refused(match, call, **options):
        with pytest.raises(RuntimeError, match=match):
            model_gradients(make, call, **options)

    options = {"use_reentrant": reentrant}
    own = surrogate.midpoint(generator=torch.Generator())
    refused("generator at None", lambda m, x: checkpoint(m.loss, x, 4, **options), spike_grad=own)

    def around(model, x):
        with model.seeded(5):
            loss = checkpoint(model.loss, x, 4, **options)
            if reentrant:
                loss.backward()
            return loss

    refused("block inside the checkpointed function", around)
    options["preserve_rng_state"] = False
    refused("preserve_rng_state=True", lambda m, x: checkpoint(m.loss, x, 4, **options))


def test_other_draws_of_estimators_and_neurons_are_refused():
    mem = torch.zeros(3, requires_grad=True)
    own = surrogate.midpoint(generator=torch.Generator())
    with pytest.raises(RuntimeError, match="generator at None"):
        checkpoint(own, mem, use_reentrant=False).sum().backward()
    neuron = layer()
    with Draws(1), pytest.raises(RuntimeError, match="block inside"):
        checkpoint(lambda x: neuron.run(x).spk, X, use_reentrant=False)
    with Draws(1), torch.no_grad():  # no gradient, so that nothing is called again
        checkpoint(lambda x: neuron.run(x).spk, X, use_reentrant=False)


def test_models_without_draws_need_no_random_state():
    options = {"use_reentrant": False, "preserve_rng_state": False}
    checkpoint(LCA(K, 6).loss, X[0], 4, **options).backward()
    checkpoint(IPVAE(K, 6, spike_grad=surrogate.rounded()).loss, X[0], 4, **options).backward()


def test_a_hook_of_a_backward_pass_may_draw():
    model, other = MODELS["kernels"](), MODELS["kernels"](spike_grad=surrogate.midpoint())
    other.neuron.spike_grad.generator = torch.Generator()
    x = X[0].clone().requires_grad_()
    x.register_hook(lambda grad: grad + other.run(X[0], 2).spk.sum())
    with model.seeded(1):
        model.loss(x, 3).backward()
