"""Shuffled batch indices, and their split over ranks."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ipvae_snn._utils.seeding import make_generator


def batches(count: int, batch: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Endless batches of sample indices, shuffled anew in each epoch.

    Samples left over at the end of an epoch go into the first batch of the next.

    Args:
        count: number of samples.
        batch: samples per batch.
        seed: seed of the shuffling.
        start: batches to skip; the rest of the sequence stays the same.

    >>> order = batches(5, 2, seed=0)
    >>> third = [next(order) for _ in range(3)][2]
    >>> bool((next(batches(5, 2, seed=0, start=2)) == third).all())
    True
    """
    generator = make_generator(seed)
    epochs, skip = divmod(start * batch, count)
    for _ in range(epochs):
        torch.randperm(count, generator=generator)
    pending = torch.randperm(count, generator=generator)[skip:]
    while True:
        while len(pending) < batch:
            pending = torch.cat([pending, torch.randperm(count, generator=generator)])
        yield pending[:batch]
        pending = pending[batch:]


def share(batch: int, rank: int, size: int) -> slice:
    """The rows of a batch that one of ``size`` ranks trains on; every rank has at least one.

    >>> [share(5, rank, 2) for rank in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]

    Raises:
        ValueError: there are more ranks than rows.
    """
    if batch < size:
        raise ValueError(
            f"a batch of {batch} cannot be split over {size} processes: raise batch to at least "
            f"{size}, or start fewer processes"
        )
    return slice(batch * rank // size, batch * (rank + 1) // size)
