"""All timesteps of a network at once, layer by layer."""

from typing import Any

import torch
from snntorch import SpikingNeuron
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_float, require_instance, require_integer
from ipvae_snn.neurons.base import State, StatefulNeuron
from ipvae_snn.neurons.states import reset


def over_time(net: nn.Sequential, input_: Tensor, num_steps: int | None = None) -> Any:
    """The outputs of a network at all timesteps, time first.

    Equal to a loop over time that calls ``net`` for each timestep after a reset, but layer by
    layer: neurons of this package take all timesteps by ``run``, on compiled kernels; layers
    without a state take them as one large batch; other spiking neurons are called in a loop. With
    ``num_steps``, layers before the first neurons are computed once, as their input stays the same.
    In training, ``nn.BatchNorm`` normalises over time and batch together, where a loop over time
    would do so at each timestep.

    Args:
        net: ``nn.Sequential``, nested at will; spiking neurons with ``init_hidden=True``.
        input_: (T, B, ...); with ``num_steps`` (B, ...), shown at all timesteps.
        num_steps: T, for an input that stays.

    Returns:
        The outputs of the last layer, (T, B, ...): of neurons made with ``output=True`` the pair
        ``(spk, mem)``.

    Raises:
        TypeError: ``net`` is no ``nn.Sequential``, or ``input_`` no floating-point tensor.
        ValueError: wrong shapes; a layer that keeps states in another way.

    >>> from ipvae_snn import IPVAENeuron
    >>> net = nn.Sequential(nn.Linear(3, 4), IPVAENeuron(4, init_hidden=True), nn.Linear(4, 2))
    >>> over_time(net, torch.rand(5, 3), num_steps=10).shape
    torch.Size([10, 5, 2])
    """
    require_instance(net, "net", nn.Sequential)
    require_float(input_, "input_")
    least = 2 if num_steps is None else 1
    if input_.ndim < least or not len(input_):
        raise ValueError(
            f"input_ must have shape {'(T, B, ...)' if num_steps is None else '(B, ...)'}, got "
            f"{tuple(input_.shape)}"
        )
    layers = _layers(net)
    steps = len(input_) if num_steps is None else require_integer(num_steps, "num_steps")
    reset(net)
    constant, value = num_steps is not None, input_
    for number, (name, layer) in enumerate(layers):
        if isinstance(layer, SpikingNeuron):
            sequence = value.expand(steps, *value.shape) if constant else value
            value, constant = _spikes(layer, sequence), False
            if isinstance(value, tuple) and number < len(layers) - 1:
                raise ValueError(
                    f"layer {name} has output=True, which only the last layer may have"
                )
        elif constant:
            value = layer(value)
        else:
            value = layer(value.flatten(0, 1)).unflatten(0, (steps, -1))
    return value.expand(steps, *value.shape) if constant else value


def _spikes(layer: Any, sequence: Tensor) -> Any:
    """Of a layer at all timesteps, with membranes if it returns them."""
    if isinstance(layer, StatefulNeuron):
        states = layer.run(sequence)
        return states if layer.output else states.spk
    outputs = [layer(now) for now in sequence]
    if isinstance(outputs[0], tuple):
        return State(*map(torch.stack, zip(*outputs, strict=True)))
    return torch.stack(outputs)


def _layers(net: nn.Sequential, name: str = "") -> list[tuple[str, nn.Module]]:
    """The layers of nested ``nn.Sequential``, by name, in their order."""
    found: list[tuple[str, nn.Module]] = []
    for child, layer in net._modules.items():
        path = f"{name}.{child}".lstrip(".")
        assert layer is not None
        if type(layer) is nn.Sequential:
            found += _layers(layer, path)
            continue
        spiking = [module for module in layer.modules() if isinstance(module, SpikingNeuron)]
        if spiking and spiking != [layer]:
            raise ValueError(
                f"layer {path} is a {type(layer).__name__} with spiking neurons inside, whose "
                "order is not known: call the network for each timestep"
            )
        if spiking and not getattr(layer, "init_hidden", False):
            raise ValueError(f"layer {path} must keep its state: make it with init_hidden=True")
        found.append((path, layer))
    return found
