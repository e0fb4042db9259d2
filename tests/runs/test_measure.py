"""Samples that an evaluation picks from a data set."""

import torch

from ipvae_snn.runs import pick


def test_pick_draws_distinct_samples_from_the_whole_set():
    values = torch.arange(1000.0)
    chosen = pick(values, 100, seed=0)
    assert len(chosen.unique()) == 100
    assert chosen.max() > 900
    assert torch.equal(chosen, pick(values, 100, seed=0))
