"""Convolutional LCA: its codes solve the lasso of the unrolled dictionary, and it learns."""

import math

import pytest
import torch

from ipvae_snn import TrainConfig, data, evaluate, fit, load_model
from ipvae_snn.baselines import LCA, ConvLCA
from tests.kernels.test_convolution import unrolled


def made(dimensions=2, **options):
    torch.manual_seed(0)
    options = {"sparsity": 0.3, "rate": 0.1, **options}
    return ConvLCA(2, 5, 5, 2, dimensions=dimensions, **options).double().eval()


def dense_of(model, size):
    """The flat LCA of the dictionary unrolled over images of one size, features as they are cut."""
    flat = (1, *size) if model.dimensions == 1 else size
    phi, places = unrolled(model._features().detach(), model._flat_size(model.stride), flat, 5)

    class Cut(LCA):
        weight = phi  # of norm 1 before they were cut

    options = {n: getattr(model, n) for n in ("sparsity", "rate", "nonnegative")}
    return Cut(len(phi), math.prod(places) * 5, **options).double()


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize(("dimensions", "size"), [(2, (11, 14)), (2, (3, 5)), (1, (23,))])
def test_equals_the_dense_model_of_the_unrolled_dictionary(dimensions, size, nonnegative):
    model = made(dimensions, nonnegative=nonnegative)
    x = torch.randn(3, 2, *size, dtype=torch.float64)
    out = model.run(x, 40, every=20)
    expected = dense_of(model, size).run(x.flatten(1), 40, every=20)
    for name in ("spk", "mem"):
        rows = getattr(out, name).movedim(2, -1).flatten(2)
        torch.testing.assert_close(rows, getattr(expected, name), rtol=0, atol=1e-10)
    for name in ("nll", "kl"):
        torch.testing.assert_close(getattr(out, name), getattr(expected, name))
    x_hat = model.decode(out.spk[-1], size).flatten(1)
    torch.testing.assert_close(
        x_hat, out.spk[-1].movedim(1, -1).flatten(1) @ dense_of(model, size).weight.mT
    )


def test_the_code_solves_the_lasso():
    model = made()
    x = torch.randn(1, 2, 9, 12, dtype=torch.float64)
    code = model.run(x, 3000, record=()).state.spk.requires_grad_()
    error = 0.5 * (x - model.decode(code, (9, 12))).square().sum()
    (grad,) = torch.autograd.grad(error, code)
    active = code.detach() != 0
    assert 0 < int(active.sum()) < active.numel()
    at_active = grad[active] + 0.3 * code.detach()[active].sign()
    assert float(at_active.abs().max()) < 1e-5
    assert float(grad[~active].abs().max()) <= 0.3 + 1e-5


def test_the_gradient_is_that_of_the_energy_at_the_codes():
    model = made().train()
    x = torch.randn(2, 2, 8, 9, dtype=torch.float64)
    out = model.run(x, 3, record=("spk", "nll"), graph=True)
    (grad,) = torch.autograd.grad(out.nll.sum(), model.decoder.weight)
    energy = sum(0.5 * (x - model.decode(code, (8, 9))).square().sum() for code in out.spk.detach())
    (expected,) = torch.autograd.grad(energy, model.decoder.weight)
    torch.testing.assert_close(grad, expected)


def test_runs_go_on_and_frames_change():
    model, frames = made(), torch.randn(4, 2, 2, 8, 9, dtype=torch.float64)
    whole = model.run(frames)
    first = model.run(frames[:2])
    rest = model.run(frames[2:], state=first.state)
    assert torch.equal(torch.cat([first.spk, rest.spk]), whole.spk)
    assert torch.equal(rest.state.mem, whole.mem[-1])


def test_it_learns_measures_and_saves(tmp_path):
    torch.manual_seed(0)
    images = torch.randn(6, 1, 40, 44).cumsum(2).cumsum(3)
    images = (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)
    crops = data.Crops(images, 24, count=200)
    model = ConvLCA(1, 6, 8, 4, sparsity=0.2, rate=0.1)
    x = crops.read(torch.arange(8))
    before = evaluate(model, x, 30).at(30)["r2"]
    recipe = {**ConvLCA.recipe, "iterations": 60, "steps": 20, "lr": 0.02}
    fit(model, crops, TrainConfig(progress=False, **recipe))
    assert evaluate(model, x, 30).at(30)["r2"] > before + 0.05
    model.save(tmp_path / "a.pt")
    assert torch.equal(
        load_model(tmp_path / "a.pt").run(x, 5, record=()).state.spk,
        model.run(x, 5, record=()).state.spk,
    )


def test_bad_calls_are_refused():
    with pytest.raises(ValueError, match="rate"):
        made(rate=1.5)
    with pytest.raises(ValueError, match="x must have shape"):
        made().run(torch.zeros(1, 3, 8, 8, dtype=torch.float64), 2)
    model = made(rate=1.0)
    with pytest.raises(ValueError, match="smaller rate"):
        model.run(100 * torch.ones(1, 2, 30, 30, dtype=torch.float64), 4000, record=())
