"""``run`` and one-step calls against an independent loop over the equations."""

import itertools

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAENeuron, surrogate
from ipvae_snn.kernels import native

NATIVE = pytest.mark.skipif(not native.available(), reason=native.unavailable_reason())
LEARNED = {"learn_step": True, "spike_grad": surrogate.midpoint()}
KINDS = {
    "learned": lambda k, **o: IPVAENeuron(k, **{**LEARNED, **o}),
    "decoder": lambda k, **o: IPVAENeuron(
        nn.Linear(k, k + 3, bias=False), log_scale=nn.Parameter(torch.linspace(-1, 1, k + 3)), **o
    ),
    "fixed": lambda k, **o: IPVAENeuron(k, gram=0.2 + torch.eye(k), **o),
    "published": lambda k, **o: IPVAENeuron(nn.Linear(k, k, bias=False), form="published", **o),
    "learned, exact": lambda k, **o: IPVAENeuron(k, form="exact", **{**LEARNED, **o}),
}
OPTIONS = [{"leak": 0.0}, {"leak": 0.3, "lateral_scale": 0.6, "clamp": 2.0}]


class Replayed(torch.autograd.Function):
    """Counts that were drawn before, with the backward of midpoint."""

    @staticmethod
    def forward(ctx, mem, spk):
        ctx.save_for_backward(mem, spk)
        return spk.clone()

    @staticmethod
    def backward(ctx, grad):
        mem, spk = ctx.saved_tensors
        return grad * (spk + mem.exp()) / 2, None


def clamped(v, c):
    return c - nn.functional.softplus(c - v.clamp(min=-8.0))


def oracle(neuron, x, spks):
    """Spikes and membranes by the equations of the docstring, for spikes that were drawn before."""
    gram = neuron.gram()
    alpha, bias, rest = neuron.log_step.exp(), neuron.log_bias.exp(), neuron.mem_init
    if neuron.form == "exact":
        bias = bias + 0.5 * neuron.lateral_scale * gram.diagonal()
    mem = rest.expand(x.shape[1:])
    spk = torch.zeros_like(mem)
    mems, counts = [], []
    for current, drawn in zip(x, spks, strict=True):
        h = current - neuron.lateral_scale * (spk @ gram) - bias - neuron.leak * (mem - rest)
        mem = clamped(mem + clamped(alpha * h, neuron.clamp), neuron.clamp)
        spk = Replayed.apply(mem, drawn)
        mems.append(mem)
        counts.append(spk)
    return torch.stack(counts), torch.stack(mems)


def by_steps(neuron, x):
    spk, mem = neuron.reset_mem()
    states = []
    for current in x:
        spk, mem = neuron(current, spk, mem)
        states.append((spk, mem))
    return tuple(torch.stack(part) for part in zip(*states, strict=True))


def gradients(neuron, x, spk, mem):
    torch.manual_seed(9)
    weights = torch.randn(spk.shape, dtype=torch.float64), torch.randn(mem.shape).double()
    objective = (spk.double() * weights[0]).sum() + (mem.double() * weights[1]).sum()
    inputs = [x, *neuron.parameters()]
    return torch.autograd.grad(objective, inputs, allow_unused=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("shape", "dim"), [((7,), None), ((4, 7), None), ((2, 3, 7), -1), ((2, 7, 3, 2), 1)], ids=str
)
def test_gradients_in_float64_equal_the_oracle(kind, options, shape, dim):
    torch.manual_seed(0)
    neuron = KINDS[kind](7, mem_init=-0.5, step=0.5, dim=dim, **options).double()
    x = torch.randn(12, *shape, dtype=torch.float64, requires_grad=True)
    for run in (lambda: neuron.run(x), lambda: by_steps(neuron, x)):
        torch.manual_seed(1)
        spk, mem = run()
        axis = -1 if dim is None else dim - len(shape) if dim > 0 else dim
        expected = oracle(neuron, x.movedim(axis, -1), spk.detach().movedim(axis, -1))
        expected = [part.movedim(-1, axis) for part in expected]
        torch.testing.assert_close(mem, expected[1], rtol=1e-12, atol=1e-12)
        pairs = zip(gradients(neuron, x, spk, mem), gradients(neuron, x, *expected), strict=True)
        for found, wanted in pairs:
            assert (found is None) == (wanted is None)
            if wanted is not None:
                assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max().clamp(min=1)


@NATIVE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("estimator", [surrogate.midpoint(), surrogate.rounded()], ids=repr)
def test_kernels_have_the_accuracy_of_float32(kind, options, estimator):
    """``run`` and one-step calls give the same bits; their gradients are those of float64."""
    torch.manual_seed(0)
    neuron = KINDS[kind](67, mem_init=-0.5, step=0.3, spike_grad=estimator, **options)
    x = torch.randn(12, 5, 67, requires_grad=True)
    states, found = [], []
    for run in (lambda: neuron.run(x), lambda: by_steps(neuron, x)):
        torch.manual_seed(1)
        states.append(run())
        found.append(gradients(neuron, x, *states[-1]))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    exact = KINDS[kind](67, spike_grad=estimator, **options).double()
    exact.load_state_dict({name: v.double() for name, v in neuron.state_dict().items()})
    x64, spk = x.detach().double().requires_grad_(), states[0][0].detach().double()
    if isinstance(estimator, surrogate.midpoint):
        wanted = gradients(exact, x64, *oracle(exact, x64, spk))
        for each, truth in itertools.product(found, [wanted]):
            for a, b in zip(each, truth, strict=True):
                if b is not None:
                    assert (a - b).abs().max() <= 2e-4 * b.abs().max().clamp(min=1)


@NATIVE
def test_second_derivatives_of_a_step_go_through_plain_operations():
    torch.manual_seed(0)
    neuron = IPVAENeuron(6, mem_init=0.0, leak=0.2)
    x = torch.randn(3, 6, requires_grad=True)
    start = torch.ones(3, 6), torch.zeros(3, 6)

    def curvature(neuron, x, start, dtype):
        torch.manual_seed(4)
        spk, mem = neuron(x, *(part.to(dtype) for part in start))
        (slope,) = torch.autograd.grad((mem.square() + spk).sum(), x, create_graph=True)
        return spk, torch.autograd.grad(
            slope.square().sum(), [x, *neuron.parameters()], allow_unused=True
        )

    spk, fast = curvature(neuron, x, start, torch.float32)
    exact = IPVAENeuron(6, leak=0.2, spike_grad=Fixed(spk.detach().double())).double()
    exact.load_state_dict({name: v.double() for name, v in neuron.state_dict().items()})
    x64 = x.detach().double().requires_grad_()
    _, slow = curvature(exact, x64, start, torch.float64)
    for a, b in zip(fast, slow, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


class Fixed(surrogate.midpoint):
    """``midpoint`` with given counts."""

    def __init__(self, spk):
        super().__init__()
        self.spk = spk

    def draw(self, mem):
        return self.spk.to(mem.dtype)


def test_run_calls_observers_once_with_all_timesteps():
    neuron, seen = IPVAENeuron(5), []
    neuron.observers.append(seen.append)
    spk, mem = neuron.run(torch.rand(6, 2, 5))
    ((shown_spk, shown_mem),) = seen
    assert torch.equal(shown_spk.reshape(spk.shape), spk)
    assert torch.equal(shown_mem.reshape(mem.shape), mem)
