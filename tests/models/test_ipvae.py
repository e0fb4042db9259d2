"""The model: unrolled inference against the one-step neuron, recorded fields, loss, bad input."""

import math
import pickle

import pytest
import torch

from ipvae_snn import IPVAE, surrogate
from ipvae_snn import functional as F
from ipvae_snn.models import ConvIPVAE
from ipvae_snn.models.likelihoods import Gaussian


@pytest.fixture
def model():
    torch.manual_seed(1)
    return IPVAE(12, 7, init_std=0.3)


X = torch.rand(5, 12, generator=torch.Generator().manual_seed(0))


def test_parameter_count_equals_the_papers():
    assert sum(p.numel() for p in IPVAE(784, 512).parameters()) == 403_217


def test_run_equals_the_one_step_neuron(model):
    out = model.run(X, 20, seed=4)
    torch.manual_seed(4)
    spk, mem = model.neuron.reset_mem()
    drive, gram = model.neuron.drive(X), model.neuron.gram()
    for t in range(20):
        spk, mem = model.neuron(drive, spk, mem, gram=gram)
        assert torch.equal(spk, out.spk[t])
        torch.testing.assert_close(mem, out.mem[t], rtol=0, atol=2e-5)
    assert torch.equal(out.state.spk, out.spk[-1])
    assert torch.equal(out.state.mem, out.mem[-1])


def test_recorded_nll_and_kl_match_the_recorded_spikes_and_membranes(model):
    out = model.run(X, 10)
    log_scale = model.neuron.lateral.bounded_log_scale()
    torch.testing.assert_close(out.nll, F.gaussian_nll(X - model.decode(out.spk), log_scale))
    before = torch.cat([model.neuron.mem_init.expand(1, 5, 7), out.mem[:-1]])
    torch.testing.assert_close(out.kl, F.poisson_kl(out.mem, before).sum(-1))


def test_loss_is_the_mean_free_energy(model):
    torch.manual_seed(9)
    loss = model.loss(X, 6, beta=3.0)
    torch.manual_seed(9)
    out = model.run(X, 6)
    torch.testing.assert_close(loss, (out.nll + 3.0 * out.kl).mean() * 256 / 12)
    published = IPVAE(12, 7, kl_form="published")
    published.load_state_dict(model.state_dict())
    torch.manual_seed(9)
    assert published.loss(X, 6, beta=3.0) != loss


def test_every_parameter_gets_a_gradient(model):
    model.loss(X, 6).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_gradient_equals_that_of_the_residual_form(model):
    """An independent loop in float64: residuals at every timestep, no Gram, the same spikes."""
    model = model.double()
    x, steps, beta = X.double(), 8, 2.0
    model.run(x, steps)
    torch.manual_seed(2)
    model.loss(x, steps, beta).backward()
    fused = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    torch.manual_seed(2)
    neuron, draw = model.neuron, model.neuron.spike_grad
    weight, sigma = model.decoder.weight, (3.45 * torch.tanh(neuron.lateral.log_scale / 3.45)).exp()
    mem = neuron.mem_init.expand(5, 7)
    spk, total = torch.zeros_like(mem), 0.0
    variance = 0.5 * (weight / sigma[:, None]).square().sum(0)
    for _ in range(steps):
        error = (x - spk @ weight.T) / sigma**2
        step = neuron.log_step.exp() * (error @ weight - variance - neuron.log_bias.exp())
        before, mem = mem, F.soft_clamp(mem + F.soft_clamp(step, neuron.clamp), neuron.clamp)
        spk = draw(mem)
        nll = -torch.distributions.Normal(spk @ weight.T, sigma).log_prob(x).sum(-1)
        kl = torch.distributions.kl_divergence(
            torch.distributions.Poisson(mem.exp()), torch.distributions.Poisson(before.exp())
        )
        total = total + (nll + beta * kl.sum(-1)).mean()
    (total / steps * 256 / 12).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(fused[name], parameter.grad, rtol=1e-9, atol=1e-9)


def test_record_selects_the_returned_fields(model):
    out = model.run(X, 6, record=("kl", "spk"))
    assert out._fields == ("kl", "spk", "state")
    assert out.kl.shape == (6, 5)
    assert out.spk.shape == (6, 5, 7)
    assert model.run(X, 6, record=())._fields == ("state",)
    again = pickle.loads(pickle.dumps(model.run(X, 2, record=("nll",), seed=0)))
    assert again._fields == ("nll", "state")


def test_every_keeps_each_nth_timestep(model):
    whole, some = model.run(X, 10, seed=0), model.run(X, 10, every=3, seed=0)
    assert torch.equal(some.spk, whole.spk[2::3])
    assert torch.equal(some.nll, whole.nll[2::3])
    assert torch.equal(some.state.mem, whole.state.mem)
    assert model.run(X, 2, every=3).spk.shape[0] == 0


def test_a_run_resumes_from_a_state(model):
    torch.manual_seed(3)
    whole = model.run(X, 10)
    torch.manual_seed(3)
    first = model.run(X, 4)
    second = model.run(X, 6, state=first.state)
    assert torch.equal(torch.cat([first.spk, second.spk]), whole.spk)
    assert torch.equal(torch.cat([first.kl, second.kl]), whole.kl)


def test_a_sequence_of_equal_frames_equals_constant_input(model):
    constant = model.run(X, 7, seed=1)
    changing = model.run(X.expand(7, 5, 12), seed=1)
    for a, b in zip(constant[:4], changing[:4], strict=True):
        torch.testing.assert_close(a, b)


def test_a_frame_has_no_effect_before_its_timestep(model):
    frames = X.repeat(6, 1, 1)
    other = frames.clone()
    other[3:] += 1.0
    a, b = model.run(frames, seed=1), model.run(other, seed=1)
    assert torch.equal(a.mem[:3], b.mem[:3])
    assert not torch.equal(a.mem[3], b.mem[3])


@pytest.mark.parametrize("own", [False, True])
def test_a_seed_fixes_the_spikes_and_leaves_the_random_state_untouched(own):
    generator = torch.Generator() if own else None
    model = IPVAE(12, 7, spike_grad=surrogate.midpoint(generator=generator))
    first = model.run(X, 5, seed=0)
    torch.rand(100)
    model.run(X, 50)
    state = torch.get_rng_state()
    again = model.run(X, 5, seed=0)
    assert torch.equal(first.mem, again.mem)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first.mem, model.run(X, 5, seed=1).mem)


def test_lateral_scale_zero_removes_inhibition(model):
    model.neuron.lateral_scale = 0.0
    alone = model.run(X, 1).mem[0]
    step = model.neuron.log_step.exp() * (model.neuron.drive(X) - model.neuron.log_bias.exp())
    clamped = F.soft_clamp(model.neuron.mem_init + F.soft_clamp(step, 5.0), 5.0)
    torch.testing.assert_close(alone, clamped)
    out = model.run(X, 3, seed=0)
    # Without inhibition membranes do not depend on the spikes.
    assert torch.equal(out.mem, model.run(X, 3, seed=1).mem)


def test_relaxed_estimators_draw_integers_in_eval_mode():
    model = IPVAE(12, 7, init_std=0.3, spike_grad=surrogate.eat(0.5))
    assert (model.run(X, 5).spk % 1).any()
    assert not (model.eval().run(X, 5).spk % 1).any()


def test_without_a_learned_scale_sigma_is_one(tmp_path):
    fixed, learned = IPVAE(16, 8, learn_scale=False), IPVAE(16, 8)
    learned.load_state_dict(fixed.state_dict(), strict=False)  # its log σ starts at 0
    x = torch.rand(5, 16)
    assert fixed.log_scale is None
    assert sum(p.numel() for p in learned.parameters()) == 16 + sum(
        p.numel() for p in fixed.parameters()
    )
    mine, other = fixed.run(x, 10, seed=0), learned.run(x, 10, seed=0)
    assert torch.equal(mine.spk, other.spk)
    torch.testing.assert_close(mine.nll, other.nll)
    fixed.loss(x, 4).backward()
    fixed.save(tmp_path / "model.pt")
    again = IPVAE.load(tmp_path / "model.pt")
    assert again.log_scale is None
    assert torch.equal(again.run(x, 10, seed=0).spk, mine.spk)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: IPVAE(16, 8, **options),
        lambda **options: ConvIPVAE(1, 4, 3, 2, **options),
    ],
    ids=["flat", "maps"],
)
def test_a_scale_that_stays_is_the_unit_of_the_data(make, tmp_path):
    scale = 0.4
    model, plain = make(learn_scale=False, scale=scale), make(learn_scale=False)
    for each in (model, plain):
        each.double().neuron.spike_grad = surrogate.rounded()
    with torch.no_grad():
        plain.decoder.weight.copy_(model.decoder.weight.normal_() / scale)
        plain.neuron.mem_init.copy_(model.neuron.mem_init)
    x = torch.rand(*((5, 1, 7, 9) if isinstance(model, ConvIPVAE) else (5, 16))).double()
    mine, other = (m.run(y, 10, seed=0) for m, y in ((model, x), (plain, x / scale)))
    near = {"rtol": 1e-5, "atol": 1e-6}  # σ was made in single precision
    torch.testing.assert_close(mine.mem, other.mem, **near)
    torch.testing.assert_close(mine.nll, other.nll + x[0].numel() * math.log(scale), **near)
    model.loss(x, 4).backward()
    fixed = [p for name, p in model.named_parameters() if name.endswith("log_scale")]
    assert len(fixed) == 1
    assert fixed[0].grad is None
    model.save(tmp_path / "model.pt")
    again = type(model).load(tmp_path / "model.pt").double()
    assert torch.equal(again.run(x, 10, seed=0).mem, mine.mem)
    assert again.config() == model.config()
    assert not all(p.requires_grad for p in again.parameters())


def test_the_gaussian_likelihood_takes_a_scale_that_stays():
    likelihood, x, eta = (
        Gaussian(16, learn_scale=False, scale=0.4),
        torch.rand(3, 16),
        torch.rand(16),
    )
    expected = -torch.distributions.Normal(eta, 0.4).log_prob(x).sum(1)
    torch.testing.assert_close(likelihood.nll(x, eta), expected)
    torch.testing.assert_close(likelihood.score(x, eta), (x - eta) / 0.16)
    assert not any(p.requires_grad for p in likelihood.parameters())


def test_a_scale_near_the_bounds_is_refused():
    for scale in (0.0, 0.02, 50.0, math.nan):
        with pytest.raises(ValueError, match="scale"):
            IPVAE(16, 8, scale=scale)


def test_a_fixed_bias_is_no_parameter_and_is_saved(tmp_path):
    model = IPVAE(16, 8, bias=0.02, learn_bias=False)
    torch.testing.assert_close(model.neuron.log_bias.exp(), torch.full((8,), 0.02))
    assert "neuron.log_bias" not in dict(model.named_parameters())
    model.save(tmp_path / "model.pt")
    assert torch.equal(IPVAE.load(tmp_path / "model.pt").neuron.log_bias, model.neuron.log_bias)
    with pytest.raises(ValueError, match="bias"):
        IPVAE(16, 8, bias=0.0)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "options", "error", "says"),
    [
        (torch.rand(5, 11), {}, ValueError, r"\(B, 12\)"),
        (torch.rand(12), {}, ValueError, r"\(B, 12\)"),
        (torch.rand(0, 12), {}, ValueError, "not be empty"),
        (torch.ones(5, 12, dtype=torch.long), {}, TypeError, "floating point"),
        (torch.rand(5, 12).double(), {}, TypeError, "float64"),
        (torch.rand(5, 12).numpy(), {}, TypeError, "torch.Tensor"),
        (torch.full((5, 12), float("nan")), {}, ValueError, "60 NaN"),
        (torch.full((5, 12), float("inf")), {}, ValueError, "infinite"),
        (X, {"num_steps": 0}, ValueError, "at least 1"),
        (X, {"num_steps": -3}, ValueError, "at least 1"),
        (X, {"num_steps": 2.0}, TypeError, "integer"),
        (X, {"num_steps": None}, ValueError, "must be given"),
        (X.expand(4, 5, 12), {"num_steps": 3}, ValueError, "4 timesteps"),
        (X, {"record": ("spikes",)}, ValueError, "record takes"),
        (X, {"record": ("spk", "spk")}, ValueError, "at most once"),
        (X, {"every": 0}, ValueError, "every"),
        (X, {"state": (torch.zeros(4, 7), torch.zeros(4, 7))}, ValueError, "state.spk"),
    ],
)
def test_run_refuses_bad_input(model, x, options, error, says):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(error, match=says):
        model.run(x, **{"num_steps": 3, **options})
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"in_features": 0}, ValueError, "in_features"),
        ({"latents": 2.5}, TypeError, "latents"),
        ({"clamp": -9.0}, ValueError, "clamp"),
        ({"clamp": 40.0}, ValueError, "clamp"),
        ({"leak": 1.5}, ValueError, "leak"),
        ({"lateral_scale": -1.0}, ValueError, "lateral_scale"),
        ({"kl_form": "other"}, ValueError, "'exact' or 'published'"),
        ({"spike_grad": "atan"}, TypeError, "callable"),
        ({"init_std": float("nan")}, ValueError, "init_std"),
    ],
)
def test_bad_options_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        IPVAE(**{"in_features": 12, "latents": 7, **options})


def test_decode_refuses_the_wrong_size(model):
    with pytest.raises(ValueError, match=r"\(\.\.\., 7\)"):
        model.decode(torch.zeros(3, 12))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: m.run(X, 3, state=X), TypeError),
        (lambda m: m.run(X, 3, state=(X, X, X)), TypeError),
        (lambda m: m.run(X, 3, state=(torch.zeros(5, 7), torch.full((5, 7), 1e999))), ValueError),
        (lambda m: m.run(X * 1e38, 3), ValueError),
        (lambda m: m.run(X, 3, seed="a"), TypeError),
        (lambda m: m.run(X, 3, seed=-1), ValueError),
        (lambda m: m.decode(torch.zeros(3, 7).double()), TypeError),
        (lambda m: m.loss(X, 3, beta=float("nan")), ValueError),
        (lambda m: m.neuron(torch.zeros(5, 7), gram=torch.eye(3)), ValueError),
        (lambda m: m.neuron(torch.zeros(5, 7), [1.0], [2.0]), TypeError),
    ],
)
def test_invalid_arguments_are_refused(model, call, error):
    with pytest.raises(error):
        call(model)


def test_nan_weights_are_refused(model):
    with torch.no_grad():
        model.decoder.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weights"):
        model.run(X, 3)


def test_a_half_precision_state_is_accepted(model):
    state = tuple(part.half() for part in model.run(X, 3).state)
    assert model.run(X, 3, state=state).mem.dtype == torch.float32
