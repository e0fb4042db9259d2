"""Samples that need not fit in memory: read as they are needed, ahead of need if asked to."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ipvae_snn._utils.checks import require_finite, require_float, require_integer

Batches = Generator[Tensor, None, None]


class Samples(ABC):
    """N samples of M values each, read as they are needed; must be picklable for workers."""

    features: int
    """M."""
    in_memory = False
    """Whether reading them ahead would gain nothing."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """The samples of these indices, in this order.

        Args:
            rows: int64, shape (n,), each in 0 … N − 1.

        Returns:
            Shape (n, M), floating point and finite.

        Raises:
            ValueError: one of them cannot be read or holds what it may not; says which, and where.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the data do."""


class InMemory(Samples):
    """The rows of a tensor (N, M), whose dtype and device they keep.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: another shape, nothing in it, NaN or infinity.

    >>> samples = InMemory(torch.eye(3))
    >>> len(samples), samples.features, samples.read(torch.tensor([2]))
    (3, 3, tensor([[0., 0., 1.]]))
    """

    in_memory = True

    def __init__(self, data: Tensor, name: str = "data") -> None:
        require_float(data, name)
        if data.ndim != 2 or not data.numel():
            raise ValueError(
                f"{name} must have shape (N, M) and not be empty, got {tuple(data.shape)}"
            )
        require_finite(data, name)
        self.data = data.detach()
        self.features = data.shape[1]

    def __len__(self) -> int:
        return len(self.data)

    def read(self, rows: Tensor) -> Tensor:
        return self.data[rows.to(self.data.device)]

    def fingerprint(self) -> str:
        return f"{len(self)}×{self.features} {self.data.dtype} {_crc(self.data)}"


class Part(Samples):
    """Some rows of other samples, in the order given.

    Raises:
        ValueError: no rows, or some that are not there.

    >>> part = Part(InMemory(torch.eye(3)), torch.tensor([2, 0]))
    >>> part.read(torch.tensor([1]))
    tensor([[1., 0., 0.]])
    """

    def __init__(self, samples: Samples, rows: Tensor) -> None:
        rows = rows.detach().cpu()
        if rows.ndim != 1 or not len(rows) or rows.dtype != torch.int64:
            raise ValueError(
                f"rows must be int64 of shape (n,) with n ≥ 1, got {rows.dtype} of shape "
                f"{tuple(rows.shape)}"
            )
        if rows.min() < 0 or rows.max() >= len(samples):
            raise ValueError(
                f"rows must be from 0 to {len(samples) - 1}, got {rows.min()} to {rows.max()}"
            )
        self.samples, self.rows = samples, rows
        self.features, self.in_memory = samples.features, samples.in_memory

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Tensor) -> Tensor:
        return self.samples.read(self.rows[rows.cpu()])

    def fingerprint(self) -> str:
        return f"{len(self)} ({_crc(self.rows)}) of {self.samples.fingerprint()}"


def as_samples(data: Tensor | Samples, name: str = "data") -> Samples:
    """Samples as they are, a tensor as :class:`InMemory`, with its errors.

    >>> as_samples(torch.zeros(4))
    Traceback (most recent call last):
    ValueError: data must have shape (N, M) and not be empty, got (4,)
    """
    return data if isinstance(data, Samples) else InMemory(data, name)


def _crc(tensor: Tensor) -> str:
    content = tensor.cpu().contiguous().view(torch.uint8).numpy()
    return f"{zlib.crc32(content.data):08x}"


def stream(samples: Samples, batches: Iterable[Tensor], workers: int = 0) -> Batches:
    """Batch after batch, in the order of ``batches``.

    Args:
        samples: where they come from.
        batches: indices of each batch, as for :meth:`Samples.read`; may be without end.
        workers: processes that read ahead, two batches each; 0 to read here, when asked, as is
            always done with what is in memory. What is read does not depend on it, and no random
            number is drawn. A program that wants workers must be a file and do its work under
            ``if __name__ == "__main__":``.

    Returns:
        A generator, shapes (n, M); closing or dropping it ends the workers.

    Raises:
        ValueError, TypeError, OSError: whatever reading raises, in a worker as here.
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
        for result in _start(samples, batches, workers):
            if isinstance(result, _Failure):
                raise result.kind(result.message)
            yield result
        return
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    # Raised out here, so that the error does not keep the loader and its other workers alive.
    raise ChildProcessError(
        f"a process that reads samples ahead died ({reason}): it may have been killed for want of "
        "memory, or the program is no file, or lacks if __name__ == '__main__'; workers=0 reads "
        "without processes"
    )


def _start(samples: Samples, batches: Iterable[Tensor], workers: int) -> Iterator[Any]:
    with warnings.catch_warnings():  # reading may wait for a disk: more workers than cores are fine
        warnings.filterwarnings("ignore", ".*worker processes in total", UserWarning)
        return iter(
            DataLoader(
                _Source(samples),
                batch_sampler=(rows.cpu().numpy() for rows in batches),  # type: ignore[misc]
                num_workers=workers,
                collate_fn=_as_it_is,
                multiprocessing_context=_context(),
                worker_init_fn=partial(_begin, os.getpid()),
                generator=torch.Generator(),  # a loader draws a seed: not from the global generator
            )
        )


LOOKS_EVERY = 2.0
"""Seconds between looks whether the program that a worker reads for is still there."""


def _begin(program: int, worker: int) -> None:
    """What a worker does first: leave Ctrl-C to its program, and watch whether that goes on.

    The server that starts workers lives as long as they do: of its end nobody would tell them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while _is_alive(program):
            time.sleep(LOOKS_EVERY)
        os._exit(1)

    if os.name == "posix":  # elsewhere there is no server between
        threading.Thread(target=watch, daemon=True).start()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and is not ours to ask
        pass
    return True


def _context() -> Any:
    """How workers start: as copies of a clean process.

    A fork of this one would inherit locks that PyTorch's threads may hold, and a CUDA context it
    cannot use. The server has no threads and imports PyTorch once for all workers.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class _Failure(NamedTuple):
    """An error on its way out of a worker, without the traceback text that a loader adds."""

    kind: type[Exception]
    message: str


PASSED_ON = (FileNotFoundError, OSError, TypeError, ImportError, ValueError)


class _Source(Dataset[Any]):
    """What a loader wants to have: batches by their indices, and errors as results."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitems__(self, rows: NDArray[np.int64]) -> Tensor | _Failure:
        try:
            return self.samples.read(torch.from_numpy(rows))
        except PASSED_ON as error:
            kind = next(kind for kind in PASSED_ON if isinstance(error, kind))
            return _Failure(kind, str(error))


def _as_it_is(batch: Any) -> Any:
    return batch
