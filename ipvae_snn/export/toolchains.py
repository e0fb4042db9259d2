"""Exported graphs, run by other people's simulators."""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ipvae_snn.export.graphs.network import flattened
from ipvae_snn.export.graphs.reading import SPIKING
from ipvae_snn.export.sources import GraphSource
from ipvae_snn.export.xylo.network import XyloNetwork
from ipvae_snn.extras import require_extra


class InNorse(GraphSource):
    """A graph as norse imports and runs it: zero reset, one spike per timestep.

    Args:
        graph: a ``nir.NIRGraph`` of the portable form, made for zero reset.

    Raises:
        ImportError: norse is not installed; the message names the extra ``toolchains``.
        ValueError: a node that norse does not import.

    >>> export.report(export.in_norse(graph), model, x)  # doctest: +SKIP
    """

    tool, reset_name = "norse", "zero"

    def __init__(self, graph: Any) -> None:
        self._module = self._import()
        _require_known(graph, self.tool, self._known())
        form = graph.metadata.get("form", "foreign")
        super().__init__(graph, self.reset_name, f"{form}, in {self.tool}")
        if graph.metadata.get("reset") not in (None, self.reset_name):
            self.notes = (
                *self.notes,
                f"{self.tool} resets by {self.reset_name}, the graph was made for "
                f"{graph.metadata['reset']}",
            )

    def _import(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return require_extra("norse.torch", extra="toolchains")

    def _known(self) -> tuple[str, ...]:
        return ("Affine", "Linear", "Conv2d", "Flatten", "SumPool2d", "IF", "LIF", "CubaLIF")

    def _load(self, batch: int) -> Any:
        return self._module.from_nir(self.graph, dt=1.0)

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts (B, K) of each timestep; ``seed`` is not used."""
        for spk, _ in self.steps(x, num_steps):
            yield spk

    def steps(self, x: Tensor, num_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Spike counts (B, K) and output (B, ...) of each timestep, from rest."""
        names = [
            n for n, node in flattened(self.graph)[0].items() if type(node).__name__ in SPIKING
        ]
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            network, state = self._load(len(x)), None
            for _ in range(num_steps):
                out, state = network(x.cpu().float(), state)
                spikes = [_cached(state, name) for name in names]
                yield torch.cat([spk.flatten(1) for spk in spikes], dim=1), out


class InSinabs(InNorse):
    """A graph as sinabs imports and runs it: subtract reset, integer spikes.

    Args:
        graph: a ``nir.NIRGraph`` of the portable form, made for subtract reset.

    Raises:
        ImportError: sinabs is not installed; the message names the extra ``toolchains``.
        ValueError: a node that sinabs does not import.
    """

    tool, reset_name = "sinabs", "subtract"

    def _import(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return require_extra("sinabs.nir", extra="toolchains")

    def _known(self) -> tuple[str, ...]:
        return ("Affine", "Conv2d", "Flatten", "SumPool2d", "IF")

    def _load(self, batch: int) -> Any:
        return self._module.from_nir(self.graph, batch_size=batch)


class InXylosim:
    """A Xylo network in xylosim, SynSense's bit-exact simulator of the chip.

    Args:
        network: what :func:`~ipvae_snn.export.to_xylo` made.

    Raises:
        ImportError: xylosim is not installed; the message names the extra ``toolchains``.
    """

    def __init__(self, network: XyloNetwork) -> None:
        require_extra("xylosim.v2", extra="toolchains")
        self.network, self.notes = network, network.notes
        self.label = "Xylo, in xylosim"
        self.decode = network.decode

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts (B, K) of each timestep; ``seed`` is not used."""
        spikes = self.network.simulate(x.cpu().float(), num_steps).spk
        yield from torch.from_numpy(spikes).float()


def _require_known(graph: Any, tool: str, known: tuple[str, ...]) -> None:
    nodes, _ = flattened(graph)
    kinds = {name: type(node).__name__ for name, node in nodes.items()}
    foreign = [f"{n} ({k})" for n, k in kinds.items() if k not in (*known, "Input", "Output")]
    if foreign:
        raise ValueError(
            f"{tool} does not import {', '.join(foreign[:3])}: it takes {', '.join(known)}; export "
            "with form='portable'"
        )


def _cached(state: Any, name: str) -> Tensor:
    """The output of a node, which may lie in a subgraph, in the last timestep."""
    while "." in name:
        outer, name = name.split(".", 1)
        (state,) = state.state[outer]
    found: Tensor = state.cache[name]
    return found
