"""A decoder of one's own, a small network: trained, evaluated, saved, loaded, resumed."""

import inspect

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, Stream, TrainConfig, evaluate, export, fit, metrics
from ipvae_snn.models import DECODERS, Decoder

# -- the addition ---------------------------------------------------------------------------------


@DECODERS.register("own-two-layers")
class TwoLayers(Decoder):
    """Counts to pixels through one hidden layer.

    Args:
        latents: K.
        in_features: M.
        hidden: width of the hidden layer.
    """

    def __init__(self, latents, in_features, hidden=16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latents, hidden), nn.SiLU(), nn.Linear(hidden, in_features)
        )

    def forward(self, spk):
        return self.layers(spk)


# -- what it is good for --------------------------------------------------------------------------

CONFIG = TrainConfig(
    iterations=150, batch=20, steps=8, lr=2e-2, beta=0.5, checkpoint_every=75, log_every=50,
    progress=False,
)  # fmt: skip


def test_the_addition_is_short():
    assert len(inspect.getsource(TwoLayers).splitlines()) <= 40


def test_it_learns_and_travels(tmp_path):
    torch.manual_seed(3)
    x = torch.tanh(torch.poisson(torch.full((200, 4), 0.6)) @ torch.randn(4, 9))
    model = IPVAE(9, 8, decoder=TwoLayers(8, 9, hidden=12))
    history = fit(model, x[:160], CONFIG, checkpoint=tmp_path / "a.ckpt")
    assert history[-1]["nll"] < history[0]["nll"]
    result = evaluate(model, x[160:], 60)
    assert result.at(60)["r2_map"] > result.at(1)["r2_map"]
    model.save(tmp_path / "model.pt")
    loaded = IPVAE.load(tmp_path / "model.pt")
    assert loaded.decoder.config() == {"latents": 8, "in_features": 9, "hidden": 12}
    assert evaluate(loaded, x[160:], 20).curves == evaluate(model, x[160:], 20).curves
    again = IPVAE(9, 8, decoder=TwoLayers(8, 9, hidden=12))
    assert fit(again, x[:160], CONFIG, checkpoint=tmp_path / "a.ckpt") == history


def test_one_without_a_name_works_but_is_not_saved(tmp_path):
    model = IPVAE(9, 8, decoder=nn.Sequential(nn.Linear(8, 9), nn.Tanh()))
    model.loss(torch.rand(4, 9), 5).backward()
    assert model.decoder[0].weight.grad.abs().sum() > 0
    with pytest.raises(TypeError, match="register the decoder"):
        model.save(tmp_path / "model.pt")


def test_what_needs_the_linear_decoder_says_so():
    model = IPVAE(9, 8, decoder=TwoLayers(8, 9))
    with pytest.raises(TypeError, match="linear decoder under Gaussian pixels"):
        Stream(model)
    with pytest.raises(TypeError, match="cannot be counted"):
        metrics.synops(model, torch.rand(4, 9), 5)
    with pytest.raises(TypeError, match="IPVAE"):
        export.to_fixed_point(model)
    with pytest.raises(ValueError, match="lateral_scale must be 1"):
        IPVAE(9, 8, decoder=TwoLayers(8, 9), lateral_scale=0.5)


def test_one_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"map \(B, 8\) to \(B, 9\), it gave \(2, 10\)"):
        IPVAE(9, 8, decoder=nn.Linear(8, 10))
