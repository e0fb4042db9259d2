"""Networks as decoders: sizes, files, and models with and without an encoder that have them."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import remove_parametrizations

from ipvae_snn import IPVAE, TrainConfig, evaluate, fit, load_model
from ipvae_snn.baselines import GaussianVAE, PoissonVAE, SemiAmortisedVAE
from ipvae_snn.models import (
    Bernoulli,
    CodePrior,
    ConvDecoder,
    DeepIPVAE,
    LinearDecoder,
    MapDecoder,
    NetworkDecoder,
)
from ipvae_snn.models.code_prior import LARGEST_SHAPE


@pytest.mark.parametrize(
    ("make", "pixels"),
    [
        (lambda: NetworkDecoder(6, 10), 10),
        (lambda: NetworkDecoder(6, 10, hidden=[5, 7]), 10),
        (lambda: ConvDecoder(6, [8, 4], channels=4), 32),
        (lambda: ConvDecoder(6, (3, 4, 8), channels=2), 96),
        (lambda: MapDecoder((3, 6, 4), channels=3, kernel=4, stride=2), 72),
    ],
)
def test_a_file_holds_a_model_with_it(make, pixels, tmp_path):
    torch.manual_seed(0)
    model = IPVAE(pixels, 6, decoder=make(), likelihood=Bernoulli())
    x = torch.rand(4, pixels)
    fit(model, x, TrainConfig(iterations=3, batch=4, steps=3, progress=False))
    model.save(tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    assert torch.equal(again.run(x, 4, seed=0).mem, model.run(x, 4, seed=0).mem)
    assert again.config() == model.config()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: NetworkDecoder(6, 10, hidden=[]), ValueError, "at least one layer"),
        (lambda: NetworkDecoder(6, 10, hidden=[0]), ValueError, "a size of hidden"),
        (lambda: NetworkDecoder(6, 10, gain=-1), ValueError, "gain"),
        (lambda: ConvDecoder(6, [7, 8]), ValueError, "divisible by 4"),
        (lambda: ConvDecoder(6, [8]), ValueError, "shape must be"),
        (lambda: MapDecoder([9, 8], 4, kernel=4, stride=2), ValueError, "kernel \\+ n stride"),
        (lambda: MapDecoder([8], 4, kernel=4, stride=2), ValueError, "kernel \\+ n stride"),
        (lambda: MapDecoder([8, 8], 0), ValueError, "channels"),
    ],
)
def test_bad_options_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("cls", [PoissonVAE, GaussianVAE, SemiAmortisedVAE])
def test_amortised_models_take_any_decoder_and_likelihood(cls, tmp_path):
    torch.manual_seed(0)
    kinds = (torch.rand(4, 12) < 0.5).float()
    x = kinds[torch.randint(4, (200,))]
    parts = {"decoder": NetworkDecoder(5, 12, [16]), "likelihood": Bernoulli()}
    model = cls(12, 5, encoder="mlp", width=16, **parts)
    before = model.run(x, 1, record=("nll",)).nll.mean().detach()
    config = TrainConfig(iterations=200, batch=50, steps=1, lr=1e-2, beta=0.1, progress=False)
    fit(model, x, config)
    out = model.run(x, 1, record=("spk", "nll"), seed=0)
    eta = model.decoder(out.spk[0])
    torch.testing.assert_close(out.nll[0], Bernoulli().nll(x, eta), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.decode(out.spk[0]), torch.sigmoid(eta))
    assert out.nll.mean() < before / 3
    assert evaluate(model, x[:50], num_steps=2).at(2)["r2"] > 0.6
    model.save(tmp_path / "model.pt")
    again = load_model(tmp_path / "model.pt")
    assert torch.equal(again.run(x, 1, seed=0).nll, model.run(x, 1, seed=0).nll)
    with pytest.raises(ValueError, match="Bernoulli is a law of values from 0 to 1"):
        model.run(3 * x, 1)
    with pytest.raises(ValueError, match=r"decoder must map \(B, 5\) to \(B, 12\)"):
        cls(12, 5, decoder=nn.Linear(5, 1))


def test_the_bound_of_an_amortised_model_with_a_network():
    """Below the sum over all codes, and near."""
    torch.manual_seed(2)
    decoder = NetworkDecoder(3, 8, [8], gain=4.0)
    model = PoissonVAE(8, 3, encoder="linear", decoder=decoder, likelihood=Bernoulli()).eval()
    with torch.no_grad():
        model.mem_init.fill_(-0.5)
    rate = model.mem_init.detach().exp()[None]
    prior = CodePrior(
        rate, torch.full_like(rate, LARGEST_SHAPE), torch.ones(1), torch.zeros(1).long()
    )
    codes = torch.tensor(list(itertools.product(range(12), repeat=3))).float()
    x = prior.sample(model, 6, noise=True, seed=0).x
    with torch.no_grad():
        exact = torch.stack(
            [torch.logsumexp(prior.log_prob(codes) - model.nll_of(codes, row.expand(len(codes), 8)),
                             0) for row in x]
        )  # fmt: skip
    bound, error = prior.log_likelihood(model, x, 1000, num_steps=1, seed=0)
    gap = exact - bound
    assert (gap > -4 * error - 1e-3).all()
    assert math.isclose(float(gap.mean()), 0, abs_tol=0.05)


def test_spectral_norms_bound_a_decoder_while_it_learns(tmp_path):
    """By PyTorch's own parametrization; made permanent, the model is saved."""
    torch.manual_seed(0)
    decoder = NetworkDecoder(8, 12, [16])
    linear = [layer for layer in decoder.layers if isinstance(layer, nn.Linear)]
    for layer in linear:
        spectral_norm(layer)
    model = IPVAE(12, 8, decoder=decoder, likelihood=Bernoulli())
    x = torch.rand(50, 12)
    before = model.run(x, 20, record=("nll",), seed=0).nll[-1].mean().item()
    config = TrainConfig(iterations=60, batch=50, steps=6, lr=5e-2, progress=False)
    fit(model, x, config)
    assert model.run(x, 20, record=("nll",), seed=0).nll[-1].mean() < before
    a, b = 5 * torch.rand(2, 500, 8)
    with torch.no_grad():
        change = (decoder(a) - decoder(b)).norm(dim=-1)
    assert (change <= 1.1 * (a - b).norm(dim=-1) * 1.02).all()  # SiLU's slope; by iteration
    with pytest.raises(ValueError, match="cannot be saved while weights"):
        model.save(tmp_path / "model.pt")
    out = model.run(x, 5, seed=0)
    for layer in linear:
        remove_parametrizations(layer, "weight")
    model.save(tmp_path / "model.pt")
    torch.testing.assert_close(load_model(tmp_path / "model.pt").run(x, 5, seed=0).mem, out.mem)


def test_maps_are_a_linear_decoder_with_shared_weights():
    """Output, Jacobian and squares against those of the matrix, in float64."""
    torch.manual_seed(0)
    decoder = MapDecoder((2, 7, 9), channels=3, kernel=3, stride=2, init_std=1.0).double()
    spk = torch.poisson(torch.ones(4, decoder.latents)).double()
    matrix = decoder(torch.eye(decoder.latents).double()).mT
    torch.testing.assert_close(decoder(spk), spk @ matrix.mT)
    curvature = torch.rand(4, 126).double()
    torch.testing.assert_close(decoder.squares(curvature, spk), curvature @ matrix.square())


def test_a_convolutional_layer_with_a_flat_one_above():
    """Both layers learn together: the free energy falls."""
    torch.manual_seed(0)
    together = (torch.rand(400, 1) < 0.5).float()
    kinds = (torch.rand(2, 36) < 0.3).float() * 3
    x = together * kinds[0] + (1 - together) * kinds[1] + 0.3 * torch.randn(400, 36)
    decoder = MapDecoder([6, 6], channels=3, kernel=4, stride=2, init_std=0.3)
    model = DeepIPVAE(36, [decoder.latents, 2], decoder=decoder)
    config = TrainConfig(
        rule="local", iterations=150, batch=50, steps=16, burn_in=8, lr=1e-2, weight_decay=0.0,
        progress=False,
    )  # fmt: skip
    before = model.run(x[:50], 20, record=("nll", "kl"), seed=0)
    fit(model, x, config)
    after = model.run(x[:50], 20, record=("nll", "kl"), seed=0)
    assert sum(after[:2])[-1].mean() < sum(before[:2])[-1].mean() - 5


def test_refinement_through_a_decoder_is_that_of_the_linear_one():
    """The same runs, and gradients of the linear model by its quadratic form, in float64."""
    torch.manual_seed(0)
    decoder = LinearDecoder(5, 12, init_std=0.5)
    plain = SemiAmortisedVAE(12, 5, width=16).double()
    other = SemiAmortisedVAE(12, 5, width=16, decoder=decoder).double()
    with torch.no_grad():
        plain.decoder.weight.copy_(decoder.weight)
        plain.raw_log_scale.fill_(0.3)
    shared = {k: v for k, v in plain.state_dict().items() if k in other.state_dict()}
    other.load_state_dict(shared, strict=False)
    with torch.no_grad():
        other.decoder.weight.copy_(plain.decoder.weight)
        other.likelihood.raw_log_scale.copy_(plain.raw_log_scale)
    x = torch.rand(6, 12).double()
    grads = []
    for model in (plain, other):
        out = model.run(x, 4, record=("nll", "kl"), seed=0, graph=True)
        (out.nll + out.kl).mean().backward()
        grads.append([out.nll.detach(), model.decoder.weight.grad, model.log_step.grad])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
