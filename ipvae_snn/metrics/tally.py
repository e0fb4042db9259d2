"""Forward hooks that count the spikes every layer of a network receives and sends."""

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
        """Add input: the spikes that ``arrived``, summed over synapses; ``dense``: its MACs."""
        self.arrived += arrived
        self.dense += dense
        self.of_spikes &= of_spikes


class Meter:
    """Attaches the hooks, and keeps a :class:`Tally` for each layer and each of its calls.

    Args:
        network: its ``forward`` is one timestep.
        batch: B.
        constant: the input is the same at every timestep.
    """

    def __init__(self, network: nn.Module, batch: int, constant: bool) -> None:
        self.tallies: dict[tuple[nn.Module, int], Tally] = {}
        self.uses: dict[nn.Module, int] = {}
        self.batch, self.constant, self.timestep = batch, constant, 0
        self.fired = False
        self.names: dict[nn.Module, str] = {}
        for name, module in network.named_modules(remove_duplicate=False):
            self.names[module] = min(self.names.get(module, name), name, key=len)
        self.neurons = [m for m in self.names if isinstance(m, SpikingNeuron)]
        # Every spike of a neuron goes through its recurrent layer: counted with the neuron.
        recurrent = {getattr(neuron, "recurrent", None) for neuron in self.neurons}
        self.layers = [m for m in self.names if isinstance(m, LAYERS) and m not in recurrent]
        self._refuse_unknown({*recurrent, *(getattr(n, "lateral", None) for n in self.neurons)})

    def _refuse_unknown(self, of_neurons: set[nn.Module | None]) -> None:
        """Raise ``TypeError`` for weights outside ``LAYERS`` and the parts of neurons."""
        counted = (m for m in self.names if isinstance(m, LAYERS) or m in of_neurons)
        known = {part for module in counted for part in module.modules()}
        for module, name in self.names.items():
            if module not in known and any(p.ndim > 1 for p in module.parameters(recurse=False)):
                raise TypeError(
                    f"the synapses of {name or 'the network'}, a {type(module).__name__}, cannot "
                    "be counted: only nn.Linear, nn.Conv1d to nn.Conv3d and spiking neurons can"
                )

    @contextmanager
    def attached(self) -> Iterator[None]:
        handles = [layer.register_forward_hook(self._on_layer) for layer in self.layers]
        handles += [neuron.register_forward_hook(self._on_neuron) for neuron in self.neurons]
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
        use = self.uses[module]  # a layer may be called more than once in a timestep
        name = f"{self.names[module]} {type(module).__name__}".strip()
        name += f" ({use})" if use > 1 else ""
        dense = _spikes_at_synapses(module, torch.ones_like(x))
        tally = self.tallies.setdefault((module, use), Tally(name, round(dense / self.batch)))
        tally.receive(_spikes_at_synapses(module, x.abs()), dense, of_spikes)
        return tally

    def _on_layer(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.uses[layer] = self.uses.get(layer, 0) + 1
        # Layers before all neurons receive the same input at every timestep: a current.
        current = self.constant and not self.fired
        if current and self.timestep > 1:
            return
        (x,) = inputs
        self._tally_synapses(layer, x, of_spikes=not current and holds_integers(x))

    def _on_neuron(self, neuron: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.fired = True
        self.uses[neuron] = self.uses.get(neuron, 0) + 1
        spk: Tensor = output[0] if isinstance(output, tuple) else output
        tally = self._tally_synapses(neuron, spk, of_spikes=True)
        tally.send(spk)
        tally.updates += spk.numel()


def _spikes_at_synapses(module: nn.Module | None, spikes: Tensor) -> float:
    """Σ spikes · fan-out."""
    if isinstance(module, nn.Linear):
        return total(spikes) * module.out_features
    if isinstance(module, CONVOLUTIONS):
        ones = torch.ones_like(module.weight, dtype=torch.float64)
        return total(module._conv_forward(spikes.double(), ones, None))
    if isinstance(module, IPVAENeuron):
        return total(spikes) * module.features if module.lateral_scale else 0.0
    if isinstance(module, SpikingNeuron):
        recurrent = getattr(module, "recurrent", None)
        return 0.0 if recurrent is None else _spikes_at_synapses(recurrent, spikes)
    return total(spikes)  # snnTorch's one-to-one recurrence


def total(counts: Tensor) -> float:
    """Σ|counts| in float64: a spike of −1 costs as much as one of 1."""
    return float(counts.abs().sum(dtype=torch.float64))


def holds_integers(x: Tensor) -> bool:
    """Whether all values are integers, as spike counts are."""
    return bool((x == x.round()).all())
