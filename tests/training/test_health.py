"""NaN and infinity in training are detected where they arise, named, and never written."""

import copy
import math

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, fit
from ipvae_snn import functional as F
from ipvae_snn.baselines import IGVAE
from ipvae_snn.data.sources import InMemory, Samples
from ipvae_snn.training import ADVICE, Diverged
from ipvae_snn.training.checkpoint import read_checkpoint

X = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))


def recipe(**changes):
    quick = {"iterations": 8, "batch": 8, "steps": 4, "checkpoint_every": 2, "progress": False}
    return TrainConfig(**{**quick, **changes})


def weights(model):
    return copy.deepcopy(model.state_dict())


def has_weights(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("make", [IPVAE, IGVAE], ids=["IPVAE", "IGVAE"])
def test_bad_initial_weights_are_named_before_training(make, tmp_path):
    model = make(12, 10)
    with torch.no_grad():
        model.weight[3, 4] = math.inf
    with pytest.raises(
        ValueError, match=r"decoder.weight holds 1 NaN or infinite value\(s\) of 120"
    ):
        fit(model, X, recipe(), checkpoint=tmp_path / "a.ckpt")
    assert not list(tmp_path.iterdir())


class SamplesWithBadBatch(Samples):
    """Samples whose third batch holds one bad value."""

    def __init__(self, value):
        self.source, self.reads, self.value = InMemory(X), 0, value
        self.features = 12

    def __len__(self):
        return len(self.source)

    def read(self, rows):
        self.reads += 1
        x = self.source.read(rows)
        if self.reads == 3:
            x[2, 5] = self.value
        return x

    def fingerprint(self):
        return "spoiled"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_batch_is_named_with_its_iteration(value, tmp_path):
    model = IPVAE(12, 10)
    with pytest.raises(ValueError, match="the batch of iteration 3 holds 1 NaN or infinite"):
        fit(model, SamplesWithBadBatch(value), recipe(), checkpoint=tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt")["iteration"] == 2
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_an_overflowing_loss_stops_training_with_advice_and_the_checkpoint(tmp_path):
    model = IPVAE(12, 10)
    with pytest.raises(Diverged) as error:
        fit(model, SamplesWithBadBatch(1e30), recipe(), checkpoint=tmp_path / "a.ckpt")
    message = str(error.value)
    assert message.startswith("training diverged at iteration 3: the ")
    assert ADVICE in message
    assert message.endswith("a.ckpt holds the state after iteration 2")
    assert isinstance(error.value, FloatingPointError)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_a_gradient_that_is_not_finite_is_named_and_the_weights_are_kept(monkeypatch):
    model = IPVAE(12, 10)
    before, run = weights(model), model.run

    def spoil(*arguments, **options):
        out = run(*arguments, **options)
        model.weight.register_hook(lambda grad: grad * math.nan)
        return out

    monkeypatch.setattr(model, "run", spoil)
    with pytest.raises(Diverged, match=r"iteration 1: the gradient of .*decoder.weight holds 120"):
        fit(model, X, recipe())
    assert has_weights(model, before)


@pytest.mark.parametrize("part", ["nll", "kl"])
def test_a_loss_that_is_not_finite_is_named(part, monkeypatch):
    model = IPVAE(12, 10)
    before, run = weights(model), model.run

    def spoil(*arguments, **options):
        out = run(*arguments, **options)
        return out._replace(**{part: getattr(out, part) * math.nan})

    monkeypatch.setattr(model, "run", spoil)
    with pytest.raises(Diverged, match=f"the loss is nan, its {part.upper()} is nan"):
        fit(model, X, recipe())
    assert has_weights(model, before)


def test_a_diverging_training_never_writes_nan(tmp_path):
    model = IPVAE(12, 10, clamp=16.0)
    wild = recipe(
        iterations=400, lr=100.0, warmup=0.0, clamp_start=16.0, grad_clip=1e30, checkpoint_every=1
    )
    with pytest.raises(FloatingPointError, match="training diverged at iteration") as error:
        fit(model, 1e17 * X, wild, checkpoint=tmp_path / "a.ckpt")
    content = read_checkpoint(tmp_path / "a.ckpt")
    assert f"holds the state after iteration {content['iteration']}" in str(error.value)
    for saved in (content["weights"], model.state_dict()):
        assert all(torch.isfinite(value).all() for value in saved.values())


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_mixed_precision_keeps_rates_kl_and_sampling_in_float32(low):
    """Autocast rounds the matrix products; their exponentials must stay in float32."""
    model = IPVAE(12, 10, init_std=0.5)
    with torch.autocast("cpu", dtype=low):
        out = model.run(X, 20, seed=0)
        loss = model.loss(X, 20)
    assert {out.mem.dtype, out.kl.dtype, out.nll.dtype, loss.dtype} == {torch.float32}
    prior = torch.cat([model.neuron.mem_init.expand(1, 40, 10), out.mem[:-1]])
    expected = F.poisson_kl(out.mem.double(), prior.double()).sum(-1)
    assert torch.allclose(out.kl.double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(out.spk, out.spk.round())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_half_precision_membranes_have_float32_rates(low):
    from ipvae_snn.surrogate.exact import rate_of

    mem = torch.tensor([-3.0, 0.0, 4.0], dtype=low)
    assert rate_of(mem).dtype == torch.float32
    near = torch.tensor([1.0], dtype=low), torch.tensor([1.0078125], dtype=low)
    assert float(F.poisson_kl(*near)) >= 0


@pytest.mark.parametrize("threads", [1, 2])
def test_training_is_bit_reproducible(threads):
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = []
        for _ in range(3):
            torch.manual_seed(0)
            model = IPVAE(64, 128, init_std=0.2)
            x = torch.randn(300, 64, generator=torch.Generator().manual_seed(2))
            history = fit(model, x, recipe(iterations=10, batch=100, steps=8))
            results.append((model.state_dict(), history))
    finally:
        torch.set_num_threads(usual)
    for other, history in results[1:]:
        assert history == results[0][1]
        assert all(torch.equal(value, other[name]) for name, value in results[0][0].items())
