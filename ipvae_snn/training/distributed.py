"""Data-parallel training: the process group, and the operations that training needs of it.

Under ``torchrun`` each process (*rank*) trains on its share of every batch, and
``DistributedDataParallel`` averages the gradients. Otherwise the group is a single process.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(minutes=10)
"""How long a collective operation waits for a rank that does not respond."""
LOST_RANK = ("closed", "reset", "gloo", "nccl", "timed out", "broken pipe")
"""Words in PyTorch's error messages after a rank was lost."""


class ProcessGroup:
    """The processes of a training, seen from one of them.

    Attributes:
        initialized: whether PyTorch's process group is; otherwise there is one process.
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self) -> None:
        self.initialized = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.initialized else 0
        self.size = dist.get_world_size() if self.initialized else 1
        # nccl exchanges GPU tensors only: numbers and objects go through gloo on the CPU.
        self._cpu_group = dist.new_group(backend="gloo") if self.initialized else None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that logs and writes files."""
        return self.rank == 0

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """The module, wrapped so that backward passes average gradients over ranks."""
        return DistributedDataParallel(module) if self.initialized else module

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, on the CPU."""
        values = values.detach().cpu()
        if self.initialized:
            dist.all_reduce(values, group=self._cpu_group)
        return values

    def max(self, value: int) -> int:
        """Maximum over ranks."""
        largest = torch.tensor(value)
        if self.initialized:
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._cpu_group)
        return int(largest)

    def broadcast(self, make: Callable[[], Any]) -> Any:
        """Call ``make`` on rank 0 and return its value on all ranks."""
        values = [make() if self.is_main else None]
        if self.initialized:
            dist.broadcast_object_list(values, src=0, group=self._cpu_group)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in order."""
        values = [value] * self.size
        if self.initialized:
            dist.all_gather_object(values, value, group=self._cpu_group)
        return values

    @contextmanager
    def detecting_lost_ranks(self) -> Iterator[None]:
        """Raise ``ConnectionError`` if the block fails because another rank was lost."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).lower()
            if not self.initialized or not any(word in reason for word in LOST_RANK):
                raise
            raise ConnectionError(
                f"another of the {self.size} processes of this training has ended or does not "
                "respond, see its message; resume from the last checkpoint"
            ) from error


def is_torchrun() -> bool:
    """Whether ``torchrun`` started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def is_silent_rank() -> bool:
    """True on ranks that must not print: all but rank 0."""
    return is_torchrun() and os.environ["RANK"] != "0"


@contextmanager
def join_process_group(device: str) -> Iterator[str]:
    """Join the process group of ``torchrun``, if it started this process; yields its device.

    Args:
        device: ``"cpu"``, for gloo, or ``"cuda"``, for nccl with one GPU per process.

    Raises:
        ValueError: more processes than GPUs, or a GPU with a number.
    """
    if not is_torchrun():
        yield device
        return
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if device != "cuda":
            raise ValueError(f"under torchrun the device must be cpu or cuda, got {device!r}")
        if local_rank >= gpus:
            raise ValueError(
                f"process {local_rank} of this machine finds {gpus} GPU(s): start at most that many"
            )
        torch.cuda.set_device(local_rank)
        device = f"cuda:{local_rank}"
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=TIMEOUT)
    try:
        yield device
    finally:
        dist.destroy_process_group()
