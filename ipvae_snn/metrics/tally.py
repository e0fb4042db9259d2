"""Hooks that count what every layer of a network receives and sends."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn

from ipvae_snn.neurons.poisson import IPVAENeuron

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, *CONVOLUTIONS)


class Tally:
    """Counts of one layer, summed over timesteps and samples."""

    def __init__(self, layer: str, synapses: int = 0) -> None:
        self.layer, self.synapses = layer, synapses
        self.spikes = self.events = self.arrived = self.dense = 0.0
        self.updates = 0
        self.of_spikes = True

    def send(self, spk: Tensor) -> None:
        self.spikes += total(spk)
        self.events += int(torch.count_nonzero(spk))

    def receive(self, arrived: float, dense: float, of_spikes: bool = True) -> None:
        """``arrived``: the sum over synapses of the spikes that came in."""
        self.arrived += arrived
        self.dense += dense
        self.of_spikes &= of_spikes


class Meter:
    """Forward hooks that tally what every layer of a network receives and sends."""

    def __init__(self, network: nn.Module, batch: int, constant: bool) -> None:
        self.tallies: dict[tuple[nn.Module, int], Tally] = {}
        self.uses: dict[nn.Module, int] = {}
        self.batch, self.constant, self.timestep = batch, constant, 0
        self.fired = False
        self.names: dict[nn.Module, str] = {}
        for name, module in network.named_modules(remove_duplicate=False):
            self.names[module] = min(self.names.get(module, name), name, key=len)
        self.neurons = [m for m in self.names if isinstance(m, SpikingNeuron)]
        # A neuron's recurrent layer is tallied with the neuron, whose every spike goes through it.
        own = {getattr(neuron, "recurrent", None) for neuron in self.neurons}
        self.layers = [m for m in self.names if isinstance(m, LAYERS) and m not in own]
        self._refuse_unknown({*own, *(getattr(n, "lateral", None) for n in self.neurons)})

    def _refuse_unknown(self, own: set[nn.Module | None]) -> None:
        known = {
            part for m in self.names if isinstance(m, LAYERS) or m in own for part in m.modules()
        }
        for module, name in self.names.items():
            if module not in known and any(p.ndim > 1 for p in module.parameters(recurse=False)):
                raise TypeError(
                    f"the synapses of {name or 'the network'}, a {type(module).__name__}, cannot "
                    "be counted: only nn.Linear, nn.Conv1d to nn.Conv3d and spiking neurons can"
                )

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles = [layer.register_forward_hook(self._received) for layer in self.layers]
        handles += [neuron.register_forward_hook(self._sent) for neuron in self.neurons]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def next_timestep(self) -> None:
        self.timestep += 1
        self.fired = False
        self.uses.clear()

    def _tally_synapses(self, module: nn.Module, x: Tensor, *, of_spikes: bool) -> Tally:
        use = self.uses[module]  # a layer may be called at several places of the network
        name = f"{self.names[module]} {type(module).__name__}".strip()
        name += f" ({use})" if use > 1 else ""
        dense = _arriving(module, torch.ones_like(x))
        tally = self.tallies.setdefault((module, use), Tally(name, round(dense / self.batch)))
        tally.receive(_arriving(module, x.abs()), dense, of_spikes)
        return tally

    def _received(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.uses[layer] = self.uses.get(layer, 0) + 1
        current = self.constant and not self.fired  # what precedes all neurons never changes
        if current and self.timestep > 1:
            return
        (x,) = inputs
        self._tally_synapses(layer, x, of_spikes=not current and whole(x))

    def _sent(self, neuron: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.fired = True
        self.uses[neuron] = self.uses.get(neuron, 0) + 1
        spk: Tensor = output[0] if isinstance(output, tuple) else output
        tally = self._tally_synapses(neuron, spk, of_spikes=True)
        tally.send(spk)
        tally.updates += spk.numel()


def _arriving(module: nn.Module | None, spikes: Tensor) -> float:
    """Synapses that the spikes go through, each as often as spikes do: Σ spikes · fan-out."""
    if isinstance(module, nn.Linear):
        return total(spikes) * module.out_features
    if isinstance(module, CONVOLUTIONS):
        ones = torch.ones_like(module.weight, dtype=torch.float64)
        return total(module._conv_forward(spikes.double(), ones, None))
    if isinstance(module, IPVAENeuron):
        return total(spikes) * module.features if module.lateral_scale else 0.0
    if isinstance(module, SpikingNeuron):
        recurrent = getattr(module, "recurrent", None)
        return 0.0 if recurrent is None else _arriving(recurrent, spikes)
    return total(spikes)  # snnTorch's one-to-one recurrence


def total(counts: Tensor) -> float:
    """Σ|counts|, exact; a spike of −1 costs what one of 1 does."""
    return float(counts.abs().sum(dtype=torch.float64))


def whole(x: Tensor) -> bool:
    """Whether x holds whole numbers only, as spikes are."""
    return bool((x == x.round()).all())
