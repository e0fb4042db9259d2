"""The fused unroll against the neuron's own timestep under autograd, with the same draws."""

import math
import random
from dataclasses import dataclass, field

import pytest
import torch

from ipvae_snn import IPVAE, surrogate
from ipvae_snn.bench import reference
from ipvae_snn.kernels import cuda_graphs, native, native_adjoint, plain
from ipvae_snn.neurons import IPVAENeuron, inference


@dataclass
class Replay(surrogate.Exact):
    """Emits counts that were drawn before, with the slope of another estimator."""

    counts: list = field(default_factory=list)
    like: surrogate.Exact = field(default_factory=surrogate.midpoint)

    def draw(self, mem):
        return self.counts.pop(0).to(mem.dtype)

    def slope(self, spk, rate):
        return self.like.slope(spk, rate)


class OwnSlope(surrogate.Exact):
    """An estimator as a user would write it."""

    def slope(self, spk, rate):
        return rate + 0.3 * (spk - rate)


NATIVE = pytest.mark.skipif(
    not native.available(), reason=f"no kernels: {native.unavailable_reason()}"
)
ESTIMATORS = [
    surrogate.midpoint(),
    surrogate.rate(),
    surrogate.rounded(),
    surrogate.bernoulli(5),
    OwnSlope(),
]


def random_problem(seed, dtype=torch.float64, **options):
    """A model of random shape, its input, number of timesteps and perhaps a state; the problems
    together reach both clamps and both floors."""
    pick = random.Random(seed)
    pixels, latents = pick.randint(1, 12), pick.choice([1, 2, 7, 20, 63, 64, 65, 130])
    batch, steps = pick.randint(1, 9), pick.choice([1, 2, 3, 4, 5, 8, 9, 17, 40])
    torch.manual_seed(seed)
    options = {"leak": pick.choice([0.0, 0.3]), "lateral_scale": pick.choice([1.0, 0.6])} | options
    model = IPVAE(
        pixels,
        latents,
        init_std=pick.choice([0.05, 0.5]),
        clamp=pick.choice([2.0, 5.0, 10.0]),
        step=pick.choice([0.2, 1.0, 6.0]),
        kl_form=pick.choice(["exact", "published"]),
        **options,
    ).to(dtype)
    with torch.no_grad():
        model.neuron.mem_init.uniform_(-8.5, 6.0)
        model.neuron.lateral.log_scale.uniform_(-1, 1)
    shape = (steps, batch, pixels) if pick.random() < 0.4 else (batch, pixels)
    x = 3 * torch.randn(shape, dtype=dtype)
    state = None
    if pick.random() < 0.5:
        spk = torch.randint(0, 3, (batch, latents)).to(dtype)
        mem = torch.empty(batch, latents, dtype=dtype).uniform_(-9, 5)
        state = (spk.requires_grad_(), mem.requires_grad_())
    return model, x, steps, state


def objective(out, every=1):
    """A scalar of all that a run returns, with a different gradient for every entry."""
    total = 0.0
    for number, part in enumerate([*out[:-1], *out.state]):
        weights = torch.linspace(-1, 1.3 + number, part.numel(), dtype=part.dtype)
        total = total + (part.reshape(-1) * weights).mean()
    return total


def gradients(model, x, steps, state, **options):
    inputs = [*model.parameters(), *(state or ())]
    out = model.run(x, steps, state=state, seed=5, **options)
    grads = torch.autograd.grad(objective(out), inputs, allow_unused=True)
    names = [*(n for n, _ in model.named_parameters()), "spk", "mem"]
    filled = [torch.zeros_like(v) if g is None else g for v, g in zip(inputs, grads, strict=True)]
    return out, dict(zip(names, filled, strict=False))


def use_stepwise_loop(monkeypatch):
    monkeypatch.setattr(inference, "assumptions_of", lambda neuron: None)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("seed", range(24))
def test_gradients_equal_autograd_through_the_timesteps(seed, estimator, monkeypatch):
    model, x, steps, state = random_problem(seed, spike_grad=estimator)
    every = 1 + seed % 3
    out, fused = gradients(model, x, steps, state, every=every)
    use_stepwise_loop(monkeypatch)
    same, plain = gradients(model, x, steps, state, every=every)
    for a, b in zip([*out[:-1], *out.state], [*same[:-1], *same.state], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for name, expected in plain.items():
        scale = max(1.0, float(expected.abs().max()))
        assert (fused[name] - expected).abs().max() <= 1e-10 * scale, name


def test_the_random_problems_reach_all_clamps_and_floors():
    """Those of the membrane and of its change; silent neurons and counts above 255, too."""
    met = dict.fromkeys(("floor", "clamp", "step floor", "step clamp", "silent", "many"), False)
    for seed in range(24):
        model, x, steps, state = random_problem(seed)
        neuron, c = model.neuron, model.neuron.clamp
        with torch.no_grad():
            start = state or neuron.initial_state((x.shape[-2], model.latents))
            out = model.run(x, steps, state=state, record=("mem", "spk"), seed=5)
            spk, mem = (torch.cat([s[None], o[:-1]]) for s, o in zip(start, out, strict=False))
            inhibition = neuron.lateral_scale * (spk @ neuron.gram())
            current = neuron.drive(x) - inhibition - neuron.tonic(neuron.gram())
            step = neuron.log_step.exp() * (current - neuron.leak * (mem - neuron.mem_init))
        met["floor"] |= bool((out.mem - c + math.log1p(math.exp(c + 8)) < 1e-9).any())
        met["clamp"] |= bool((out.mem > c - 0.01).any())
        met["step floor"] |= bool((step < -8).any())
        met["step clamp"] |= bool((step > c + 5).any())
        met["silent"] |= bool((out.spk == 0).any())
        met["many"] |= bool((out.spk > 255).any())
    assert all(met.values()), met


@NATIVE
@pytest.mark.parametrize("estimator", [*ESTIMATORS[:3], OwnSlope()], ids=repr)
@pytest.mark.parametrize("seed", range(24))
def test_compiled_kernels_have_the_accuracy_of_float32(seed, estimator, monkeypatch):
    """Replays the counts of the kernel step by step, in float64 as the truth and in float32."""
    model, x, steps, state = random_problem(seed, torch.float32, spike_grad=estimator)
    out, fast = gradients(model, x, steps, state)
    use_stepwise_loop(monkeypatch)

    def replayed(model, x, dtype):
        start = state and tuple(s.detach().to(dtype).requires_grad_() for s in state)
        model.neuron.spike_grad = Replay(counts=list(out.spk.detach()), like=estimator)
        result = gradients(model, x.to(dtype), steps, start)
        assert not model.neuron.spike_grad.counts
        return result

    plain_out, plain = replayed(model, x, torch.float32)
    true_out, true = replayed(model.double(), x, torch.float64)

    def error(value, truth):
        value, truth = value.detach(), truth.detach()
        return float((value - truth).abs().max() / truth.abs().max().clamp(min=1e-3))

    for name in ("mem", "nll", "kl"):
        a, b, truth = (getattr(o, name) for o in (out, plain_out, true_out))
        assert error(a, truth) < 4 * error(b, truth) + 3e-6, name
    for name, truth in true.items():
        assert error(fast[name], truth) < 4 * error(plain[name], truth) + 1e-5, name


@NATIVE
@pytest.mark.parametrize("seed", [0, 3, 5])
def test_gradients_do_not_depend_on_the_block_size(seed, monkeypatch):
    model, x, steps, state = random_problem(seed, torch.float32)
    _, whole = gradients(model, x, steps, state, every=2)
    monkeypatch.setattr(native_adjoint, "BLOCK", 1)
    monkeypatch.setattr(native_adjoint, "MIN_ROWS", 2)
    _, in_blocks = gradients(model, x, steps, state, every=2)
    for name, expected in whole.items():
        torch.testing.assert_close(in_blocks[name], expected, rtol=1e-4, atol=1e-4)


@NATIVE
def test_dense_and_sparse_spikes_agree():
    """Rows with many spikes share a pass over G, which keeps the order of summation."""
    torch.manual_seed(0)
    model = IPVAE(9, 70, init_std=0.3, clamp=4.0)
    x = torch.randn(12, 9)
    mem = torch.cat([torch.full((6, 70), -4.0), torch.full((6, 70), 3.0)])
    state = (torch.zeros(12, 70), mem)
    with torch.no_grad():
        out = model.run(x, 12, state=state, seed=1)
        inhibition = out.spk.double() @ model.neuron.gram().double()
        quad = (out.spk * (0.5 * inhibition - model.neuron.drive(x))).sum(-1)
        nll = quad + 0.5 * x.square().sum(-1) + 4.5 * math.log(2 * math.pi)
    torch.testing.assert_close(out.nll.double(), nll.double(), rtol=1e-4, atol=1e-3)


@NATIVE
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_forward_pass_does_not_depend_on_the_number_of_threads(threads):
    model, x, steps, state = random_problem(3, torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, _ = gradients(model, x, steps, state)
        torch.set_num_threads(threads)
        out, _ = gradients(model, x, steps, state)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone.mem, out.mem)
    assert torch.equal(alone.nll, out.nll)


@pytest.mark.parametrize("kernels", ["native", "plain"])
def test_loss_and_gradient_agree_in_distribution_with_the_reference(kernels, request):
    """The reference shares only the formulas of clamp and KL; compares means over many samples."""
    if kernels == "plain":
        request.getfixturevalue("plain_kernels")
    torch.manual_seed(0)
    model = IPVAE(10, 6, init_std=0.4)
    with torch.no_grad():
        model.neuron.mem_init.fill_(-0.5)
    x = torch.randn(1, 10).expand(400, 10)

    def sample(loss):
        values = []
        for _ in range(20):
            model.zero_grad()
            value = loss()
            value.backward()
            grads = [p.grad.flatten() for p in model.parameters()]
            values.append(torch.cat([value.detach().view(1), *grads]))
        return torch.stack(values)

    ours = sample(lambda: model.loss(x, 12, beta=2.0))
    for form in (reference.gram_form, reference.published_form):
        theirs = sample(lambda form=form: form(model, x, 12, 2.0))
        se = (ours.var(0) / 20 + theirs.var(0) / 20).sqrt()
        t = (ours.mean(0) - theirs.mean(0)) / se.clamp(min=1e-6)
        assert t.square().mean().sqrt() < 1.6
        assert t.abs().max() < 6


def test_gradients_through_a_resumed_run_equal_those_of_one_run():
    model, x, _, _ = random_problem(2)
    x = x if x.ndim == 2 else x[0]
    whole = model.run(x, 6, seed=1)
    torch.autograd.backward(whole.nll.sum())
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with model.seeded(1):
        first = model.run(x, 2)
        second = model.run(x, 4, state=first.state)
    (first.nll.sum() + second.nll.sum()).backward()
    for p, e in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_counts_above_255_are_kept(dtype):
    model = IPVAE(4, 5, clamp=9.0).to(dtype)
    with torch.no_grad():
        model.neuron.mem_init.fill_(9.0)
    x = torch.zeros(3, 4, dtype=dtype)
    out = model.run(x, 3, seed=0)
    assert out.spk.max() > 255
    grad = torch.autograd.grad(out.spk.sum(), model.neuron.mem_init)[0]
    with torch.no_grad():
        out.spk.sum()
    assert (grad > 1000).all()  # w = (z + λ) / 2, with z not truncated to a byte


def test_second_derivatives_are_refused():
    model, x, steps, _ = random_problem(1)
    loss = model.loss(x, steps)
    with pytest.raises(RuntimeError, match="step by step"):
        torch.autograd.grad(loss, [model.decoder.weight], create_graph=True)


def test_only_known_estimators_are_fused():
    def assumptions(spike_grad, **options):
        """In training and in evaluation."""
        neuron = IPVAENeuron(3, spike_grad=spike_grad, **options)
        return inference.assumptions_of(neuron), inference.assumptions_of(neuron.eval())

    assert assumptions(torch.exp) == (None, None)
    assert assumptions(surrogate.midpoint(), state_quant=torch.round) == (None, None)
    assert assumptions(surrogate.eat()) == (None, ("poisson", "none"))
    assert assumptions(surrogate.midpoint(), surrogate_disable=True)[0].slope == "none"
    assert assumptions(OwnSlope())[0] == ("poisson", "own")
    assert assumptions(Replay())[0].law == "own"


@pytest.mark.filterwarnings("ignore:Dynamo detected a call")
def test_transforms_and_torch_compile_work():
    model, x, _, _ = random_problem(2)
    x = x if x.ndim == 2 else x[0]
    parameters = dict(model.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (x, 4))

    model.forward = model.loss
    with model.seeded(2):
        by_transform = torch.func.grad(loss)(parameters)
    with model.seeded(2):
        expected = torch.autograd.grad(model.loss(x, 4), list(parameters.values()))
    for name, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(by_transform[name], value, rtol=1e-9, atol=1e-9)
    torch._dynamo.reset()
    with model.seeded(2):
        compiled = torch.compile(model.loss, backend="aot_eager")(x, 4)
    with model.seeded(2):
        torch.testing.assert_close(compiled, model.loss(x, 4))


def test_rounded_spikes_leave_the_random_state_untouched():
    model, x, steps, state = random_problem(5, torch.float32, spike_grad=surrogate.rounded())
    before = torch.get_rng_state()
    model.run(x, steps, state=state)
    assert torch.equal(before, torch.get_rng_state())


def test_surrogate_disable_passes_no_gradient_through_spikes(monkeypatch):
    model, x, steps, state = random_problem(6)
    model.neuron.surrogate_disable = True
    _, fused = gradients(model, x, steps, state)
    use_stepwise_loop(monkeypatch)
    _, plain = gradients(model, x, steps, state)
    for name, expected in plain.items():
        torch.testing.assert_close(fused[name], expected, rtol=1e-9, atol=1e-9)


def test_bfloat16_is_warned_about_where_it_is_slower(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    model = IPVAE(4, 3)
    with pytest.warns(UserWarning, match="no instructions for bfloat16.*float32"):
        model.precision = "bfloat16"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    model.precision = "bfloat16"  # a warning would fail here


@pytest.mark.filterwarnings("ignore:this processor has no instructions for bfloat16")
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_lower_precision_changes_gradients_little(precision):
    torch.manual_seed(0)
    model = IPVAE(20, 30, init_std=0.2)
    x = torch.randn(40, 20)

    def gradient():
        model.zero_grad()
        with model.seeded(3):
            model.loss(x, 8).backward()
        return model.decoder.weight.grad.clone()

    exact = gradient()
    model.precision = precision
    error = float((gradient() - exact).norm() / exact.norm())
    assert error < 0.02
    if precision == "tf32":
        assert error < 1e-6  # the CPU has no tf32
    with pytest.raises(ValueError, match="precision must be one of"):
        model.precision = "half"


def fake_recorder(function, generator):
    """Imitates a CUDA graph on the CPU: a replay writes into the tensors of the recording."""
    outputs = function()

    def replay():
        for recorded, new in zip(outputs, function(), strict=True):
            if recorded is not None:
                recorded.copy_(new)

    return replay, outputs


@pytest.mark.parametrize("estimator", [surrogate.rounded(), surrogate.midpoint()], ids=repr)
@pytest.mark.parametrize("seed", range(6))
def test_recorded_loops_equal_the_plain_loop(seed, estimator, monkeypatch, plain_kernels):
    """The CUDA-graph path with a CPU stand-in; the clamp changes as it does in training."""
    monkeypatch.setattr(cuda_graphs, "supports", lambda spec: spec.law != "own")
    monkeypatch.setattr(cuda_graphs.forward, "__defaults__", (fake_recorder,))
    monkeypatch.setattr(cuda_graphs.GraphedAdjoint.__init__, "__defaults__", (fake_recorder,))
    monkeypatch.setattr(cuda_graphs, "_recordings", type(cuda_graphs._recordings)())
    for clamp in (3.0, 3.5):
        model, x, steps, state = random_problem(seed, spike_grad=estimator)
        model.neuron.clamp = clamp
        out, recorded = gradients(model, x, steps, state)
        with monkeypatch.context() as patch:
            use_stepwise_loop(patch)
            same, plain = gradients(model, x, steps, state)
        torch.testing.assert_close(out.mem, same.mem)
        for name, expected in plain.items():
            torch.testing.assert_close(recorded[name], expected, rtol=1e-8, atol=1e-8)
    assert 0 < len(cuda_graphs._recordings) <= cuda_graphs.MAX_RECORDINGS


@pytest.mark.parametrize("seed", [1, 4])
def test_compiled_timesteps_agree_with_eager_ones(seed, monkeypatch, plain_kernels):
    torch._dynamo.reset()

    def fused(function, like):
        return torch.compile(function, backend="aot_eager", dynamic=False)

    monkeypatch.setattr(plain, "_fused", fused)
    model, x, steps, state = random_problem(seed, torch.float32, spike_grad=surrogate.rounded())
    _, compiled = gradients(model, x, steps, state)
    monkeypatch.undo()
    _, expected = gradients(model, x, steps, state)
    for name, value in expected.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=1e-3)


def test_a_timestep_that_cannot_be_compiled_runs_eagerly_with_one_warning(monkeypatch):
    def no_compiler(*_, **__):
        raise OSError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function, **_: no_compiler)
    double = plain._compiled(lambda v: 2 * v)
    with pytest.warns(RuntimeWarning, match="no compiler"):
        assert double(3) == 6
    assert double(4) == 8  # without a second warning


class Returns(surrogate.Exact):
    """Poisson counts, and a slope that a test chooses."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def slope(self, spk, rate):
        return self.make(spk, rate)


def gradient_with(slope, kernels):
    """The gradient of the weights with a slope, by an unroll, or by one timestep."""
    torch.manual_seed(0)
    model = IPVAE(6, 5, init_std=0.5, spike_grad=Returns(slope))
    if kernels == "one step":
        drive, mem = torch.randn(2, 3, 5)
        model.neuron(drive, torch.ones(3, 5), mem)[0].sum().backward()
    else:
        model.loss(torch.randn(3, 6), 4).backward()
    return model.weight.grad


@pytest.fixture(params=["native", "plain", "one step"])
def kernels(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(native, "available", lambda: False)
    return request.param


@pytest.mark.parametrize(
    ("slope", "like"),
    [
        (lambda spk, rate: torch.tensor(0.5), lambda spk, rate: torch.full_like(rate, 0.5)),
        (lambda spk, rate: rate[0], lambda spk, rate: rate[:1].expand_as(rate)),
        (lambda spk, rate: rate.double(), lambda spk, rate: rate),
        (lambda spk, rate: spk.long(), lambda spk, rate: spk),
        (lambda spk, rate: rate.mT.contiguous().mT, lambda spk, rate: rate),
    ],
)
def test_a_slope_of_another_form_is_brought_to_that_of_membranes(kernels, slope, like):
    assert torch.equal(gradient_with(slope, kernels), gradient_with(like, kernels))


@pytest.mark.parametrize(
    ("slope", "error", "told"),
    [
        (lambda spk, rate: 0.5, TypeError, "a tensor, it gave float"),
        (lambda spk, rate: rate[:, 0], ValueError, r"shape \(B, K\) = \(3, 5\), it gave \(3,\)"),
        (lambda spk, rate: rate[None], ValueError, r"it gave \(1, 3, 5\)"),
    ],
)
def test_a_slope_that_does_not_fit_is_refused(kernels, slope, error, told):
    with pytest.raises(error, match=rf"slope\(\) of Returns must return .*{told}"):
        gradient_with(slope, kernels)


@pytest.mark.parametrize("method", ["draw", "sample"])
def test_a_draw_that_does_not_fit_is_refused(method):
    own = type("Own", (surrogate.midpoint,), {method: lambda self, mem: torch.ones(mem.shape[-1])})
    model = IPVAE(6, 5, spike_grad=own())
    with pytest.raises(ValueError, match=r"sample\(\) of Own must .*\(3, 5\), it gave \(5,\)"):
        model.run(torch.randn(3, 6), 4)
