"""Runs a NIR graph in PyTorch, timestep by timestep."""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import NotFinite, require_finite, require_float, require_integer
from ipvae_snn._utils.seeding import Draws
from ipvae_snn.export.graphs.graph_fragment import require_graph, said
from ipvae_snn.export.graphs.node_steps import SPIKING, node_step
from ipvae_snn.export.graphs.poisson import require_reset
from ipvae_snn.export.graphs.timestep import timestep_of
from ipvae_snn.neurons.base import StatefulNeuron

Edge = tuple[str, str]
RUNAWAY = 1e5
"""Spikes of one neuron in a timestep, beyond those of any working model."""
_RUNAWAY_ADVICE = (
    "the graph runs away, although its input is finite; smaller weights or inputs, or time "
    "constants of several timesteps, keep it bounded"
)


class GraphNetwork(nn.Module):
    """The network that a NIR graph describes; ``network(x)`` is one timestep, in float32.

    The input of a node is the sum over its edges. An edge that closes a cycle carries the output of
    the previous timestep. Nodes are integrated by Euler's method; for this and for the two resets
    see :mod:`ipvae_snn.export.graphs.node_steps`. Nested graphs are run as if they were flat, with
    nodes ``outer.inner``.

    Args:
        graph: a ``nir.NIRGraph``.
        reset: ``"zero"`` or ``"subtract"``.
        neurons: modules to run in place of nodes, by the node's name.
        dt: a timestep in the graph's unit of time, such as ``1e-4`` for time constants in seconds;
            default 1, as in graphs of :func:`~ipvae_snn.export.to_nir`. The r of I and IF, whose
            equation is dv/dt = r x, is per unit of time, too.

    Raises:
        ValueError: not exactly one Input and one Output, an edge to no node or one that is there
            twice, a node that leads on but that no input reaches, or one that cannot be run, see
            :func:`~ipvae_snn.export.graphs.node_steps.node_step`, or a time constant that is
            shorter than ``dt``. Shapes are checked in the first timestep.

    >>> from ipvae_snn import IPVAE, export
    >>> network = export.GraphNetwork(export.to_nir(IPVAE(in_features=16, latents=8)))
    >>> network(torch.rand(3, 16)).shape
    torch.Size([3, 16])
    """

    def __init__(
        self,
        graph: Any,
        reset: str = "zero",
        neurons: dict[str, StatefulNeuron] | None = None,
        *,
        dt: float | None = None,
    ) -> None:
        super().__init__()
        require_graph(graph)
        require_reset(reset)
        nodes, edges = flattened(graph)
        step = timestep_of(graph, nodes, dt)
        neurons = neurons or {}
        self._source, self._sink = (_only(nodes, kind) for kind in ("Input", "Output"))
        self._order = _execution_order(self._source, nodes, edges)
        if self._sink not in self._order:
            raise ValueError("no path leads from the Input of the graph to its Output")
        _require_driven(self._order, edges)
        position = {name: n for n, name in enumerate(self._order)}
        self._inputs: dict[str, list[tuple[str, bool]]] = {name: [] for name in self._order}
        for a, b in edges:
            if a in position and b in position:
                self._inputs[b].append((a, position[a] >= position[b]))
        self._delayed = {a for pairs in self._inputs.values() for a, delayed in pairs if delayed}
        self.parts = nn.ModuleDict(
            {
                _key(name): neurons.get(name) or _part(name, nodes[name], reset, step)
                for name in self._order
            }
        )
        self.spiking = [
            name for name in self._order if name in neurons or type(nodes[name]).__name__ in SPIKING
        ]
        """Names of the nodes that spike, in the order of execution."""
        self._thresholds = {n for n in self.spiking if type(nodes[n]).__name__ == "Threshold"}
        self.input_shape = _shape_of(nodes[self._source])
        self.reset()

    def reset(self) -> None:
        """Return to the state before any input."""
        self._states: dict[str, Any] = {}
        self._previous: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for part in self.parts.values():
            if isinstance(part, StatefulNeuron):
                part.reset_mem()

    def forward(self, x: Tensor) -> Tensor:
        """One timestep: input (B, ...) to output (B, ...); ``outputs`` has those of all nodes."""
        require_float(x, "x")
        if tuple(x.shape[1:]) != self.input_shape:
            expected = ", ".join(map(str, ("B", *self.input_shape)))
            raise ValueError(f"x must have shape ({expected}), got {tuple(x.shape)}")
        require_finite(x, "x")
        x = x.float()
        if self.outputs and len(x) != len(self.outputs[self._source]):
            raise ValueError(
                f"x has {len(x)} samples, the state is of {len(self.outputs[self._source])}: call "
                "reset() before another batch"
            )
        outputs: dict[str, Tensor] = {}
        states = dict(self._states)
        part: Any
        for name, part in zip(self._order, self.parts.values(), strict=True):
            inputs = [x] if name == self._source else []
            for a, delayed in self._inputs[name]:
                value = (self._previous if delayed else outputs).get(a)
                if value is not None:
                    inputs.append(value)
            if not inputs:
                continue
            total = _sum(name, inputs)
            outputs[name], states[name] = self._step(name, part, total, states.get(name))
        for name in (*self.spiking, self._sink):
            if name in outputs:
                require_finite(outputs[name], f"the output of node {name!r}", _RUNAWAY_ADVICE)
        for name, state in states.items():  # a neuron whose membrane is NaN emits no spike
            if state is not None:
                require_finite(state, f"the membrane of node {name!r}", _RUNAWAY_ADVICE)
        self._states = states
        self.outputs = outputs
        self._previous = {name: outputs[name] for name in self._delayed if name in outputs}
        return outputs[self._sink]

    def _step(
        self, name: str, part: Any, total: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Output and next state of a node; neurons keep their state themselves."""
        try:
            if isinstance(part, StatefulNeuron):
                spk = part(total.to(part.mem_init))
                return (spk if isinstance(spk, Tensor) else spk[0]).to(total), None
            if not self.outputs:  # once: shapes stay
                part.require_fitting(tuple(total.shape[1:]))
            out, state = part.step(total, state)
            return out, state
        except NotFinite:
            raise
        except (ValueError, TypeError, RuntimeError, IndexError) as error:  # shapes, or its sizes
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"node {name!r} cannot take its input, of shape {tuple(total.shape)}: {reason}"
            ) from error

    def unroll(
        self, x: Tensor, num_steps: int | None = None, seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Run from the initial state, timestep by timestep.

        Args:
            x: (B, ...), shown at every timestep, or (T, B, ...).
            num_steps: T; optional for changing input.
            seed: of stochastic neurons.

        Yields:
            Spike counts (B, K), see :meth:`spikes`, and the output (B, ...).
        """
        require_float(x, "x")
        changing = x.ndim == len(self.input_shape) + 2
        if num_steps is None and not changing:
            raise ValueError("num_steps must be given for constant input x of shape (B, ...)")
        steps = len(x) if num_steps is None else require_integer(num_steps, "num_steps")
        if changing and len(x) != steps:
            raise ValueError(f"x has {len(x)} timesteps, num_steps is {steps}: leave num_steps out")
        draws = nullcontext() if seed is None else Draws(seed)
        self.reset()
        for t in range(steps):
            with torch.no_grad(), draws:  # not around the yield: the caller goes on in between
                out = self(x[t] if changing else x)
                spk = self.spikes()
            yield spk, out

    def spikes(self) -> Tensor:
        """Counts of the last timestep, (B, K), layers concatenated; Threshold nodes of the same
        membranes are one layer, and are summed."""
        if not self.outputs:
            raise ValueError("there are no spikes yet: call the network first, for a timestep")
        layers: dict[Any, Tensor] = {}
        for name in self.spiking:
            spk = self.outputs[name]
            layer = tuple(self._inputs[name]) if name in self._thresholds else name
            layers[layer] = spk if layer not in layers else layers[layer] + spk
        batch = len(self.outputs[self._source])
        flat = [spk.flatten(1) for spk in layers.values()]
        return torch.cat(flat, dim=1) if flat else torch.zeros(batch, 0)


def _sum(name: str, inputs: list[Tensor]) -> Tensor:
    total = inputs[0]
    for value in inputs[1:]:
        if value.shape != total.shape:
            raise ValueError(
                f"the inputs of node {name!r} must have one shape, got {tuple(total.shape)} and "
                f"{tuple(value.shape)}"
            )
        total = total + value
    return total


def reset_of(graph: Any) -> str:
    """The reset that a graph was exported for; ``"zero"``, as NIR specifies, if it does not say."""
    return "subtract" if said(graph, "reset") == "subtract" else "zero"


def layer_of(name: str) -> str:
    """The layer that a node belongs to: ``l01`` of ``l01_3_count02``, or of ``l01.3_count02``."""
    return name.replace(".", "_").split("_")[0]


def flattened(graph: Any) -> tuple[dict[str, Any], list[Edge]]:
    """Nodes and edges of a graph with its subgraphs inlined; their nodes are ``outer.inner``."""
    nodes: dict[str, Any] = {}
    enters: dict[str, list[str]] = {}
    leaves: dict[str, list[str]] = {}
    edges: list[Edge] = []
    for name, node in graph.nodes.items():
        if not hasattr(node, "nodes"):
            nodes[name] = node
            enters[name] = leaves[name] = [name]
            continue
        inner, inner_edges = flattened(node)
        source, sink = _only(inner, "Input"), _only(inner, "Output")
        if any(a == sink or b == source or (a, b) == (source, sink) for a, b in inner_edges):
            raise ValueError(
                f"an edge of subgraph {name!r} leads to its Input, from its Output, or straight "
                "from one to the other: put a Scale there"
            )
        full: dict[str, str] = {}
        for k in inner:
            full[k] = _full_name(name, k, {*nodes, *graph.nodes, *full.values()})
        nodes |= {full[k]: v for k, v in inner.items() if k not in (source, sink)}
        enters[name] = [full[b] for a, b in inner_edges if a == source]
        leaves[name] = [full[a] for a, b in inner_edges if b == sink]
        edges += [(full[a], full[b]) for a, b in inner_edges if a != source and b != sink]
    twice = [edge for edge, times in Counter(map(tuple, graph.edges)).items() if times > 1]
    if twice:
        raise ValueError(f"an edge is in the graph twice: {twice[0]!r}. Put a Scale of 2 there")
    for a, b in graph.edges:
        if a not in leaves or b not in enters:
            raise ValueError(f"an edge leads from {a!r} to {b!r}, one of which is not a node")
        edges += [(leaf, entry) for leaf in leaves[a] for entry in enters[b]]
    return nodes, edges


def _full_name(outer: str, inner: str, taken: set[str]) -> str:
    """``outer.inner``; with more dots where another node has that name."""
    dots = "."
    while f"{outer}{dots}{inner}" in taken:
        dots += "."
    return f"{outer}{dots}{inner}"


def _shape_of(source: Any) -> tuple[int, ...]:
    shape = np.asarray(source.input_type["input"])
    if shape.ndim != 1 or shape.dtype.kind not in "iu" or (shape < 1).any():
        raise ValueError(f"the Input of the graph must say the shape of an input, got {shape!r}")
    return tuple(shape.tolist())


def _only(nodes: dict[str, Any], kind: str) -> str:
    names = [name for name, node in nodes.items() if type(node).__name__ == kind]
    if len(names) != 1:
        raise ValueError(f"a graph must have exactly one {kind} to be run here, got {len(names)}")
    return names[0]


def _execution_order(source: str, nodes: dict[str, Any], edges: list[Edge]) -> list[str]:
    """Reverse postorder of a depth-first search: only edges that close a cycle point backwards."""
    after: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        after[a].append(b)
    order: list[str] = []
    seen = {source}
    stack = [(source, iter(sorted(after[source])))]
    while stack:
        name, rest = stack[-1]
        child = next((c for c in rest if c not in seen), None)
        if child is None:
            order.append(name)
            stack.pop()
        else:
            seen.add(child)
            stack.append((child, iter(sorted(after[child]))))
    return order[::-1]


def _require_driven(order: list[str], edges: list[Edge]) -> None:
    """Raise if an edge leads from a node that no input reaches: its activity would be lost."""
    reached = {*order}
    for a, b in edges:
        if a not in reached and b in reached:
            raise ValueError(
                f"node {a!r} leads to node {b!r}, but no path leads from the Input to it: join it "
                "to the Input, by a Linear of zeros"
            )


def _part(name: str, node: Any, reset: str, dt: float) -> nn.Module:
    try:
        return node_step(node, reset, dt)
    except ValueError as error:
        raise ValueError(f"node {name!r}: {error}") from error


def _key(name: str) -> str:
    """A key of nn.ModuleDict for a name, another one for each: it refuses dots, its own attributes
    and an empty text."""
    key = name.replace("%", "%25").replace("/", "%2F").replace(".", "/")
    return key if key and not hasattr(nn.ModuleDict(), key) else f"%{key}"
