"""Fragments of a NIR graph: what one module of a network becomes."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ipvae_snn._utils.extras import require_extra
from ipvae_snn.neurons.lateral import derives_weights, remake_weights

Array = NDArray[np.float32]
Shape = tuple[int, ...]

FORMAT, FORMAT_VERSION = "ipvae_snn.export", 1
"""What the metadata of exported graphs say, whose unit of time is a timestep."""


@dataclass
class Fragment:
    """The nodes of one module, and what the weights around them still have to absorb.

    Several toolchains ignore a neuron's resistance, so that gains, biases and output scales go into
    the weights before and after the neuron (:mod:`~ipvae_snn.export.graphs.folding`).

    Attributes:
        nodes: by name, in the order of execution.
        edges: between them.
        entries: nodes that receive the input.
        exits: nodes whose sum is the output.
        gain: factor on the input that is not in the nodes yet.
        bias: added to the input after that; ``None`` for nothing.
        out_scale: factor on the output that is not in the nodes yet.
        shape: of the output, without batch.
        metadata: of the layer, to read it back.
        linear: a factor on the input is a factor on the output, so that scales pass through.
        notes: what was approximated.
    """

    nodes: dict[str, Any]
    entries: tuple[str, ...]
    exits: tuple[str, ...]
    shape: Shape
    edges: list[tuple[str, str]] = field(default_factory=list)
    gain: float | Array = 1.0
    bias: Array | None = None
    out_scale: float = 1.0
    linear: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def single(cls, name: str, node: Any, shape: Shape, **options: Any) -> "Fragment":
        """A fragment of one node."""
        return cls({name: node}, (name,), (name,), shape, **options)

    @property
    def is_weight(self) -> bool:
        """Whether this is one node of weights, which can absorb scales and biases."""
        nir, nodes = nir_module(), list(self.nodes.values())
        return len(nodes) == 1 and isinstance(nodes[0], (nir.Affine, nir.Conv2d))


def nir_module() -> Any:
    """The package nir, or an error that names its extra."""
    return require_extra("nir", extra="nir")


def require_graph(graph: Any, name: str = "graph") -> None:
    """Raise ``TypeError`` unless ``graph`` is a ``nir.NIRGraph`` whose names are text."""
    if not isinstance(graph, nir_module().NIRGraph):
        raise TypeError(f"{name} must be a nir.NIRGraph, got {type(graph).__name__}")
    for key, node in graph.nodes.items():
        if not isinstance(key, str):
            raise TypeError(f"names of nodes must be text, got {key!r}: name it {str(key)!r}")
        if hasattr(node, "nodes"):
            require_graph(node, f"node {key!r}")


def said(graph: Any, key: str) -> str:
    """What the metadata of a graph say under a key, as text; those of others hold anything."""
    return str(graph.metadata.get(key, ""))


def array(values: Tensor | NDArray[Any] | float, shape: Shape | None = None) -> Array:
    """A float32 copy in numpy, broadcast to ``shape``: one value per neuron, no batch."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    values = np.asarray(values, dtype=np.float32)
    return values.copy() if shape is None else np.broadcast_to(values, shape).copy()


def state_arrays(module: Any) -> dict[str, NDArray[Any]]:
    """A state dictionary as arrays of at least one dimension: nir cannot write 0-d ones.

    Of layers whose weights are computed from others, it holds the weights as they are now.
    """
    state = module.state_dict()
    for name, part in module.named_modules(remove_duplicate=False):
        if isinstance(part, nn.Linear) and derives_weights(part):
            remake_weights(part)
            state = {k: v for k, v in state.items() if not k.startswith(f"{name}.")}
            plain = {"weight": part.weight, "bias": part.bias}
            state |= {f"{name}.{k}": v for k, v in plain.items() if v is not None}
    if any(value.dtype == torch.bfloat16 for value in state.values()):
        raise ValueError("weights in bfloat16 have no arrays in NumPy: export a copy, .float()")
    return {k: np.atleast_1d(v.detach().cpu().numpy()) for k, v in state.items()}
