"""The model: unrolled inference against the one-step neuron, records, loss, files."""

import pickle

import pytest
import torch

from ipvae_snn import IPVAE, surrogate
from ipvae_snn import functional as F
from ipvae_snn.kernels import native


@pytest.fixture
def model():
    torch.manual_seed(1)
    return IPVAE(12, 7, init_std=0.3)


X = torch.rand(5, 12, generator=torch.Generator().manual_seed(0))


def test_parameter_count_is_the_papers():
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


def test_recorded_nll_and_kl_are_those_of_the_recorded_spikes_and_membranes(model):
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


def test_every_parameter_learns(model):
    model.loss(X, 6).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_gradient_equals_that_of_the_residual_form(model):
    """An independent unroll in float64: pixels at every step, no Gram, the same spikes."""
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
    for _ in range(steps):
        error = (x - spk @ weight.T) / sigma**2
        step = neuron.log_step.exp() * (error @ weight - neuron.log_bias.exp())
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


def test_record_names_what_is_returned(model):
    out = model.run(X, 6, record=("kl", "spk"))
    assert out._fields == ("kl", "spk", "state")
    assert out.kl.shape == (6, 5)
    assert out.spk.shape == (6, 5, 7)
    assert model.run(X, 6, record=())._fields == ("state",)
    again = pickle.loads(pickle.dumps(model.run(X, 2, record=("nll",), seed=0)))
    assert again._fields == ("nll", "state")


def test_every_keeps_each_nth_step(model):
    whole, some = model.run(X, 10, seed=0), model.run(X, 10, every=3, seed=0)
    assert torch.equal(some.spk, whole.spk[2::3])
    assert torch.equal(some.nll, whole.nll[2::3])
    assert torch.equal(some.state.mem, whole.state.mem)
    assert model.run(X, 2, every=3).spk.shape[0] == 0


def test_a_run_goes_on_from_a_state(model):
    torch.manual_seed(3)
    whole = model.run(X, 10)
    torch.manual_seed(3)
    first = model.run(X, 4)
    second = model.run(X, 6, state=first.state)
    assert torch.equal(torch.cat([first.spk, second.spk]), whole.spk)
    assert torch.equal(torch.cat([first.kl, second.kl]), whole.kl)


def test_changing_input_of_equal_frames_equals_constant_input(model):
    constant = model.run(X, 7, seed=1)
    changing = model.run(X.expand(7, 5, 12), seed=1)
    for a, b in zip(constant[:4], changing[:4], strict=True):
        torch.testing.assert_close(a, b)


def test_a_frame_acts_from_its_own_timestep_on(model):
    frames = X.repeat(6, 1, 1)
    other = frames.clone()
    other[3:] += 1.0
    a, b = model.run(frames, seed=1), model.run(other, seed=1)
    assert torch.equal(a.mem[:3], b.mem[:3])
    assert not torch.equal(a.mem[3], b.mem[3])


@pytest.mark.parametrize("own", [False, True])
def test_equal_seeds_give_equal_spikes_whatever_was_drawn_before(own):
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


def test_lateral_scale_zero_is_no_competition(model):
    model.neuron.lateral_scale = 0.0
    alone = model.run(X, 1).mem[0]
    step = model.neuron.log_step.exp() * (model.neuron.drive(X) - model.neuron.log_bias.exp())
    clamped = F.soft_clamp(model.neuron.mem_init + F.soft_clamp(step, 5.0), 5.0)
    torch.testing.assert_close(alone, clamped)
    out = model.run(X, 3, seed=0)
    # Without inhibition a membrane does not know what was emitted.
    assert torch.equal(out.mem, model.run(X, 3, seed=1).mem)


def test_relaxed_estimators_count_exactly_in_eval():
    model = IPVAE(12, 7, init_std=0.3, spike_grad=surrogate.eat(0.5))
    assert (model.run(X, 5).spk % 1).any()
    assert not (model.eval().run(X, 5).spk % 1).any()


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spike_grad", [None, surrogate.eat(0.3, "sigmoid")], ids=repr)
def test_save_and_load(tmp_path, spike_grad):
    model = IPVAE(
        12, 7, spike_grad=spike_grad, clamp=4.0, leak=0.1, lateral_scale=0.5, learn_bias=False,
        kl_form="published",
    )  # fmt: skip
    model.save(tmp_path / "model.pt")
    again = IPVAE.load(tmp_path / "model.pt")
    assert again.config() == model.config()
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert torch.equal(again.eval().run(X, 9, seed=0).mem, model.eval().run(X, 9, seed=0).mem)
    torch.load(tmp_path / "model.pt", weights_only=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


class Bomb:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("kind", ["bomb", "truncated", "text", "foreign", "newer", "shapes"])
def test_a_bad_file_is_refused_and_runs_nothing(model, tmp_path, kind, capsys):
    path = tmp_path / "model.pt"
    model.save(path)
    content = torch.load(path, weights_only=True)
    if kind == "bomb":
        torch.save({**content, "config": Bomb()}, path)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "text":
        path.write_text("not a model")
    elif kind == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    elif kind == "newer":
        torch.save({**content, "version": 99}, path)
    else:
        torch.save({**content, "config": {**content["config"], "latents": 8}}, path)
    with pytest.raises(ValueError, match=r"model\.pt"):
        IPVAE.load(path)
    assert capsys.readouterr().out == ""


def test_a_missing_file_and_a_missing_folder(model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"IPVAE\.save"):
        IPVAE.load(tmp_path / "none.pt")
    with pytest.raises(ValueError, match="does not exist"):
        model.save(tmp_path / "no" / "model.pt")


def test_a_failed_save_leaves_the_old_file(model, tmp_path):
    model.save(tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()
    model.neuron.spike_grad = torch.exp  # cannot be written down
    with pytest.raises(TypeError, match="midpoint"):
        model.save(tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


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
def test_bad_input_to_run(model, x, options, error, says):
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
def test_bad_options(options, error, says):
    with pytest.raises(error, match=says):
        IPVAE(**{"in_features": 12, "latents": 7, **options})


def test_decode_refuses_the_wrong_size(model):
    with pytest.raises(ValueError, match=r"\(\.\.\., 7\)"):
        model.decode(torch.zeros(3, 12))


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


def test_the_bias_is_given_and_kept(tmp_path):
    model = IPVAE(16, 8, bias=0.02, learn_bias=False)
    torch.testing.assert_close(model.neuron.log_bias.exp(), torch.full((8,), 0.02))
    assert "neuron.log_bias" not in dict(model.named_parameters())
    model.save(tmp_path / "model.pt")
    assert torch.equal(IPVAE.load(tmp_path / "model.pt").neuron.log_bias, model.neuron.log_bias)
    with pytest.raises(ValueError, match="bias"):
        IPVAE(16, 8, bias=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("estimator", [surrogate.midpoint, surrogate.bernoulli])
def test_spikes_of_a_sample_do_not_depend_on_the_others_where_it_has_a_seed(
    dtype, moving, estimator
):
    model = IPVAE(40, 70, init_std=0.3, spike_grad=estimator()).to(dtype)
    x = torch.randn(*((12,) if moving else ()), 9, 40, dtype=dtype)
    seeds = torch.randint(-(2**62), 2**62, (9,))
    together = model.run(x, 12, seed=3, sample_seeds=seeds)
    for chosen in ([8, 2, 5], [0], [4, 4, 1, 6, 7]):
        some = model.run(x[..., chosen, :], 12, seed=3, sample_seeds=seeds[chosen])
        for name in ("spk", "mem", "nll", "kl"):
            assert torch.equal(getattr(together, name)[:, chosen], getattr(some, name)), name
    assert not torch.equal(model.run(x, 12, seed=4, sample_seeds=seeds).spk, together.spk)
    assert not torch.equal(model.run(x, 12, seed=3, sample_seeds=seeds + 1).spk, together.spk)


def test_seeds_of_samples_that_count_them_draw_as_no_seeds_do():
    model = IPVAE(40, 70, init_std=0.3).double().float()
    x = torch.randn(200, 40)
    if not native.fits(model.weight):
        pytest.skip("no compiled kernels")
    state = model.neuron.initial_state((200, 70))
    x[:] = x[0]  # equal drives, whatever a product does with its rows
    plain = model.run(x, 5, seed=1, state=state)
    counted = model.run(x, 5, seed=1, state=state, sample_seeds=torch.arange(200))
    assert (plain.spk == counted.spk).float().mean() > 0.999


def test_gradients_with_seeds_of_samples_are_those_of_the_whole_batch():
    model = IPVAE(12, 10, init_std=0.3, spike_grad=surrogate.rounded()).double()
    x = torch.randn(6, 12, dtype=torch.float64)
    grads = []
    for seeds in (None, torch.arange(6)):
        model.zero_grad()
        out = model.run(x, 8, record=("nll", "kl"), sample_seeds=seeds)
        (out.nll + out.kl).mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for whole, single in zip(*grads, strict=True):
        assert torch.allclose(whole, single, atol=1e-12)


@pytest.mark.parametrize(
    ("seeds", "error"),
    [
        (torch.arange(3), ValueError),
        (torch.zeros(4), TypeError),
        ([0, 1, 2, 3], TypeError),
        (torch.zeros(4, 1, dtype=torch.int64), ValueError),
    ],
    ids=str,
)
def test_seeds_of_samples_that_are_none(seeds, error):
    with pytest.raises(error, match="sample_seeds"):
        IPVAE(5, 3).run(torch.rand(4, 5), 2, sample_seeds=seeds)
