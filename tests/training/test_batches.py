"""Shuffled batch indices and their split over ranks."""

import pytest
import torch

from ipvae_snn.training.batches import batches, share


def test_every_sample_is_drawn_once_per_epoch():
    order = batches(10, 4, seed=0)
    drawn = torch.cat([next(order) for _ in range(5)])  # two epochs
    assert sorted(drawn[:10].tolist()) == list(range(10))
    assert sorted(drawn[10:].tolist()) == list(range(10))


def test_shares_of_the_ranks_make_up_the_batch():
    for batch, size in ((7, 2), (7, 7), (100, 3)):
        rows = [i for rank in range(size) for i in range(batch)[share(batch, rank, size)]]
        assert rows == list(range(batch))
    with pytest.raises(ValueError, match="raise batch to at least 3"):
        share(2, 0, 3)


def test_the_order_of_samples_can_start_at_any_batch():
    order = batches(7, 3, seed=4)
    everything = [next(order) for _ in range(20)]
    for start in (0, 1, 2, 5, 7, 14):
        order = batches(7, 3, seed=4, start=start)
        assert all(torch.equal(next(order), rows) for rows in everything[start:])
