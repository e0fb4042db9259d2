"""Record spikes and membranes of any network that has our neurons in it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_integer
from ipvae_snn.neurons.base import State, StatefulNeuron


class Trace:
    """What was recorded of one layer, on the CPU, time first."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        """Timesteps that were kept, counted from 1 since recording began."""
        self._parts: dict[str, list[Tensor]] = {name: [] for name in State._fields}

    @property
    def spk(self) -> Tensor:
        """Counts, shape (T, ..., K)."""
        return self._joined("spk")

    @property
    def mem(self) -> Tensor:
        """Membranes in nats, shape (T, ..., K)."""
        return self._joined("mem")

    def _joined(self, name: str) -> Tensor:
        parts = self._parts[name]
        if not parts:
            raise ValueError(f"no {name} was recorded: run the network, and ask for {name!r}")
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"sequences of different shapes were recorded, {sorted(shapes)}: call clear() "
                "between them"
            )
        return torch.cat(parts)


class Recorder:
    """Keep what the neurons of a network do, while it is used as ever.

    Works for :class:`~ipvae_snn.IPVAE`, for layers called step by step, for ``neuron.run``, in
    training and in inference, and changes no result: spikes, losses and gradients are those of an
    unwatched network with the same seed. A :class:`~ipvae_snn.Stream` has a state of its own, and
    is not seen. Until what is kept has been picked out, a call needs the memory of all its
    timesteps.

    Args:
        model: any module with neurons of this package in it.
        record: ``"spk"``, ``"mem"`` or both.
        every: keep each n-th timestep: n, 2n, 3n, ... counted from 1 over all calls.
        neurons: which neurons to keep, indices; default all.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it has none of our neurons, or an option is out of range.

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
        self._chosen = None if neurons is None else _checked(neurons, layers)
        self._seen = dict.fromkeys(layers, 0)
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
        """Counts of the only layer there is, shape (T, ..., K)."""
        return self._only().spk

    @property
    def mem(self) -> Tensor:
        """Membranes of the only layer there is, shape (T, ..., K)."""
        return self._only().mem

    def clear(self) -> None:
        """Forget what was recorded, and count timesteps from 1 again."""
        self._seen = dict.fromkeys(self._seen, 0)
        self.traces = {name: Trace() for name in self.traces}

    def close(self) -> None:
        """Stop recording; what was recorded stays."""
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

    def _observer(self, name: str) -> Any:
        def observe(sequence: State) -> None:
            trace, start = self.traces[name], self._seen[name]
            length = len(sequence.mem)
            self._seen[name] = start + length
            first = -(start + 1) % self.every
            trace.steps += range(start + first + 1, start + length + 1, self.every)
            for field in self.record if first < length else ():
                kept = getattr(sequence, field).detach()[first :: self.every]
                if self._chosen is not None:
                    kept = kept[..., self._chosen.to(kept.device)]
                trace._parts[field].append(kept.to("cpu", copy=True))

        return observe


def _checked(neurons: Sequence[int] | Tensor, layers: dict[str, StatefulNeuron]) -> Tensor:
    try:
        chosen = torch.as_tensor(neurons)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"neurons must be indices or a tensor of them, got {neurons!r}") from error
    whole = not (chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool)
    if chosen.ndim != 1 or not len(chosen) or not whole:
        raise ValueError(f"neurons must hold whole numbers, shape (N,), got {neurons!r}")
    chosen = chosen.long()
    least = min(int(layer.features) for layer in layers.values())  # type: ignore[arg-type]
    if int(chosen.min()) < 0 or int(chosen.max()) >= least:
        raise ValueError(f"neurons must be from 0 to {least - 1}, got {chosen.tolist()}")
    return chosen
