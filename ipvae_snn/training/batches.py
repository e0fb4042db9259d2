"""Which samples come when, and which of them are whose."""

from collections.abc import Iterator

import torch
from torch import Tensor


def batches(count: int, batch: int, seed: int, start: int = 0) -> Iterator[Tensor]:
    """Indices of batch after batch, each epoch in a new order; a rest joins the next epoch.

    Args:
        count: samples there are.
        batch: how many at a time.
        seed: of the orders.
        start: batches to leave out at the beginning: what comes then does not depend on it.

    >>> everything = batches(5, 2, seed=0)
    >>> third = [next(everything) for _ in range(3)][2]
    >>> bool((next(batches(5, 2, seed=0, start=2)) == third).all())
    True
    """
    shuffle = torch.Generator().manual_seed(seed)
    epochs, skip = divmod(start * batch, count)
    for _ in range(epochs):
        torch.randperm(count, generator=shuffle)
    pending = torch.randperm(count, generator=shuffle)[skip:]
    while True:
        while len(pending) < batch:
            pending = torch.cat([pending, torch.randperm(count, generator=shuffle)])
        yield pending[:batch]
        pending = pending[batch:]


def share(batch: int, rank: int, size: int) -> slice:
    """The rows of a batch that are those of one of ``size`` processes; none is left without.

    >>> [share(5, rank, 2) for rank in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]

    Raises:
        ValueError: there are more processes than rows.
    """
    if batch < size:
        raise ValueError(
            f"a batch of {batch} cannot be shared out among {size} processes: raise batch to at "
            f"least {size}, or start fewer processes"
        )
    return slice(batch * rank // size, batch * (rank + 1) // size)
