"""The local rule: its gradients by hand, what it learns, and that it is a training like any."""

import math

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, fit, metrics
from ipvae_snn.baselines import LCA
from ipvae_snn.models import Bernoulli, ConvIPVAE
from ipvae_snn.models.local_rule import LocalRule
from ipvae_snn.models.residual import expected_nll
from ipvae_snn.training.local import LocalObjective

CONFIG = TrainConfig(
    rule="local", iterations=200, batch=20, steps=12, lr=0.1, lr_end=0.01, log_every=20,
    target_rate=0.5, progress=False,
)  # fmt: skip


def toy(count=400, pixels=16, causes=8):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(pixels, causes, generator=generator)
    rates = torch.rand(count, causes, generator=generator) < 0.25
    return rates.float() @ features.mT + 0.1 * torch.randn(count, pixels, generator=generator)


def test_the_expected_nll_is_the_mean_over_all_counts():
    torch.manual_seed(0)
    model, x = IPVAE(3, 2, init_std=0.5).double(), torch.randn(1, 3, dtype=torch.float64)
    rate = torch.tensor([0.7, 2.1], dtype=torch.float64)
    counts = torch.cartesian_prod(torch.arange(40.0), torch.arange(40.0)).double()
    log_p = (counts * rate.log() - rate - torch.lgamma(counts + 1)).sum(-1)
    log_scale = torch.tensor([0.1, -0.3, 0.4], dtype=torch.float64)
    errors = (x - counts @ model.weight.mT) * (-log_scale).exp()
    nll = 0.5 * errors.square().sum(-1) + log_scale.sum() + 1.5 * math.log(2 * math.pi)
    found = expected_nll(
        x - model.decode(rate), model.spread(rate, x), log_scale, torch.ones_like(x)
    )
    assert torch.allclose(found, (log_p.exp() * nll).sum(), atol=1e-10)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_the_spread_of_maps_is_that_of_squared_features(dimensions):
    torch.manual_seed(0)
    model = ConvIPVAE(2, 3, 4, 2, dimensions=dimensions, init_std=0.3).double()
    size = (9, 7)[:dimensions]
    rate = torch.rand(5, 2, *model.code_shape(size), dtype=torch.float64)
    convolve = (nn.functional.conv_transpose1d, nn.functional.conv_transpose2d)[dimensions - 1]
    whole = convolve(rate.flatten(0, 1), model.decoder.weight.square(), stride=2)
    offset = 2  # of the first pixel: neurons lie wherever a feature touches the image
    window = (..., *(slice(offset, offset + n) for n in size))
    found = model.spread(rate, rate.new_empty(2, 2, *size))
    assert torch.allclose(found.flatten(0, 1), whole[window], atol=1e-12)


@pytest.mark.parametrize("learn_bias", [True, False])
def test_each_gradient_is_what_a_synapse_sees(learn_bias):
    torch.manual_seed(0)
    model = IPVAE(6, 4, init_std=0.5, bias=0.2, learn_bias=learn_bias).double().train()
    x, config = torch.randn(5, 6, dtype=torch.float64), TrainConfig(
        rule="local", steps=3, target_rate=0.5, progress=False
    )  # fmt: skip
    rule = LocalRule(model, (6,), config.lr)
    objective = LocalObjective(model, config, None, rule.moment)
    with model.seeded(3):
        objective(x, 1.0)[0].backward()
    with torch.no_grad(), model.seeded(3):
        rates = model.run(x, 3, record=("mem",)).mem.exp()
    hebb, error = torch.zeros(6, 4, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    moment = torch.zeros(4, 4, dtype=torch.float64)
    weight, scale = model.weight.detach(), model.log_scale.detach().exp()
    for t in range(3):
        for b in range(5):
            rate = rates[t, b]
            r = (x[b] - weight @ rate) / scale**2
            hebb += torch.outer(r, rate) - weight * rate / scale[:, None] ** 2
            error += r.square() * scale**2 + weight.square() @ rate / scale**2
            moment += torch.outer(rate, rate) + torch.diag(rate)
    factor = 256 / 6 / 15
    assert torch.allclose(model.decoder.weight.grad, -factor * hebb, atol=1e-10)
    assert torch.allclose(rule.moment.grad, factor * moment, atol=1e-10)
    mean = rates.mean((0, 1))
    rest = model.neuron.mem_init.detach().exp()
    assert torch.allclose(model.neuron.mem_init.grad, 1 - (mean + 1e-4) / rest)
    if learn_bias:
        assert torch.allclose(model.neuron.log_bias.grad, 1 - mean / 0.5)
    raw = model.neuron.lateral.log_scale
    bounded = torch.autograd.grad(model.log_scale.sum(), raw)[0]
    assert torch.allclose(raw.grad, (256 / 6 - factor * error) * bounded, atol=1e-9)


def test_a_step_solves_with_the_running_mean_of_the_moments():
    torch.manual_seed(0)
    model, config = IPVAE(6, 4, init_std=0.5, learn_scale=False).train(), TrainConfig(rule="local")
    rule = LocalRule(model, (6,), config.lr)
    before, running = model.weight.detach().clone(), None
    for _ in range(3):
        grad, now = torch.randn(6, 4), torch.eye(4) * torch.rand(4)
        model.decoder.weight.grad, rule.moment.grad = grad, now
        rule.step()
        running = now if running is None else 0.99 * running + 0.01 * now
        ridge = 0.05 * 256 / 6 * torch.eye(4)
        before = before - config.lr * grad @ torch.linalg.inv(running + ridge)
        assert torch.allclose(model.weight, before, atol=1e-5)


def test_it_learns_a_sparse_code_in_which_every_neuron_fires():
    torch.manual_seed(0)
    x = toy()
    model = IPVAE(16, 12, bias=0.05)
    history = fit(model, x, CONFIG)
    spk = model.run(x, 64, record=("spk",), every=4, seed=0).spk
    assert metrics.r2(x, model.decode(spk[-1])) > 0.5
    assert bool((spk.sum((0, 1)) > 0).all())
    assert abs(float(spk.mean()) - 0.5) < 0.25
    assert history[-1]["loss"] < history[0]["loss"]


def test_whole_images_and_incomplete_data_teach_too():
    torch.manual_seed(0)
    x = torch.rand(20, 1, 12, 12)
    x[:, :, 2:4, 2:4] = math.nan
    model = ConvIPVAE(1, 6, 4, 2, bias=0.01)
    before = model.decoder.weight.detach().clone()
    config = TrainConfig(
        rule="local", iterations=60, batch=10, steps=6, lr=0.1, log_every=5, missing=True,
        progress=False,
    )  # fmt: skip
    history = fit(model, x, config)
    assert history[-1]["r2"] > history[0]["r2"] + 0.05
    assert not torch.equal(model.decoder.weight, before)


@pytest.mark.parametrize("frozen", ["decoder.weight", "neuron.mem_init", None])
def test_frozen_parts_and_the_step_stay(frozen):
    torch.manual_seed(0)
    model = IPVAE(16, 8)
    names = dict(model.named_parameters())
    name = next((n for n in names if frozen and n.endswith(frozen.split(".")[-1])), None)
    if name:
        names[name].requires_grad_(False)
    before = {n: value.detach().clone() for n, value in names.items()}
    fit(model, toy(), TrainConfig(rule="local", iterations=3, steps=4, progress=False))
    changed = {n for n, value in names.items() if not torch.equal(value, before[n])}
    assert name not in changed
    assert not any("log_step" in n or "log_bias" in n for n in changed)
    assert len(changed) == (3 if name is None else 2)


def test_other_models_and_rules_are_refused():
    with pytest.raises(ValueError, match="rule='local' is not one that a LCA learns by"):
        fit(LCA(16, 8), toy(pixels=16), TrainConfig(rule="local", progress=False))
    with pytest.raises(ValueError, match="rule must be one of"):
        TrainConfig(rule="hebb")
    with pytest.raises(ValueError, match="target_rate"):
        TrainConfig(target_rate=-1)


def binary(count=300):
    """Images of five kinds, some pixels flipped."""
    generator = torch.Generator().manual_seed(1)
    kinds = (torch.rand(5, 16, generator=generator) < 0.4).float()
    x = kinds[torch.randint(5, (count,), generator=generator)]
    return (x - (torch.rand(x.shape, generator=generator) < 0.03).float()).abs()


def make_network(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(8, 12), nn.SiLU(), nn.Linear(12, 16))
    with torch.no_grad():
        network[0].weight.mul_(4)  # a spike is to change something
    return IPVAE(16, 8, decoder=network, likelihood=Bernoulli(), bias=0.02)


def test_another_decoder_learns_by_what_inference_settled_on():
    """The gradient of its weights is that of the NLL of the last counts, and nothing else."""
    model, x = make_network(), binary(20)
    config = TrainConfig(rule="local", steps=6, burn_in=3, batch=20, progress=False)
    with model.seeded(3):
        loss = LocalObjective(model, config, None, None)(x, 1.0)[0]
    loss.backward()
    out = model.run(x, 6, record=("spk", "mem"), seed=3, graph=False)
    eta = model.decoder(out.spk[3:].flatten(0, 1))
    wanted = Bernoulli().nll(x.repeat(3, 1), eta).mean() * 256 / 16
    weights = list(model.decoder.parameters())
    for weight, found in zip(weights, torch.autograd.grad(wanted, weights), strict=True):
        torch.testing.assert_close(weight.grad, found)
    assert model.neuron.log_step.grad == 0
    mean = out.mem[3:].exp().mean((0, 1))
    u = model.neuron.mem_init
    torch.testing.assert_close(u.grad, 1 - (mean + 1e-4) / u.detach().exp(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("missing", [False, True])
def test_another_decoder_learns(missing, tmp_path):
    config = TrainConfig(
        rule="local", iterations=120, batch=30, steps=12, burn_in=8, lr=2e-2, lr_end=2e-3,
        progress=False, missing=missing, checkpoint_every=50, log_every=10,
    )  # fmt: skip
    x, model = binary(), make_network()
    shown = x.clone()
    if missing:
        shown[torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.2] = math.nan
    before = model.neuron.log_step.detach().clone()
    fit(model, shown, config, checkpoint=tmp_path / "a.ckpt")
    assert torch.equal(model.neuron.log_step, before)
    out = model.eval().run(x, 50, record=("nll",), seed=0)
    alone = torch.special.entr(x.mean(0)).add(torch.special.entr(1 - x.mean(0))).sum()
    assert out.nll[-1].mean() < 0.6 * alone  # of a law of single pixels
    again = make_network()
    with pytest.raises(KeyboardInterrupt):
        fit(again, shown, config, checkpoint=tmp_path / "b.ckpt", watch=_interrupt_at(80))
    fit(again, shown, config, checkpoint=tmp_path / "b.ckpt")
    for one, two in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def _interrupt_at(iteration):
    def watch(history):
        if history[-1]["iteration"] >= iteration:
            raise KeyboardInterrupt

    return watch


def test_what_is_kept_does_not_grow_with_time(monkeypatch):
    kept = []
    whole = IPVAE.run

    def watched(self, x, num_steps, **options):
        out = whole(self, x, num_steps, **options)
        kept.append(sum(part.numel() for part in out[:-1]))
        assert not out.state.mem.requires_grad
        return out

    monkeypatch.setattr(IPVAE, "run", watched)
    sizes = []
    for steps in (16, 512):
        kept.clear()
        fit(IPVAE(16, 8), toy(), TrainConfig(rule="local", iterations=2, steps=steps, batch=4,
                                             progress=False))  # fmt: skip
        sizes.append(max(kept))
    assert sizes[0] == sizes[1]
