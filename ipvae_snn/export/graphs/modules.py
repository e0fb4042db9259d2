"""Translates the modules of a network to graph fragments."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from snntorch import SpikingNeuron
from torch import nn

from ipvae_snn import surrogate
from ipvae_snn.export.constants import neuron_constants
from ipvae_snn.export.graphs.competition import Matrix
from ipvae_snn.export.graphs.graph_fragment import (
    Array,
    Fragment,
    Shape,
    array,
    nir_module,
    state_arrays,
)
from ipvae_snn.export.graphs.network import flattened
from ipvae_snn.export.graphs.poisson import GraphOptions, poisson_fragment
from ipvae_snn.export.graphs.snntorch_neurons import SPIKING, spiking_fragment
from ipvae_snn.export.graphs.timestep import require_resolved
from ipvae_snn.neurons.lateral import remake_weights
from ipvae_snn.neurons.poisson import IPVAENeuron

ExtraMap = Mapping[type, Callable[[Any], Any]]
_IN_TIMESTEPS = "give the time constants of extra_map in timesteps, as τ / dt"


def fragments_of(
    network: nn.Module, shape: Shape, extra_map: ExtraMap, options: GraphOptions
) -> list[Fragment]:
    """The fragments of a sequential network, for inputs of ``shape``.

    Raises:
        ValueError, TypeError: a module without a translation or of the wrong size, named.
    """
    fragments: list[Fragment] = []
    neurons: set[nn.Module] = set()
    for name, module in _leaves(network, extra_map):
        try:
            if module in neurons:
                raise ValueError("it is there twice, with one state for both: use two neurons")
            if isinstance(module, SpikingNeuron):
                neurons.add(module)
            fragment = _translate(module, shape, extra_map, options)
        except (ValueError, TypeError) as error:
            raise type(error)(f"module {name or 'at the top'}: {error}") from error
        if fragment is not None:
            fragments.append(fragment)
            shape = fragment.shape
    return fragments


def first_shape(network: nn.Module, extra_map: ExtraMap) -> Shape | None:
    """The shape of the input, without batch, if the first module defines it."""
    for name, module in _leaves(network, extra_map):
        if type(module) in extra_map:
            types = getattr(extra_map[type(module)](module), "input_type", None) or {}
            shapes = [shape for shape in types.values() if shape is not None]
            return tuple(int(n) for n in shapes[0]) if shapes else None
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if isinstance(module, IPVAENeuron):
            return (module.features,)
        if _kind_of(module) is None:
            raise ValueError(f"module {name or 'at the top'}: {_no_translation(module)}")
        if not isinstance(module, (nn.Dropout, nn.Identity)):
            return None
    return None


def _leaves(network: nn.Module, extra_map: ExtraMap, name: str = "") -> list[tuple[str, nn.Module]]:
    if type(network) not in extra_map and _keeps_forward(network, nn.Sequential):
        leaves = []
        for child in network._modules:  # also a module that is there twice
            module = network.get_submodule(child)
            leaves += _leaves(module, extra_map, f"{name}.{child}".lstrip("."))
        return leaves
    return [(name, network)]


def _translate(
    module: nn.Module, shape: Shape, extra_map: ExtraMap, options: GraphOptions
) -> Fragment | None:
    if type(module) in extra_map:
        return _own(extra_map[type(module)](module), module, shape)
    if isinstance(module, IPVAENeuron):
        constants = neuron_constants(module)  # which refuses what no graph can carry
        _require_shape(shape, (module.features,), "currents")
        fragment = poisson_fragment(constants, Matrix(constants.gram), options)
        fragment.metadata = neuron_metadata(module)
        return fragment
    kind = _kind_of(module)
    if kind is None:
        raise ValueError(_no_translation(module))
    remake_weights(module)
    return _TRANSLATIONS[kind](module, shape, options)


def _kind_of(module: nn.Module) -> type[nn.Module] | None:
    """The class whose translation is that of a module: its own, or one whose forward it keeps."""
    for kind in _TRANSLATIONS:
        if type(module) is kind or (kind not in SPIKING and _keeps_forward(module, kind)):
            return kind
    return None


def _keeps_forward(module: nn.Module, kind: type[nn.Module]) -> bool:
    return isinstance(module, kind) and type(module).forward is kind.forward


def _no_translation(module: nn.Module) -> str:
    inner = next((n for n in ("module", "_orig_mod") if n in module._modules), None)
    wraps = f"export what it wraps, its .{inner}, or " if inner else ""
    return (
        f"{type(module).__module__}.{type(module).__name__} has no translation to NIR: supported "
        f"are {', '.join(sorted(k.__name__ for k in _TRANSLATIONS))}, IPVAENeuron and "
        f"nn.Sequential of them, with the forward of these classes; {wraps}give extra_map="
        f"{{{type(module).__name__}: function from module to nir node}}"
    )


def neuron_metadata(neuron: IPVAENeuron) -> dict[str, Any]:
    """Settings, estimator and weights of a stochastic neuron, as plain data.

    Empty for an estimator that is not registered under a name.
    """
    try:
        estimator = surrogate.to_config(neuron.spike_grad)
    except TypeError:
        return {}
    settings = {name: getattr(neuron, name) for name in ("clamp", "leak", "lateral_scale")}
    return {
        "lateral": type(neuron.lateral).__name__,
        "features": neuron.features,
        "settings": settings,
        "form": neuron.form,
        "estimator": {k: v for k, v in estimator.items() if v is not None},
        "state": state_arrays(neuron),
    }


def _require_shape(shape: Shape, expected: Shape, what: str) -> None:
    if shape != expected:
        raise ValueError(f"it takes {what} of shape {expected}, what comes before gives {shape}")


def _own(node: Any, module: nn.Module, shape: Shape) -> Fragment:
    """The fragment of a node that the user's ``extra_map`` returned."""
    nir, name = nir_module(), type(module).__name__
    node = copy.deepcopy(node)  # folding changes nodes in place
    if not isinstance(node, nir.ir.NIRNode):
        raise TypeError(f"extra_map[{name}] must return a nir node, got {type(node).__name__}")
    if isinstance(node, nir.NIRGraph):
        if len(node.inputs) != 1 or len(node.outputs) != 1:
            raise ValueError(f"the graph of extra_map[{name}] must have one Input and one Output")
        require_resolved(flattened(node)[0], 1, _IN_TIMESTEPS)
        ((source, _),), ((sink, last),) = node.inputs.items(), node.outputs.items()
        if any(a == sink or b == source or (a, b) == (source, sink) for a, b in node.edges):
            raise ValueError(
                f"an edge of the graph of extra_map[{name}] leads to its Input, from its Output, "
                "or straight from one to the other: put a Scale there"
            )
        return Fragment(
            {k: v for k, v in node.nodes.items() if k not in (source, sink)},
            entries=tuple(b for a, b in node.edges if a == source),
            exits=tuple(a for a, b in node.edges if b == sink),
            shape=tuple(int(n) for n in last.output_type["output"]),
            edges=[e for e in node.edges if source not in e and sink not in e],
        )
    require_resolved({name: node}, 1, _IN_TIMESTEPS)
    out = next(iter((node.output_type or {}).values()), None)
    return Fragment.single("1_user", node, shape if out is None else tuple(int(n) for n in out))


# -- layers ---------------------------------------------------------------------------------------


def _linear(module: nn.Linear, shape: Shape, options: GraphOptions) -> Fragment:
    nir = nir_module()
    _require_shape(shape, (module.in_features,), "inputs")
    out = (module.out_features,)
    bias = array(0, out) if module.bias is None else array(module.bias)
    return Fragment.single("1_weight", nir.Affine(array(module.weight), bias), out, linear=True)


def _conv2d(module: nn.Conv2d, shape: Shape, options: GraphOptions) -> Fragment:
    if len(shape) != 3 or shape[0] != module.in_channels:
        raise ValueError(f"it takes inputs of shape ({module.in_channels}, H, W), got {shape}")
    if module.padding_mode != "zeros":
        raise ValueError(f"padding_mode {module.padding_mode!r} does not exist in NIR: use 'zeros'")
    bias = array(0, (module.out_channels,)) if module.bias is None else array(module.bias)
    weight = _ungrouped(array(module.weight), module.groups)
    return _convolution(weight, bias, shape, module.stride, module.padding, module.dilation)


def _convolution(
    weight: Array, bias: Array, shape: Shape, stride: Any, padding: Any, dilation: Any = (1, 1)
) -> Fragment:
    nir = nir_module()
    node = nir.Conv2d(shape[1:], weight, stride, padding, dilation, 1, bias)
    out = tuple(int(n) for n in node.output_type["output"])
    x, kernel = (torch.empty(size, device="meta") for size in ((1, *shape), weight.shape))
    try:
        right = tuple(torch.conv2d(x, kernel, None, stride, padding, dilation).shape[1:])
    except RuntimeError as error:
        raise ValueError(f"it cannot take inputs of shape {shape}: {error}") from error
    if out != right:
        raise ValueError(
            f"after its kernel, {weight.shape[2]}×{weight.shape[3]}, the shape is {right}, but nir "
            f"takes it for {out}: make the kernel square, by weights of 0"
        )
    return Fragment.single("1_weight", node, out, linear=True)


def _ungrouped(weight: Array, groups: int) -> Array:
    """The same convolution in one group: nir computes wrong input channels for several."""
    blocks = np.split(weight, groups)
    out, into = len(weight) // groups, weight.shape[1]
    dense = np.zeros((len(weight), into * groups, *weight.shape[2:]), dtype=np.float32)
    for n, block in enumerate(blocks):
        dense[n * out : (n + 1) * out, n * into : (n + 1) * into] = block
    return dense


def _flatten(module: nn.Flatten, shape: Shape, options: GraphOptions) -> Fragment:
    nir = nir_module()
    if module.start_dim in (0, -1 - len(shape)):
        raise ValueError(
            f"it flattens the batch too (start_dim={module.start_dim}), which NIR does not have"
        )
    # Negative dimensions are the same with and without a batch; norse would apply positive ones to
    # the batch.
    start, end = (
        dim - 1 - len(shape) if dim > 0 else dim for dim in (module.start_dim, module.end_dim)
    )
    node = nir.Flatten(input_type={"input": np.array(shape)}, start_dim=start, end_dim=end)
    out = tuple(int(n) for n in node.output_type["output"])
    return Fragment.single("1_flatten", node, out, linear=True)


def _avg_pool(module: nn.AvgPool2d, shape: Shape, options: GraphOptions) -> Fragment:
    nir = nir_module()
    if len(shape) != 3:
        raise ValueError(f"it takes inputs of shape (C, H, W), got {shape}")
    size, stride, padding = (
        (int(v), int(v)) if isinstance(v, int) else tuple(v)
        for v in (module.kernel_size, module.stride, module.padding)
    )
    excludes_padding = any(padding) and not module.count_include_pad
    if module.ceil_mode or module.divisor_override or excludes_padding:
        raise ValueError("ceil_mode, divisor_override and count_include_pad=False are not in NIR")
    if options.form == "portable" and size[0] == size[1]:  # few toolchains import AvgPool2d
        mean = np.full((shape[0], 1, *size), 1 / np.prod(size), dtype=np.float32)
        return _convolution(_ungrouped(mean, shape[0]), array(0, shape[:1]), shape, stride, padding)
    node = nir.AvgPool2d(np.array(size), np.array(stride), np.array(padding))
    sides = zip(shape[1:], size, stride, padding, strict=True)
    out = (shape[0], *((n + 2 * p - k) // s + 1 for n, k, s, p in sides))
    return Fragment.single("1_pool", node, out, linear=True)


def _nothing(module: nn.Module, shape: Shape, options: GraphOptions) -> None:
    """Dropout and Identity: no nodes in inference."""


_TRANSLATIONS: dict[type[nn.Module], Callable[..., Fragment | None]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.Flatten: _flatten,
    nn.AvgPool2d: _avg_pool,
    nn.Dropout: _nothing,
    nn.Identity: _nothing,
    **dict.fromkeys(SPIKING, spiking_fragment),
}
