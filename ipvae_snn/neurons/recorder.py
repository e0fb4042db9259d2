"""Record spikes and membranes of any network that contains neurons of this package."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_integer
from ipvae_snn.kernels.loop import State
from ipvae_snn.neurons.base import StatefulNeuron


class Trace:
    """The recording of one layer, on the CPU, time first."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        """Recorded timesteps, counted from 1 since recording began."""
        self._chunks: dict[str, list[Tensor]] = {name: [] for name in State._fields}

    @property
    def spk(self) -> Tensor:
        """Counts, shape (T, ..., K)."""
        return self._joined("spk")

    @property
    def mem(self) -> Tensor:
        """Membranes in nats, shape (T, ..., K)."""
        return self._joined("mem")

    def _joined(self, name: str) -> Tensor:
        chunks = self._chunks[name]
        if not chunks:
            raise ValueError(f"no {name} was recorded: run the network, and ask for {name!r}")
        shapes = {tuple(chunk.shape[1:]) for chunk in chunks}
        if len(shapes) > 1:
            raise ValueError(
                f"sequences of different shapes were recorded, {sorted(shapes)}: call clear() "
                "between them"
            )
        return torch.cat(chunks)


class Recorder:
    """Record the neurons of a network while it is in use.

    Works for :class:`~ipvae_snn.IPVAE`, for layers called step by step, and for ``neuron.run``, in
    training and in inference. It changes no result: spikes, losses and gradients are the same as
    without a recorder. A :class:`~ipvae_snn.Stream` has its own state, and is not recorded. During
    a call all its timesteps are in memory, whatever ``every`` and ``neurons`` select.

    Args:
        model: any module that contains neurons of this package.
        record: ``"spk"``, ``"mem"`` or both.
        every: record each n-th timestep: n, 2n, 3n, ... counted from 1 over all calls.
        neurons: indices of the neurons to record; default all.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it contains no neuron of this package, or an option is out of range.

    >>> from ipvae_snn import IPVAENeuron
    >>> net = nn.Sequential(nn.Linear(3, 4), IPVAENeuron(4, init_hidden=True))
    >>> with Recorder(net, every=2) as recorder:
    ...     for frame in torch.rand(6, 5, 3):
    ...         _ = net(frame)
    >>> recorder["1"].spk.shape, recorder["1"].steps
    (torch.Size([3, 5, 4]), [2, 4, 6])
    """

    def __init__(
        self,
        model: nn.Module,
        record: str | Sequence[str] = State._fields,
        *,
        every: int = 1,
        neurons: Sequence[int] | Tensor | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.record = (record,) if isinstance(record, str) else tuple(record)
        if not self.record or set(self.record) - set(State._fields):
            raise ValueError(f"record must name some of {State._fields}, got {self.record}")
        self.every = require_integer(every, "every")
        layers = {n: m for n, m in model.named_modules() if isinstance(m, StatefulNeuron)}
        if not layers:
            raise ValueError(f"{type(model).__name__} holds no neuron of this package")
        self._neurons = None if neurons is None else _check_indices(neurons, layers)
        self._timesteps = dict.fromkeys(layers, 0)
        self._axes = {name: layer.axis for name, layer in layers.items()}
        self.traces = {name: Trace() for name in layers}
        self._observers = []
        for name, layer in layers.items():
            observer = self._observer(name)
            layer.observers.append(observer)
            self._observers.append((layer, observer))

    def __getitem__(self, name: str) -> Trace:
        """The trace of a layer, by its name in ``model.named_modules()``."""
        if name not in self.traces:
            raise KeyError(f"no layer {name!r}: the layers are {list(self.traces)}")
        return self.traces[name]

    @property
    def spk(self) -> Tensor:
        """Counts of the only layer, shape (T, ..., K)."""
        return self._only().spk

    @property
    def mem(self) -> Tensor:
        """Membranes of the only layer, shape (T, ..., K)."""
        return self._only().mem

    def clear(self) -> None:
        """Discard the recording, and count timesteps from 1 again."""
        self._timesteps = dict.fromkeys(self._timesteps, 0)
        self.traces = {name: Trace() for name in self.traces}

    def close(self) -> None:
        """Stop recording; the traces stay."""
        for layer, observer in self._observers:
            layer.observers.remove(observer)
        self._observers = []

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def _only(self) -> Trace:
        if len(self.traces) > 1:
            raise ValueError(f"several layers were recorded: choose one of {list(self.traces)}")
        return next(iter(self.traces.values()))

    def _observer(self, name: str) -> Callable[[State], None]:
        def observe(sequence: State) -> None:
            trace, start = self.traces[name], self._timesteps[name]
            length = len(sequence.mem)
            self._timesteps[name] = start + length
            first = -(start + 1) % self.every
            trace.steps += range(start + first + 1, start + length + 1, self.every)
            for field in self.record if first < length else ():
                values = getattr(sequence, field).detach()[first :: self.every]
                if self._neurons is not None:
                    axis = self._axes[name](values.shape[1:])
                    values = values.index_select(axis, self._neurons.to(values.device))
                trace._chunks[field].append(values.to("cpu", copy=True))

        return observe


def _check_indices(neurons: Sequence[int] | Tensor, layers: dict[str, StatefulNeuron]) -> Tensor:
    """``neurons`` as an int64 tensor; raises unless every layer has them."""
    try:
        indices = torch.as_tensor(neurons)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"neurons must be indices or a tensor of them, got {neurons!r}") from error
    integers = not (
        indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool
    )
    if indices.ndim != 1 or not len(indices) or not integers:
        raise ValueError(f"neurons must hold integers, shape (N,), got {neurons!r}")
    indices = indices.long()
    smallest = min(int(layer.features) for layer in layers.values())
    if int(indices.min()) < 0 or int(indices.max()) >= smallest:
        raise ValueError(f"neurons must be from 0 to {smallest - 1}, got {indices.tolist()}")
    return indices
