"""Values that were not seen, or known with a precision of their own."""

import copy
import math

import pytest
import torch

from ipvae_snn import IPVAE
from ipvae_snn.models import ConvIPVAE, unrolled
from ipvae_snn.surrogate import rounded

M, K, B, T = 12, 7, 4, 20
NAN = math.nan


def flat(dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {"init_std": 0.5, "step": 0.05, "spike_grad": rounded(), **options}
    model = IPVAE(M, K, **options).to(dtype).eval()
    with torch.no_grad():
        model.neuron.mem_init.uniform_(-1, 0.3)
        if model.log_scale is not None:
            model.neuron.lateral.log_scale.uniform_(-0.3, 0.3)
    return model


def maps(dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {"init_std": 0.5, "step": 0.05, "spike_grad": rounded(), **options}
    model = ConvIPVAE(2, 3, 4, 2, **options).to(dtype).eval()
    with torch.no_grad():
        model.neuron.mem_init.uniform_(-1, 0.3)
        model.raw_log_scale.uniform_(-0.3, 0.3)
    return model


def assert_same(a, b):
    for name in ("spk", "mem", "nll", "kl"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["exact", "published"])
@pytest.mark.parametrize("learn_scale", [True, False])
def test_where_all_is_seen_nothing_changes(form, learn_scale):
    model = flat(form=form, learn_scale=learn_scale, leak=0.1, lateral_scale=0.8)
    x = torch.randn(B, M).double()
    for mask in (torch.ones(M), torch.ones(B, M, dtype=torch.bool), "nan"):
        assert_same(model.run(x, T, mask=mask), model.run(x, T))


@pytest.mark.parametrize("form", ["exact", "published"])
def test_a_sample_is_inferred_as_by_the_model_of_what_it_has(form):
    model, x = flat(form=form), torch.randn(B, M).double()
    mask = torch.rand(B, M) > 0.4
    x[~mask] = NAN
    out = model.run(x, T, mask=mask)
    assert_same(out, model.run(x, T, mask="nan"))
    for i in range(B):
        rows = mask[i].nonzero()[:, 0]
        part = IPVAE(len(rows), K, form=form, step=0.05, spike_grad=rounded()).double().eval()
        with torch.no_grad():
            part.decoder.weight.copy_(model.decoder.weight[rows])
            scale = part.neuron.lateral.log_scale
            scale.copy_(model.neuron.lateral.log_scale[rows])
            for name in ("mem_init", "log_bias", "log_step"):
                getattr(part.neuron, name).copy_(getattr(model.neuron, name))
        alone = part.run(x[i : i + 1, rows], T)
        for name in ("spk", "mem", "nll", "kl"):
            torch.testing.assert_close(getattr(alone, name)[:, 0], getattr(out, name)[:, i])


def test_a_precision_acts_as_a_smaller_variance():
    model, x = flat(), torch.randn(B, M).double()
    precision = torch.rand(M).double() * 3 + 0.1
    other = flat()
    scale = other.neuron.lateral
    with torch.no_grad():
        scale.log_scale.fill_(0)
        wanted = model.log_scale - 0.5 * precision.log()
        for _ in range(50):  # bound_log_scale is inverted by iteration
            scale.log_scale += wanted - other.log_scale
    torch.testing.assert_close(other.log_scale, wanted)
    assert_same(model.run(x, T, mask=precision), other.run(x, T))


def plain_loss(model, x, precision, steps, beta):
    """The objective by the equations alone; emissions are rounded, with the slope λ."""
    weight, log_scale, neuron = model.decoder.weight, model.log_scale, model.neuron
    mem = neuron.mem_init.expand(len(x), -1)
    seen = precision > 0
    by_value = precision * torch.exp(-2 * log_scale)
    variance = by_value @ weight.square()
    spk, total = torch.zeros_like(mem), 0.0
    for _ in range(steps):
        current = ((x - spk @ weight.mT) * by_value) @ weight
        current = current - neuron.log_bias.exp() - 0.5 * variance
        before, h = mem, neuron.log_step.exp() * current
        mem = soft(before + soft(h, model.clamp), model.clamp)
        rate = mem.exp()
        spk = rate + (rate.round() - rate).detach()
        nll = 0.5 * (by_value * (x - spk @ weight.mT).square()).sum(-1)
        each = log_scale + 0.5 * math.log(2 * math.pi) - 0.5 * torch.where(seen, precision, 1).log()
        nll = nll + (each * seen).sum(-1)
        prior = before.exp()
        kl = (prior - rate + rate * (mem - before)).sum(-1)
        total = total + (nll + beta * kl).mean()
    return total / steps * 256 / M


def soft(value, clamp):
    from ipvae_snn.functional import soft_clamp

    return soft_clamp(value, clamp)


@pytest.mark.parametrize("kind", ["mask", "precision", "shared"])
def test_gradients_are_those_of_autograd(kind):
    model, x = flat().train(), torch.randn(B, M).double()
    precision = {
        "mask": (torch.rand(B, M) > 0.4).double(),
        "precision": 3 * torch.rand(B, M).double() * (torch.rand(B, M) > 0.3),
        "shared": 2 * torch.rand(M).double(),
    }[kind]
    out = model.run(x, 8, record=("nll", "kl"), mask=precision)
    loss = (out.nll + 0.7 * out.kl).mean() * 256 / M
    expected = plain_loss(model, x, precision.expand(B, M), 8, 0.7)
    torch.testing.assert_close(loss, expected)
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, parameters.values())
    for name, a, b in zip(
        parameters, found, torch.autograd.grad(expected, parameters.values()), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", ["mask", "precision", "pixels"])
def test_maps_are_inferred_as_by_the_unrolled_model(kind):
    model, size = maps(), (7, 9)
    x = torch.randn(3, 2, *size).double()
    mask = {
        "mask": torch.rand(3, 2, *size) > 0.4,
        "precision": 2 * torch.rand(3, 2, *size),
        "pixels": torch.rand(*size) > 0.4,
    }[kind]
    dense = mask.expand(3, 2, *size)
    x[dense == 0] = NAN
    out, other = (
        model.run(x, T, mask=mask),
        unrolled(model, size).run(x.flatten(1), T, mask=dense.flatten(1)),
    )
    for name in ("spk", "mem"):
        torch.testing.assert_close(getattr(out, name).flatten(2), getattr(other, name))
    for name in ("nll", "kl"):
        torch.testing.assert_close(getattr(out, name), getattr(other, name))


@pytest.mark.parametrize("make", [flat, maps])
@pytest.mark.parametrize("by_sample", [True, False])
def test_compiled_kernels_agree_with_float64(make, by_sample):
    torch.manual_seed(1)
    wide = make(step=0.02).train()
    models = [wide, copy.deepcopy(wide).float()]
    shape = (M,) if make is flat else (2, 7, 9)
    x = torch.randn(3, *shape)
    mask = 2 * torch.rand(*((3,) if by_sample else ()), *shape) * (torch.rand(*shape) > 0.3)
    results = []
    for model in models:
        out = model.run(x.to(model.like.dtype), 10, mask=mask)
        (out.nll + out.kl).sum().backward()
        results.append([out.mem, out.nll, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [flat, maps])
def test_a_sample_does_not_depend_on_others(make):
    model = make(torch.float32, spike_grad=None)
    shape = (M,) if make is flat else (2, 7, 9)
    x, mask = torch.randn(5, *shape), torch.rand(5, *shape) > 0.5
    numbers = torch.arange(5)
    together = model.run(x, 9, mask=mask, seed=3, sample_seeds=numbers)
    for rows in (slice(1, 3), slice(4, 5)):
        alone = model.run(x[rows], 9, mask=mask[rows], seed=3, sample_seeds=numbers[rows])
        torch.testing.assert_close(alone.spk, together.spk[:, rows], rtol=0, atol=0)


def test_frames_share_a_mask():
    model, x = flat(), torch.randn(6, B, M).double()
    mask = torch.rand(B, M) > 0.4
    filled = x.masked_fill(~mask, NAN)
    assert_same(model.run(filled, mask=mask), model.run(filled, mask="nan"))
    filled[0, 0] = 0.0
    with pytest.raises(ValueError, match="NaN that move"):
        model.run(filled, mask="nan")


def test_nothing_seen_is_the_prior():
    model = flat(spike_grad=None)
    out = model.run(torch.full((B, M), NAN).double(), T, mask="nan", seed=0)
    assert (out.nll == 0).all()
    falling = out.mem[:, 0, 0].diff()
    assert (falling < 0).all()  # by tonic inhibition alone


def test_filled_in_values_are_better_than_zeros():
    torch.manual_seed(0)
    model = IPVAE(M, K, step=0.1, learn_scale=False, bias=0.01).eval()
    with torch.no_grad():
        model.decoder.weight.copy_(torch.rand(M, K) * (torch.rand(M, K) > 0.5))
        model.neuron.log_bias.fill_(-6)
    z = torch.poisson(torch.full((50, K), 3.0))
    x = z @ model.decoder.weight.mT
    mask = torch.rand(50, M) > 0.3
    out = model.run(x, 300, mask=mask, record=("mem",), every=300)
    x_hat = model.decode(out.mem[-1].exp())
    missing = ~mask
    error, zeros = (((v - x)[missing] ** 2).mean() for v in (x_hat, torch.zeros_like(x)))
    assert error < 0.3 * zeros


@pytest.mark.parametrize(
    ("mask", "error", "says"),
    [
        (torch.ones(M + 1), ValueError, "broadcast"),
        (torch.ones(2 * B, M), ValueError, "broadcast"),
        (torch.ones(()), ValueError, "broadcast"),
        (torch.full((M,), -1.0), ValueError, "at least 0"),
        (torch.full((M,), NAN), ValueError, "at least 0"),
        (torch.full((M,), math.inf), ValueError, "at least 0"),
        (torch.ones(M, dtype=torch.complex64), TypeError, "numbers"),
        ([1] * M, TypeError, "tensor"),
        ("missing", TypeError, "'nan'"),
    ],
)
def test_bad_masks_are_refused(mask, error, says):
    model = flat()
    with pytest.raises(error, match=says):
        model.run(torch.randn(B, M).double(), 3, mask=mask)


def test_nan_that_was_seen_is_refused():
    model, x = flat(), torch.randn(B, M).double()
    x[0, 0] = NAN
    with pytest.raises(ValueError, match="NaN"):
        model.run(x, 3, mask=torch.ones(B, M))
