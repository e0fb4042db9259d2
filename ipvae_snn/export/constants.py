"""What exports read of models and samples, in float64."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float, require_values
from ipvae_snn.functional import drive_weight
from ipvae_snn.models.base import Model
from ipvae_snn.neurons.lateral import Recurrent, SharedDecoder
from ipvae_snn.neurons.poisson import IPVAENeuron

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NeuronSettings:
    """Constants of Poisson neurons but their lateral inhibition.

    Attributes:
        step: the step size α.
        bias: tonic inhibition, (K,), in nats per timestep: b, with ½ diag G in the exact form.
        mem_init: initial membrane u_0, (K,), in nats.
        leak: fraction of u − u_0 that is lost per timestep, α included.
        clamp: upper bound of the membrane and of its increment, in nats.
        state_quant: whether the neurons quantise their membranes.
    """

    step: float
    bias: Floats
    mem_init: Floats
    leak: float
    clamp: float
    state_quant: bool


@dataclass(frozen=True, eq=False)
class NeuronConstants(NeuronSettings):
    """Constants of K Poisson neurons.

    Attributes:
        lateral_scale: factor on the lateral inhibition.
        gram: lateral_scale · G, (K, K), in nats per spike.
    """

    lateral_scale: float
    gram: Floats


@dataclass(frozen=True, eq=False)
class ModelConstants(NeuronConstants):
    """Constants of a linear Gaussian spiking model: M pixels, K neurons.

    Attributes:
        weight: decoder Φ, (M, K).
        log_scale: log σ per pixel, (M,); ``None`` where σ = 1.
        drive_weight: ΛΦ, (M, K); inputs x drive the neurons by x @ drive_weight.
    """

    weight: Floats
    log_scale: Floats | None
    drive_weight: Floats


def neuron_constants(neuron: IPVAENeuron) -> NeuronConstants:
    """The constants of Poisson neurons, whatever their lateral weights are made of.

    Raises:
        ValueError: neurons on feature maps, or with recurrent weights of either sign, which no
            export of this package can carry.
    """
    if isinstance(neuron.lateral, Recurrent):
        raise ValueError(
            f"IPVAENeuron(Recurrent({neuron.features})) has weights that are not symmetric, which "
            "no export can carry: those of IPVAENeuron(K) are"
        )
    if neuron.dim not in (None, -1) or neuron.lateral.between_places:
        raise ValueError(
            f"IPVAENeuron({neuron.features}, dim={neuron.dim}) competes between the channels of a "
            "map, which no export can carry: take the values of the map as neurons, by "
            "nn.Flatten() and IPVAENeuron(features)"
        )
    step = float(neuron.log_step.detach().double().exp())
    gram = neuron.gram().detach().double()
    return NeuronConstants(
        step=step,
        bias=_floats(neuron.tonic(gram, neuron.log_bias.detach().double())),
        mem_init=_floats(neuron.mem_init),
        leak=step * neuron.leak,
        clamp=neuron.clamp,
        lateral_scale=neuron.lateral_scale,
        gram=_floats(neuron.lateral_scale * gram),
        state_quant=bool(neuron.state_quant),
    )


def linear_gaussian(model: Any) -> ModelConstants:
    """The constants of a linear Gaussian spiking model.

    Raises:
        TypeError: another model.

    >>> from ipvae_snn import IPVAE
    >>> linear_gaussian(IPVAE(in_features=16, latents=8)).drive_weight.shape
    (16, 8)
    """
    require_linear_gaussian(model)
    weight, log_scale = model.weight.detach().double(), model.log_scale
    log_scale = None if log_scale is None else log_scale.detach().double()
    return ModelConstants(
        **vars(neuron_constants(model.neuron)),
        weight=_floats(weight),
        log_scale=None if log_scale is None else _floats(log_scale),
        drive_weight=_floats(drive_weight(weight, log_scale)),
    )


def require_linear_gaussian(model: Any) -> None:
    """Raise ``TypeError`` unless ``model`` has Poisson neurons that share its linear decoder."""
    lateral = getattr(getattr(model, "neuron", None), "lateral", None)
    if not (isinstance(model, Model) and isinstance(lateral, SharedDecoder)):
        decoded = getattr(model, "decoded", None)
        parts = [] if decoded is None else [decoded.decoder, decoded.likelihood]
        has = " and ".join(type(part).__name__ for part in parts)
        raise TypeError(
            "model must be an IPVAE with a linear decoder and a Gaussian likelihood, which is all "
            f"that spikes and weights carry, got {type(model).__name__}{has and f' with {has}'}"
        )
    require_values(model.like)


def samples(x: Tensor, pixels: int, name: str) -> Floats:
    """Samples (B, M), validated.

    Raises:
        TypeError, ValueError: not a finite floating-point tensor of that shape, or empty.
    """
    require_float(x, name)
    if x.ndim != 2 or x.shape[1] != pixels or not len(x):
        shape = tuple(x.shape)
        raise ValueError(f"{name} must have shape (B, {pixels}) and not be empty, got {shape}")
    require_finite(x, name)
    return _floats(x)


def _floats(values: Tensor) -> Floats:
    array: Floats = values.detach().cpu().double().numpy()
    return array
