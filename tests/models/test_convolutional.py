"""The convolutional iP-VAE: equal to the dense model, images of any size, files."""

import math

import pytest
import torch
from torch import nn

import ipvae_snn
from ipvae_snn import IPVAE, TrainConfig, evaluate, fit, load_model, surrogate
from ipvae_snn.kernels import convolution, native
from ipvae_snn.models import ConvIPVAE, Whitening
from tests.kernels.test_convolution import unrolled

C, K = 2, 5
SHAPES = {1: [(23,), (4,)], 2: [(11, 14), (12, 8), (3, 5)]}


def made(dimensions=2, dtype=torch.float32, **options):
    torch.manual_seed(0)
    options = {"init_std": 0.2, **options}
    model = ConvIPVAE(C, K, 5, 2, dimensions=dimensions, **options)
    with torch.no_grad():
        if model.raw_log_scale is not None:
            model.raw_log_scale.copy_(torch.tensor([0.3, -0.2]))
    return model.to(dtype)


def dense_of(model, size):
    """The flat IPVAE of the dictionary unrolled over images of one size, with the same neurons."""
    flat = (1, *size) if model.dimensions == 1 else size
    weight = model._flat(model.decoder.weight.detach())
    stride = model._flat_size(model.stride)
    phi, places = unrolled(weight, stride, flat, model.latents)
    neuron, count = model.neuron, math.prod(places)
    dense = IPVAE(
        len(phi), count * K, leak=neuron.leak, lateral_scale=neuron.lateral_scale, form=neuron.form,
        learn_scale=model.raw_log_scale is not None, clamp=neuron.clamp,
    ).to(phi.dtype)  # fmt: skip
    with torch.no_grad():
        dense.decoder.weight.copy_(phi)
        if model.raw_log_scale is not None:
            each = math.prod(flat)
            dense.neuron.lateral.log_scale.copy_(model.raw_log_scale.repeat_interleave(each))
        dense.neuron.log_step.copy_(neuron.log_step)
        for name in ("log_bias", "mem_init"):
            getattr(dense.neuron, name).copy_(getattr(neuron, name).repeat(count))
    return dense


def as_rows(model, code):
    """Codes (T, B, K, h, w) with the neurons of a place side by side, (T, B, h w K)."""
    return code.movedim(2, -1).flatten(2)


@pytest.mark.parametrize("options", [{}, {"leak": 0.5, "lateral_scale": 0.8}, {"form": "published"},
                                     {"learn_scale": False}], ids=str)  # fmt: skip
@pytest.mark.parametrize(
    ("dimensions", "size"), [(d, size) for d, sizes in SHAPES.items() for size in sizes]
)
def test_equals_the_dense_model_of_the_unrolled_dictionary(dimensions, size, options):
    """Timestep by timestep, from the same state: membranes, KL, NLL, reconstruction."""
    model = made(dimensions, torch.float64, **options).eval()
    dense = dense_of(model, size).eval()
    x = torch.randn(3, C, *size, dtype=torch.float64)
    state = None
    for t in range(4):
        out = model.run(x, 1, state=state, seed=t)
        start = state
        if start is not None:
            start = tuple(as_rows(model, part[None])[0] for part in start)
        expected = dense.run(x.flatten(1), 1, state=start, seed=t)
        for name in ("mem", "kl"):
            found = out.mem if name == "mem" else out.kl
            found = as_rows(model, found) if name == "mem" else found
            torch.testing.assert_close(found, getattr(expected, name), rtol=1e-10, atol=1e-12)
        x_hat = model.decode(out.spk, size).flatten(2)
        spk = as_rows(model, out.spk)
        torch.testing.assert_close(x_hat, dense.decode(spk), rtol=1e-10, atol=1e-12)
        nll = ipvae_snn.functional.gaussian_nll(
            x.flatten(1) - dense.decode(spk[0]), dense.log_scale
        )
        torch.testing.assert_close(out.nll[0], nll, rtol=1e-10, atol=1e-10)
        state = out.state


def test_the_loss_learns_every_parameter():
    model = made(dtype=torch.float64)
    model.loss(torch.randn(2, C, 9, 12, dtype=torch.float64), 5).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_its_gradient_is_a_derivative():
    """With rates in place of spikes nothing is random, and finite differences exist."""

    class Rates(surrogate.Exact):
        law = "own"

        def draw(self, mem):
            return mem.detach().exp()

        def slope(self, spk, rate):
            return rate

    model = made(dtype=torch.float64, leak=0.2)
    model.neuron.spike_grad = Rates()
    x = torch.randn(1, C, 5, 4, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]

    def loss(*values):
        asked = dict(zip(names, values, strict=True))
        with torch.nn.utils.parametrize.cached():
            return torch.func.functional_call(
                _Loss(model), {f"model.{n}": v for n, v in asked.items()}, (x,)
            )

    assert torch.autograd.gradcheck(
        loss, tuple(p.detach().requires_grad_() for p in model.parameters())
    )


class _Loss(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.loss(x, 3)


@pytest.mark.parametrize(("dimensions", "size"), [(1, (31,)), (2, (9, 16)), (2, (1, 1))])
def test_images_of_any_size(dimensions, size):
    model = made(dimensions).eval()
    out = model.run(torch.randn(2, C, *size), 3)
    assert tuple(out.spk.shape[2:]) == model.code_shape(size)
    assert model.decode(out.spk, size).shape == (3, 2, C, *size)
    assert model.decode(out.spk[-1]).shape[2:] == tuple(-(-n // 2) * 2 for n in size)


def test_frames_may_change_and_runs_go_on():
    model = made().eval()
    frames = torch.randn(6, 2, C, 8, 10)
    whole = model.run(frames, seed=1)
    assert whole.spk.shape[:2] == (6, 2)
    first = model.run(frames[:4], seed=1)
    assert torch.equal(first.spk, whole.spk[:4])
    second = model.run(frames[4:], state=first.state, seed=2)
    assert second.mem.shape == whole.mem[4:].shape


def test_every_keeps_each_nth_timestep():
    model = made().eval()
    x = torch.randn(2, C, 8, 10)
    whole, some = model.run(x, 7, seed=1), model.run(x, 7, seed=1, every=3)
    for name in ("spk", "mem", "nll", "kl"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[2::3])
    model.train()
    graph = model.run(x, 7, seed=1, every=3)
    graph.nll.sum().backward()
    torch.testing.assert_close(graph.nll.detach(), some.nll)


def test_observers_see_all_timesteps():
    model, seen = made().eval(), []
    model.neuron.observers.append(seen.append)
    out = model.run(torch.randn(2, C, 8, 10), 6, record="spk", every=2, seed=1)
    assert seen[0].spk.shape == (6, *out.spk.shape[1:])
    assert torch.equal(seen[0].spk[1::2], out.spk)


def test_draws_belong_to_a_place():
    """Without an input, a neuron spikes alike in images of any size."""
    if not native.available():
        pytest.skip(native.unavailable_reason())
    model = made().eval()
    with torch.no_grad():
        model.decoder.weight.zero_()
        model.neuron.mem_init.fill_(0.5)
    small, large = (
        model.run(torch.zeros(2, C, *size), 3, seed=4).spk for size in ((6, 8), (16, 9))
    )
    h, w = small.shape[-2:]
    assert torch.equal(small, large[..., :h, :w])
    assert not torch.equal(small[..., 0, 0], small[..., 0, 1])


@pytest.mark.parametrize("form", ["exact", "published"])
@pytest.mark.parametrize("rows", [4, 5, 11])
def test_a_large_image_in_parts_is_the_whole_one_to_the_last_bit(rows, form, monkeypatch):
    if not native.available():
        pytest.skip(native.unavailable_reason())
    model = ConvIPVAE(1, 16, 16, 4, form=form, init_std=0.05)
    x = torch.randn(2, 1, 131, 90)
    fields = ("spk", "mem", "nll", "kl")
    whole = model.run(x, 6, record=fields, seed=1)
    width = whole.spk.shape[-1]
    monkeypatch.setattr(convolution, "LARGEST_PART", rows * width * 16)
    assert len(convolution.parts_of(whole.spk[0].movedim(1, -1).shape)) > 2
    in_parts = model.run(x, 6, record=fields, seed=1)
    assert whole.spk.any()
    for name in fields:
        assert torch.equal(getattr(in_parts, name), getattr(whole, name)), name


@pytest.mark.parametrize("estimator", [surrogate.midpoint(), surrogate.bernoulli()], ids=repr)
def test_sample_seeds_decide_alone(estimator):
    model = made(spike_grad=estimator).eval()
    x, seeds = torch.randn(3, C, 8, 10), torch.tensor([5, 6, 2**61])
    together = model.run(x, 4, seed=3, sample_seeds=seeds)
    alone = model.run(x[1:2], 4, seed=3, sample_seeds=seeds[1:2])
    assert torch.equal(together.spk[:, 1:2], alone.spk)


def test_an_ipvae_with_a_convolutional_decoder_shares_it():
    decoder = nn.ConvTranspose2d(K, C, (6, 4), stride=(3, 2), bias=False)
    model = IPVAE(decoder=decoder, leak=0.5, form="published")
    assert type(model) is ConvIPVAE
    assert model.decoder is decoder
    assert (model.kernel_size, model.stride, model.neuron.leak) == ((6, 4), (3, 2), 0.5)
    assert model.weight.shape == (C * 24, K)
    signal = IPVAE(decoder=nn.ConvTranspose1d(K, 1, 9, stride=3, bias=False))
    assert signal.run(torch.rand(2, 1, 40), 2).spk.shape == (2, 2, K, 16)


@pytest.mark.parametrize(
    ("decoder", "says"),
    [
        (nn.ConvTranspose2d(K, C, 4, stride=2), "bias=False"),
        (nn.ConvTranspose2d(K, C, 4, stride=2, padding=1, bias=False), "padding"),
        (nn.ConvTranspose2d(4, C, 4, stride=2, groups=2, bias=False), "groups"),
        (nn.ConvTranspose2d(K, C, 4, dilation=2, bias=False), "dilation"),
        (nn.ConvTranspose2d(K, C, 2, stride=3, bias=False), "stride"),
    ],
)
def test_other_layers_are_refused(decoder, says):
    with pytest.raises(ValueError, match=says):
        IPVAE(decoder=decoder)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: m.run(torch.rand(2, 3, 8, 8), 3), ValueError, "x must have shape"),
        (lambda m: m.run(torch.rand(2, 64), 3), ValueError, "x must have shape"),
        (lambda m: m.run(torch.rand(2, C, 8, 0), 3), ValueError, "x must have shape"),
        (lambda m: m.run(torch.rand(2, C, 8, 8)), ValueError, "num_steps"),
        (lambda m: m.run(torch.rand(4, 2, C, 8, 8), 3), ValueError, "frames"),
        (lambda m: m.run(torch.full((1, C, 8, 8), torch.nan), 3), ValueError, "NaN"),
        (lambda m: m.run(torch.rand(2, C, 8, 8).double(), 3), TypeError, "float64"),
        (lambda m: m.run(torch.ones(2, C, 8, 8).long(), 3), TypeError, "floating"),
        (lambda m: m.decode(torch.zeros(2, K)), ValueError, "a code"),
        (lambda m: m.decode(torch.zeros(2, K, 6, 6), (20, 20)), ValueError, r"of \(20, 20\)"),
        (lambda m: ConvIPVAE(C, K, dimensions=3), ValueError, "dimensions"),
        (lambda m: ConvIPVAE(C, K, (3, 3, 3)), ValueError, "kernel_size"),
        (lambda m: ConvIPVAE(0, K), ValueError, "channels"),
        (lambda m: IPVAE(4, decoder=nn.ConvTranspose2d(K, C, 4, bias=False)), TypeError, "leave"),
    ],
)
def test_bad_calls_are_refused(call, error, says):
    with pytest.raises(error, match=says):
        call(made().eval())


def test_it_trains_measures_and_saves(tmp_path):
    torch.manual_seed(0)
    truth = made(init_std=1.0)
    codes = (torch.rand(60, *truth.code_shape((12, 14))) < 0.02).float()
    x = truth.decode(codes, (12, 14)).detach()
    whitening = Whitening([[1.0, 0.5], [0.0, 1.0]], [0.2, 0.3])
    model = made(init_std=0.1, clamp=3.0, whitening=whitening)
    config = TrainConfig(iterations=60, batch=6, steps=8, lr=5e-2, beta=0.3, progress=False)
    history = fit(model, x[:50], config, validation=x[50:])
    assert history[-1]["r2_val"] > history[0]["r2_val"]
    result = evaluate(model, x[50:], 20)
    assert result.at(20)["r2"] > 0.3
    assert result.at(20)["spikes"] == pytest.approx(
        float(model.run(x[50:], 20, seed=0).spk[-1].sum() / 10), rel=0.2
    )
    path = tmp_path / "model.ipvae"
    model.save(path)
    again = load_model(path)
    assert torch.equal(again.run(x, 5, seed=1).spk, model.run(x, 5, seed=1).spk)
    assert torch.equal(again.whitening(x), whitening(x))


def test_flat_samples_are_refused_with_the_shape_they_should_have():
    config = TrainConfig(iterations=2, progress=False)
    with pytest.raises(ValueError, match=r"\(N, 2, H, W\)"):
        fit(made(), torch.rand(4, 20), config)
