"""The recipe: its fields are checked when they are set."""

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, fit


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", -1.0), ("lr", float("nan")), ("beta", "much"), ("steps", 0), ("steps", 2.5),
        ("iterations", -1), ("batch", 2**21), ("seed", -1), ("seed", 2**63), ("warmup", 1.5),
        ("precision", "int8"), ("temp_end", 0.0), ("grad_clip", None), ("burn_in", -1),
    ],
)  # fmt: skip
def test_fields_are_checked_when_they_are_set(name, value):
    config = TrainConfig()
    before = getattr(config, name)
    with pytest.raises((TypeError, ValueError), match=name):
        setattr(config, name, value)
    assert getattr(config, name) == before
    with pytest.raises((TypeError, ValueError), match=name):
        TrainConfig(**{name: value})


def test_fields_that_must_fit_together_are_checked_when_they_are_used():
    config = TrainConfig(iterations=1, batch=2, steps=4, burn_in=2, progress=False)
    config.steps = 2
    model, x = IPVAE(8, 4), torch.rand(4, 8)
    with pytest.raises(ValueError, match="burn_in must be below steps = 2"):
        fit(model, x, config)
    config.burn_in = 1
    fit(model, x, config)
