"""Labels as inputs: joined, and filled in."""

import math

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, TrainConfig, fit
from ipvae_snn.models import fill_in_labels, impute, join_labels

M, C = 12, 3


def prototypes(strength=2.0):
    """A model with one neuron per label, and images of these prototypes with noise."""
    torch.manual_seed(0)
    looks, labels = torch.rand(C, M).round() + 0.1, torch.arange(120) % C
    model = IPVAE(M + C, C, step=0.1, clamp=4.0, bias=1e-6, learn_scale=False).eval()
    with torch.no_grad():
        model.decoder.weight.copy_(torch.cat([looks.mT, strength * torch.eye(C)]) / 2)
        model.neuron.mem_init.fill_(0.0)
    return model, looks[labels] + 0.1 * torch.randn(len(labels), M), labels


def test_labels_stand_behind_the_image():
    x = torch.rand(3, M)
    joined = join_labels(x, torch.tensor([2, -1, 0]), C, strength=5.0)
    assert torch.equal(joined[:, :M], x)
    assert joined[0, M:].tolist() == [0, 0, 5]
    assert joined[2, M:].tolist() == [5, 0, 0]
    assert joined[1, M:].isnan().all()


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_they_are_filled_in(strength):
    model, x, labels = prototypes(strength)
    filled = fill_in_labels(model, x, C, strength=strength, seed=0)
    assert (filled.label == labels).float().mean() > 0.95
    assert torch.equal(filled.label, filled.score.argmax(-1))
    torch.testing.assert_close(filled.share.sum(-1), torch.ones(len(x)))
    own = filled.score.gather(1, labels[:, None])
    assert 0.4 < own.mean() < 1.4  # of a label that is there, 1
    again = fill_in_labels(model, x, C, strength=strength, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(filled, again, strict=True))


def test_draws_without_a_spike_are_for_no_label():
    model = IPVAE(M + C, 4)
    with torch.no_grad():
        model.neuron.mem_init.fill_(-8.0)
        model.neuron.log_step.fill_(-9.0)
    share = fill_in_labels(model, torch.zeros(4, M), C, num_steps=5, draws=50, seed=0).share
    torch.testing.assert_close(share, torch.full((4, C), 1 / C), rtol=0, atol=0.05)


def test_also_from_half_of_the_image():
    model, x, labels = prototypes()
    x[:, ::2] = math.nan
    assert (fill_in_labels(model, x, C, seed=0).label == labels).float().mean() > 0.8


def test_a_label_is_imputed_like_any_value():
    model, x, labels = prototypes()
    joined = join_labels(x, labels, C)
    joined[:, M:] = math.nan
    filled = impute(model, joined, num_steps=64, draws=64, calibrate=False, seed=0).mean[:, M:]
    assert (filled.argmax(-1) == labels).float().mean() > 0.95


def test_few_labels_are_learned_with_many_images():
    torch.manual_seed(0)
    _, x, labels = prototypes()
    some = torch.where(torch.arange(len(labels)) < 60, labels, -1)
    model = IPVAE(M + C, 8)
    config = TrainConfig(iterations=300, batch=40, steps=16, lr=0.02, missing=True, progress=False)
    fit(model, join_labels(x, some, C), config)
    assert (fill_in_labels(model, x, C, seed=0).label == labels).float().mean() > 0.8


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"labels": torch.tensor([0, 1])}, ValueError, "shape"),
        ({"labels": torch.tensor([0, 1, 3])}, ValueError, "0 to 2"),
        ({"labels": torch.tensor([0, -2, 1])}, ValueError, "-1 for none"),
        ({"labels": torch.zeros(3)}, TypeError, "integers"),
        ({"labels": torch.ones(3, dtype=torch.bool)}, TypeError, "integers"),
        ({"labels": [0, 1, 2]}, TypeError, "integers"),
        ({"x": torch.rand(3)}, ValueError, "shape"),
        ({"x": torch.ones(3, M, dtype=torch.long)}, TypeError, "x"),
        ({"count": 0}, ValueError, "count"),
        ({"strength": 0.0}, ValueError, "strength"),
        ({"strength": 1e39}, ValueError, "strength"),
        ({"labels": torch.tensor([0, 1, 7], dtype=torch.uint16)}, ValueError, "0 to 2"),
    ],
)
def test_wrong_labels_are_refused(options, error, says):
    given = {"x": torch.rand(3, M), "labels": torch.tensor([0, 1, 2]), "count": C, **options}
    with pytest.raises(error, match=says):
        join_labels(**given)


def test_other_models_are_refused():
    for strength, error in ((0.0, ValueError), (math.nan, ValueError), ("x", TypeError)):
        with pytest.raises(error, match="strength"):
            fill_in_labels(IPVAE(M + C, 4), torch.rand(2, M), C, strength=strength)
    with pytest.raises(ValueError, match="join_labels"):
        fill_in_labels(IPVAE(M, 4), torch.rand(2, M), C)
    with pytest.raises(TypeError, match="linear decoder"):
        fill_in_labels(IPVAE(M + C, 4, decoder=nn.Linear(4, M + C)), torch.rand(2, M), C)
    with pytest.raises(TypeError, match="model"):
        fill_in_labels(nn.Linear(2, 2), torch.rand(2, M), C)
