"""Several processes that train one model together: what PyTorch's engine needs to be told.

Started by ``torchrun``, each process works on its share of every batch; gradients are averaged by
``DistributedDataParallel``. Outside, all of this is a world of one process.
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

PATIENCE = timedelta(minutes=10)
"""How long a process waits for one that neither answers nor ends."""
LOST = ("closed", "reset", "gloo", "nccl", "timed out", "broken pipe")


class ProcessGroup:
    """The processes of this training, as one of them sees them."""

    def __init__(self) -> None:
        self.joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.joined else 0
        self.size = dist.get_world_size() if self.joined else 1
        # Words between processes go through the CPU: what a GPU's engine exchanges are tensors
        # of its own.
        self._talk = dist.new_group(backend="gloo") if self.joined else None

    @property
    def leads(self) -> bool:
        """Whether this is the one process that logs and writes."""
        return self.rank == 0

    def averaging_gradients(self, module: nn.Module) -> nn.Module:
        """The module, such that backward passes leave the mean gradient of all processes."""
        if not self.joined:
            return module
        return DistributedDataParallel(module)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over processes, on the CPU."""
        values = values.detach().cpu()
        if self.joined:
            dist.all_reduce(values, group=self._talk)
        return values

    def most(self, value: int) -> int:
        """The largest of a number over processes."""
        largest = torch.tensor(value)
        if self.joined:
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._talk)
        return int(largest)

    def broadcast(self, make: Callable[[], Any]) -> Any:
        """What ``make`` gives in the process that leads, in all of them."""
        values = [make() if self.leads else None]
        if self.joined:
            dist.broadcast_object_list(values, src=0, group=self._talk)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        values = [value] * self.size
        if self.joined:
            dist.all_gather_object(values, value, group=self._talk)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block in which another process may be lost: ``ConnectionError`` then."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error)
            if not self.joined or not any(word in reason.lower() for word in LOST):
                raise
            raise ConnectionError(
                f"another of the {self.size} processes of this training has ended or answers no "
                "more, see its message; go on from the last checkpoint"
            ) from error


def is_torchrun() -> bool:
    """Whether this process is one of several that ``torchrun`` started, or the one it did."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def is_silent_rank() -> bool:
    """Whether another process than this one does the talking."""
    return is_torchrun() and os.environ["RANK"] != "0"


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that ``torchrun`` started, if it did; the device that is this one's.

    Args:
        device: ``"cpu"``: gloo. ``"cuda"``: nccl, and a GPU for each process.

    Raises:
        ValueError: more processes than GPUs, or a GPU named by number.
    """
    if not is_torchrun():
        yield device
        return
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        place, here = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if device != "cuda":
            raise ValueError(f"under torchrun the device must be cpu or cuda, got {device!r}")
        if place >= here:
            raise ValueError(
                f"process {place} of this machine finds {here} GPU(s): start at most that many"
            )
        torch.cuda.set_device(place)
        device = f"cuda:{place}"
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()
