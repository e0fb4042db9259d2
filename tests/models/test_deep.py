"""Layers that explain one another: against one layer, autograd, and sums over all codes."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, Recorder, TrainConfig, fit, load_model, surrogate
from ipvae_snn.kernels.equations import poisson_kl_sum
from ipvae_snn.models import Bernoulli, DeepIPVAE, Gaussian, LinearDecoder, impute

M, K, L, B = 7, 4, 3, 5


def make(seed=0, **options):
    """Two layers that act on one another."""
    torch.manual_seed(seed)
    model = DeepIPVAE(M, [K, L], init_std=0.5, top_std=0.4, **options)
    for neuron in model.neurons:
        nn.init.uniform_(neuron.mem_init, -1, 0.5)
    return model


def inputs(*shape):
    return torch.randn(*shape, B, M)


def test_a_layer_that_is_cut_off_is_an_ipvae():
    """Without a pull to predictions; counts are rounded, so that nothing is drawn."""
    deep = make(top_down=0.0, spike_grad=surrogate.rounded()).double()
    flat = IPVAE(M, K, spike_grad=surrogate.rounded(), learn_bias=False).double()
    flat.load_state_dict(deep.base.state_dict())
    for x in (inputs().double(), inputs(6).double()):
        ours, theirs = deep.run(x, 6), flat.run(x, 6)
        torch.testing.assert_close(deep.split(ours.mem)[0], theirs.mem)
        torch.testing.assert_close(ours.nll, theirs.nll)


@pytest.mark.parametrize("form", ["exact", "published"])
def test_membranes_follow_the_equations(form):
    model, x = make(form=form, top_down=0.4).double(), inputs().double()
    out = model.run(x, 5, seed=1, graph=False)
    first, second = model.neurons
    spk, mem = torch.zeros(B, K + L, dtype=torch.float64), model._initial_state((B, K + L)).mem
    phi, psi = model.base.weight, model.upper[0].weight
    precision = torch.exp(-2 * model.log_scale)

    def clamped(v):
        return 5.0 - nn.functional.softplus(5.0 - v.clamp(min=-8.0))

    for t in range(5):
        (z1, z2), (u1, u2) = model.split(spk), model.split(mem)
        a = first.mem_init + z2 @ psi.mT
        a = 5.0 - nn.functional.softplus(5.0 - a)
        current1 = (precision * (x - z1 @ phi.mT)) @ phi
        current2 = (z1 - a.exp()) @ psi
        if form == "exact":
            current1 = current1 - 0.5 * precision @ phi.square()
            current2 = current2 - 0.5 * a.exp() @ psi.square()
        h1 = first.log_step.exp() * (current1 - first.log_bias.exp() - 0.4 * (u1 - a))
        h2 = current2 - second.log_bias.exp() - 0.4 * (u2 - second.mem_init)
        h2 = second.log_step.exp() * h2
        mem = torch.cat([clamped(u1 + clamped(h1)), clamped(u2 + clamped(h2))], -1)
        torch.testing.assert_close(out.mem[t], mem.detach())
        spk = out.spk[t]


def test_currents_add_up_to_the_changes_of_membranes():
    """A clamp that is far away, so that nothing but the named currents moves them."""
    model, x = make(clamp=16.0, top_down=0.4).double(), inputs(6).double()
    out = model.run(x, seed=1, graph=False)
    found = model.currents(x, out.spk, out.mem)
    for currents, mem in zip(found, model.split(out.mem), strict=True):
        total = sum(part for name, part in currents._asdict().items() if name != "clamp")
        torch.testing.assert_close(total[1:], mem.diff(dim=0), rtol=1e-5, atol=1e-5)
        assert currents.clamp.abs().max() < 1e-5
    z1, _ = model.split(out.spk)
    step, precision = model.base.neuron.log_step.exp(), torch.exp(-2 * model.log_scale)
    drive = step * (precision * x) @ model.base.weight
    torch.testing.assert_close(found[0].feed_forward, drive.detach())
    inhibition = -step * (z1 @ model.base.weight.mT * precision) @ model.base.weight
    torch.testing.assert_close(found[0].lateral[1:], inhibition[:-1].detach())


def test_a_recorder_watches_each_layer():
    model, x = make(), inputs()
    with Recorder(model) as recorder:
        out = model.run(x, 6, record=("mem",), every=2, seed=0)
    whole = model.run(x, 6, record=("spk", "mem"), seed=0)
    assert torch.equal(out.mem, whole.mem[1::2])
    for name, part in zip(("base.neuron", "upper.0.neuron"), model.split(whole.mem), strict=True):
        assert torch.equal(recorder[name].mem, part.detach())


def test_the_free_energy_bounds_the_evidence():
    """E[NLL + KL] over draws of the codes, against the sum over all codes."""
    torch.manual_seed(0)
    model = DeepIPVAE(3, [2, 2], init_std=0.8, top_std=0.5, step=0.1, bias=1e-4).eval()
    with torch.no_grad():
        for neuron in model.neurons:
            neuron.mem_init.fill_(-0.5)
    x = torch.randn(4, 3)
    most = 12
    codes = torch.tensor(list(itertools.product(range(most), repeat=4))).float()
    with torch.no_grad():
        z1, _ = model.split(codes)
        log_rate = model.predicted(codes)
        log_prior = (codes * log_rate - log_rate.exp() - torch.lgamma(codes + 1)).double().sum(-1)
        log_p = [
            torch.logsumexp(log_prior - model.base.nll_of(z1, row.expand(len(z1), 3)).double(), 0)
            for row in x
        ]
    out = model.run(x.repeat(500, 1), 60, record=("nll", "kl"), seed=0)
    bound = -(out.nll[30:] + out.kl[30:]).mean(0).view(500, 4).mean(0)
    gap = torch.stack(log_p) - bound
    assert (gap > 0).all()
    assert gap.mean() < 1.0


def test_what_is_settled_teaches_all_layers():
    """Gradients of −log p(x, z) by autograd, written down."""
    model, x = make().double(), inputs().double()
    spk = torch.poisson(torch.ones(2, B, K + L, dtype=torch.float64))
    model.settled_loss(x, spk, spk + 0.5, None, 0.0).backward()
    phi, psi = model.base.weight, model.upper[0].weight
    rest, scale = model.base.neuron.mem_init, model.base.neuron.lateral.log_scale
    z1, z2 = model.split(spk)
    a = 5.0 - nn.functional.softplus(5.0 - (rest + z2 @ psi.mT))
    log_scale = 3.45 * torch.tanh(scale / 3.45)
    energy = (x - z1 @ phi.mT).square() * torch.exp(-2 * log_scale) / 2 + log_scale
    wanted = (energy.sum(-1) + (a.exp() - z1 * a).sum(-1)).mean() * 256 / M
    for weight in (phi, psi, rest, scale):
        (slope,) = torch.autograd.grad(wanted, weight, retain_graph=True)
        torch.testing.assert_close(weight.grad, slope)


def test_gradients_flow_through_time():
    model, x = make().double(), inputs().double()
    weight = model.upper[0].weight

    def loss():
        with model.seeded(2):
            return model.loss(x, 4)

    (found,) = torch.autograd.grad(loss(), weight)
    assert found.isfinite().all()
    assert (found != 0).any()


def groups(count=300):
    """Binary images of features of four pixels, of which either ten or the other ten come."""
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(2, (count, 1), generator=generator)
    chosen = torch.rand(count, 20, generator=generator) < 0.7
    chosen = chosen & ((torch.arange(20) < 10) == (group == 0))
    return chosen.float().repeat_interleave(4, 1)


def near_features():
    torch.manual_seed(0)
    decoder = nn.Linear(20, 80)
    with torch.no_grad():
        decoder.weight.mul_(0.1).add_(4 * torch.eye(20).repeat_interleave(4, 0))
        decoder.bias.fill_(-3)
    return {"decoder": decoder, "likelihood": Bernoulli(), "form": "exact"}


CONFIG = TrainConfig(
    rule="local", iterations=200, batch=40, steps=20, burn_in=16, lr=3e-2, lr_end=3e-3,
    progress=False, checkpoint_every=100,
)  # fmt: skip


@pytest.mark.slow
def test_the_upper_layer_learns_what_comes_together():
    """Its free energy is below that of the first layer alone, trained alike."""
    deep = DeepIPVAE(80, [20, 2], **near_features())
    flat = IPVAE(80, 20, step=0.1, bias=1e-4, leak=1.0, learn_bias=False, **near_features())
    x, energies = groups(), []
    for model in (deep, flat):
        fit(model, x[:250], replace(CONFIG, iterations=500, steps=24, lr=2e-2, lr_end=1e-3))
        out = model.run(x[250:], 200, seed=0)
        prior = model.predicted(out.spk) if model is deep else model.neuron.mem_init
        kl = poisson_kl_sum(out.mem, prior.expand_as(out.mem), "exact")
        energies.append((out.nll + kl)[100:].mean())
        if model is deep:
            torch.testing.assert_close(out.kl, kl)
    assert energies[0] < energies[1] - 1


def test_training_goes_on_and_files_hold_it(tmp_path):
    config = replace(CONFIG, iterations=6, checkpoint_every=2, log_every=2)
    x, models = groups(60), []

    def interrupt(history):
        if history[-1]["iteration"] >= 4:
            raise KeyboardInterrupt

    for name in ("whole", "cut"):
        torch.manual_seed(1)
        model = DeepIPVAE(80, [20, 2], decoder=LinearDecoder(20, 80, 0.3), likelihood=Bernoulli())
        if name == "cut":
            with pytest.raises(KeyboardInterrupt):
                fit(model, x, config, checkpoint=tmp_path / name, watch=interrupt)
        fit(model, x, config, checkpoint=tmp_path / name)
        models.append(model)
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, two)
    model.save(tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    assert again.config() == model.config()
    assert torch.equal(again.run(x, 9, seed=3).mem, model.run(x, 9, seed=3).mem)


def test_what_was_not_seen_is_filled_in():
    torch.manual_seed(0)
    model, x = DeepIPVAE(80, [16, 4], init_std=0.1), groups(60)
    hidden = x.clone()
    hidden[:, :2] = math.nan
    fit(model, hidden, replace(CONFIG, iterations=30, missing=True))
    filled = impute(model, hidden, num_steps=30, draws=8, seed=0)
    assert filled.x.isfinite().all()
    assert torch.equal(filled.x[:, 2:], x[:, 2:])
    x[:, :2] = 1e6
    mask = torch.ones(80)
    mask[:2] = 0
    one, two = (model.run(x_, 5, seed=0, mask=m) for x_, m in ((x, mask), (hidden, "nan")))
    torch.testing.assert_close(one.mem, two.mem)
    torch.testing.assert_close(one.nll, two.nll)


def test_any_depth_decoder_and_likelihood():
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, M))
    model = DeepIPVAE(M, [6, 4, 2], decoder=network, likelihood=Bernoulli())
    out = model.run(torch.rand(B, M).round(), 4)
    assert [part.shape[-1] for part in model.split(out.spk)] == [6, 4, 2]
    model.loss(torch.rand(B, M).round(), 3).backward()
    assert all(p.grad is not None for p in model.upper.parameters() if p.requires_grad)
    assert DeepIPVAE(M, 8).sizes == (8, 2)


def test_upper_layers_have_their_own_step_and_rest():
    plain, own = (DeepIPVAE(M, [4, 3, 2], step=0.1, **o) for o in ({}, {"top_step": 0.02}))
    for model, expected in ((plain, 0.1), (own, 0.02)):
        steps = [float(neuron.log_step.detach().exp()) for neuron in model.neurons]
        assert steps == pytest.approx([0.1, expected, expected])
    rests = [neuron.mem_init for neuron in DeepIPVAE(M, [4, 3, 2], top_mem_init=0.5).neurons]
    assert bool((rests[0] < -3).all())
    assert all(bool((rest == 0.5).all()) for rest in rests[1:])
    assert all(bool((neuron.mem_init < -3).all()) for neuron in plain.neurons)


def test_an_upper_layer_learns_that_neurons_fire_together():
    """Of inputs that are all faint or all strong; the free energy is below that of one layer."""
    generator = torch.Generator().manual_seed(0)
    phi = nn.functional.normalize(torch.randn(24, 12, generator=generator), dim=0)
    strength = torch.where(torch.rand(600, 1, generator=generator) < 0.5, 0.1, 3.0)
    x = torch.poisson(strength.expand(-1, 12), generator=generator) @ phi.mT
    x = x + 0.2 * torch.randn(x.shape, generator=generator)
    config = TrainConfig(**{**DeepIPVAE.recipe, "iterations": 200, "lr": 0.01, "progress": False})
    common = {"step": 0.05, "bias": 1e-4, "learn_bias": False, "clamp": 10.0, "scale": 0.4}
    common |= {"init_std": 0.1, "form": "exact"}
    torch.manual_seed(0)
    two = DeepIPVAE(24, [12, 2], top_std=0.1, top_step=0.01, top_mem_init=0.0, **common)
    with torch.no_grad():
        two.upper[0].weight.abs_()
    torch.manual_seed(0)
    parts = {"decoder": LinearDecoder(14, 24), "likelihood": Gaussian(24, scale=0.4)}
    parts["decoder"].weight.data.mul_(10)
    one = IPVAE(24, 14, leak=1.0, **parts, **{k: v for k, v in common.items() if k != "scale"})
    energies = []
    for model in (one, two):
        fit(model, x, config)
        out = model.run(x, 150, seed=0, graph=False)
        kl = out.kl
        if model is one:
            kl = poisson_kl_sum(out.mem, one.neuron.mem_init.detach(), "exact")
        energies.append(float((out.nll + kl)[75:].mean()))
    assert energies[1] < energies[0] - 3, energies
    assert bool((two.upper[0].weight.mean(0) > 0.05).all())


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"latents": [4]}, ValueError, "at least two layers"),
        ({"latents": [4, 0]}, ValueError, "a size of latents"),
        ({"latents": [4, 2], "top_down": -1}, ValueError, "top_down"),
        ({"latents": [4, 2], "top_step": 0}, ValueError, "step"),
        ({"latents": [4, 2], "top_mem_init": -99}, ValueError, "mem_init"),
        ({"latents": [4, 2], "bias": 0}, ValueError, "bias"),
        ({"latents": [4, 2.5]}, TypeError, "a size of latents"),
    ],
)
def test_bad_options_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        DeepIPVAE(M, **options)
