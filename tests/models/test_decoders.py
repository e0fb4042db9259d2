"""Networks as decoders: sizes, files, and models with and without an encoder that have them."""

import itertools
import math

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, evaluate, fit, load_model
from ipvae_snn.baselines import GaussianVAE, PoissonVAE
from ipvae_snn.models import Bernoulli, CodePrior, ConvDecoder, NetworkDecoder
from ipvae_snn.models.code_prior import LARGEST_SHAPE


@pytest.mark.parametrize(
    ("make", "pixels"),
    [
        (lambda: NetworkDecoder(6, 10), 10),
        (lambda: NetworkDecoder(6, 10, hidden=[5, 7]), 10),
        (lambda: ConvDecoder(6, [8, 4], channels=4), 32),
        (lambda: ConvDecoder(6, (3, 4, 8), channels=2), 96),
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
    ],
)
def test_bad_options_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("cls", [PoissonVAE, GaussianVAE])
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
