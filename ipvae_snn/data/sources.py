"""Samples that need not fit in memory: read in batches, by worker processes if asked to."""

import math
import multiprocessing
import os
import signal
import threading
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ipvae_snn._utils.checks import require_finite, require_float, require_integer

Batches = Generator[Tensor, None, None]


class Samples(ABC):
    """N samples of M values each, read in batches; must be picklable for worker processes."""

    features: int
    """M, the number of values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample: (M,), or (C, H, W) of an image."""
        return (self.features,)

    in_memory = False
    """True if reading costs nothing, so that workers would not help."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """The samples of these indices, in this order.

        Args:
            rows: int64, shape (n,), each in 0 … N − 1.

        Returns:
            Shape (n, M) or (n, C, H, W), see :attr:`shape`; floating point and finite.

        Raises:
            ValueError: a sample is unreadable or invalid; names it and its file.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the data do; checkpoints compare it."""


class InMemory(Samples):
    """The rows of a tensor (N, M), or (N, C, H, W); keeps its dtype and device.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: another shape, empty, NaN or infinity; with ``missing``, NaN are allowed: values
            that were not seen.

    >>> samples = InMemory(torch.eye(3))
    >>> len(samples), samples.features, samples.read(torch.tensor([2]))
    (3, 3, tensor([[0., 0., 1.]]))
    """

    in_memory = True

    def __init__(self, data: Tensor, name: str = "data", *, missing: bool = False) -> None:
        require_float(data, name)
        if data.is_meta:
            raise ValueError(f"{name} is on the meta device, which holds no values")
        if data.ndim < 2 or not data.numel():
            shape = tuple(data.shape)
            raise ValueError(f"{name} must have shape (N, M) and not be empty, got {shape}")
        require_finite(data.nan_to_num(0.0, math.inf, -math.inf) if missing else data, name)
        self.data, self.features = data.detach(), data[0].numel()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape[1:])

    def __len__(self) -> int:
        return len(self.data)

    def read(self, rows: Tensor) -> Tensor:
        return self.data[rows.to(self.data.device)]

    def fingerprint(self) -> str:
        sizes = "×".join(map(str, self.data.shape))
        return f"{sizes} {self.data.dtype} {fingerprint_of(self.data)}"


class Part(Samples):
    """Some rows of other samples, in the order given.

    Raises:
        ValueError: no rows, or rows out of range.

    >>> part = Part(InMemory(torch.eye(3)), torch.tensor([2, 0]))
    >>> part.read(torch.tensor([1]))
    tensor([[1., 0., 0.]])
    """

    def __init__(self, samples: Samples, rows: Tensor) -> None:
        rows = rows.detach().cpu()
        if rows.ndim != 1 or not len(rows) or rows.dtype != torch.int64:
            found = f"{rows.dtype} of shape {tuple(rows.shape)}"
            raise ValueError(f"rows must be int64 of shape (n,) with n ≥ 1, got {found}")
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= len(samples):
            raise ValueError(f"rows must be from 0 to {len(samples) - 1}, got {low} to {high}")
        self.samples, self.rows = samples, rows
        self.features, self.in_memory = samples.features, samples.in_memory

    @property
    def shape(self) -> tuple[int, ...]:
        return self.samples.shape

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Tensor) -> Tensor:
        return self.samples.read(self.rows[rows.cpu()])

    def fingerprint(self) -> str:
        return f"{len(self)} ({fingerprint_of(self.rows)}) of {self.samples.fingerprint()}"


def fingerprint_of(tensor: Tensor) -> str:
    """A short text that changes with the values of a tensor."""
    content = tensor.cpu().contiguous().view(torch.uint8).numpy()
    return f"{zlib.crc32(content.data):08x}"


def as_samples(data: Tensor | Samples, name: str = "data", *, missing: bool = False) -> Samples:
    """Samples as they are, a tensor as :class:`InMemory`, with its errors.

    >>> as_samples(torch.zeros(4))
    Traceback (most recent call last):
    ValueError: data must have shape (N, M) and not be empty, got (4,)
    """
    if isinstance(data, DataLoader | Dataset):
        raise TypeError(
            f"{name} must be a tensor (N, M) or Samples of ipvae_snn.data, got "
            f"{type(data).__name__}: put its samples into one tensor, such as "
            "torch.stack([image.flatten() for image, label in dataset])"
        )
    return data if isinstance(data, Samples) else InMemory(data, name, missing=missing)


def stream(samples: Samples, batches: Iterable[Tensor], workers: int = 0) -> Batches:
    """Read batch after batch, in the order of ``batches``.

    Args:
        samples: what to read from.
        batches: indices of each batch, as for :meth:`Samples.read`; may be infinite.
        workers: processes that read ahead, two batches each; 0 reads in this process, as samples in
            memory always are. The result does not depend on it, and no random number is drawn.
            With workers, the program must be a file and do its work under
            ``if __name__ == "__main__":``.

    Returns:
        A generator of batches (n, M); closing or dropping it ends the workers.

    Raises:
        ValueError, TypeError, OSError: from reading, the same in a worker as in this process.
        ChildProcessError: a worker died.

    >>> batches = [torch.tensor([0, 2]), torch.tensor([1])]
    >>> [len(batch) for batch in stream(InMemory(torch.eye(3)), batches)]
    [2, 1]
    """
    if require_integer(workers, "workers", least=0) and not samples.in_memory:
        return _read_ahead(samples, batches, workers)
    return (samples.read(rows) for rows in batches)


def _read_ahead(samples: Samples, batches: Iterable[Tensor], workers: int) -> Batches:
    try:
        for result in _start_workers(samples, batches, workers):
            if not isinstance(result, Tensor):
                error_type, message = result
                raise error_type(message)
            yield result
        return
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    # Raised outside the handler: as its context, the error would keep loader and workers alive.
    raise ChildProcessError(
        f"a worker process that reads samples died ({reason}): the system may have killed it for "
        "lack of memory, or the program is not a file or lacks if __name__ == '__main__'; "
        "workers=0 reads without processes"
    )


def _start_workers(samples: Samples, batches: Iterable[Tensor], workers: int) -> Iterator[Any]:
    with warnings.catch_warnings():  # workers may wait for a disk: more than cores are fine
        warnings.filterwarnings("ignore", ".*worker processes in total", UserWarning)
        return iter(
            DataLoader(
                _Reader(samples),
                batch_size=None,  # an item of the sampler is a whole batch
                sampler=(rows.cpu().numpy() for rows in batches),
                num_workers=workers,
                multiprocessing_context=_start_method(),
                worker_init_fn=_initialise_worker,
                generator=torch.Generator(),  # a loader draws a seed: not from the global generator
            )
        )


def _start_method() -> BaseContext:
    """Start workers as forks of a server process, or with spawn where there is no fork.

    A fork of this process would inherit locks that PyTorch's threads may hold, and a CUDA context
    it cannot use. The server has no threads and imports PyTorch once for all workers.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _initialise_worker(worker: int) -> None:
    """Leave Ctrl-C to the main process, and end the worker when that process has ended.

    The loader watches the worker's parent only, which is the fork server: it outlives the main
    process as long as there are workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if main := multiprocessing.parent_process():
            main.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


PASSED_ON = (FileNotFoundError, OSError, TypeError, ImportError, ValueError)
"""Errors that a worker hands to the main process, the first type that fits."""


class _Reader(Dataset[Any]):
    """Reads a batch, or returns type and message of an error: a loader would add its traceback."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, rows: NDArray[np.int64]) -> Tensor | tuple[type[Exception], str]:
        try:
            return self.samples.read(torch.from_numpy(rows))
        except PASSED_ON as error:
            return next(kind for kind in PASSED_ON if isinstance(error, kind)), str(error)
