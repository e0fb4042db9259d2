"""A convolutional model for images of one size as a flat one, which every export can carry."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_instance, require_integer
from ipvae_snn.models.convolutional import ConvIPVAE
from ipvae_snn.models.ipvae import IPVAE

LARGEST = 2**27
"""Numbers in the dictionary that is made, at most: half a gigabyte."""


@torch.no_grad()
def unrolled(model: ConvIPVAE, size: Sequence[int]) -> IPVAE:
    """The IPVAE whose neurons are those of all places, for images of ``size``.

    Its inputs are whitened images (C, H, W) as rows, its codes maps (K, h, w) as rows. It infers
    what ``model`` does, borders included, at the cost of a dense dictionary.

    Args:
        model: a convolutional model.
        size: (H, W), or (L,) of signals.

    Raises:
        TypeError, ValueError: no such model or size, or one too large for a dense dictionary.

    >>> model = ConvIPVAE(channels=1, latents=3, kernel_size=4, stride=2)
    >>> flat = unrolled(model, (6, 8))
    >>> flat.in_features, flat.latents
    (48, 60)
    >>> spk = torch.poisson(torch.ones(5, 3, 4, 5))
    >>> torch.allclose(flat.decode(spk.flatten(1)), model.decode(spk).flatten(1), atol=1e-5)
    True
    """
    require_instance(model, "model", ConvIPVAE)
    size = tuple(require_integer(side, "size") for side in size)
    if len(size) != model.dimensions:
        raise ValueError(f"size must have {model.dimensions} number(s), got {size}")
    shape, pixels = model.code_shape(size), model.channels * prod(size)
    latents = prod(shape)
    if latents * pixels > LARGEST:
        raise ValueError(
            f"images of {'×'.join(map(str, size))} have {latents:,} neurons, and a dense "
            f"dictionary of {latents * pixels:,} numbers: take smaller ones"
        )
    neuron = model.neuron
    forms: dict[str, Any] = {"form": neuron.form, "kl_form": model.kl_form}
    flat = IPVAE(
        pixels, latents, **forms, clamp=neuron.clamp, leak=neuron.leak,
        lateral_scale=neuron.lateral_scale, spike_grad=neuron.spike_grad,
        learn_scale=model.raw_log_scale is not None,
    ).to(model.like)  # fmt: skip
    each = torch.eye(latents).to(model.like).view(latents, *shape)
    flat.decoder.weight.copy_(model.decode(each, size).flatten(1).mT)
    flat.neuron.log_step.copy_(neuron.log_step)
    for name in ("log_bias", "mem_init"):
        value: Tensor = getattr(neuron, name)
        by_place = value.expand(model.latents).repeat_interleave(latents // model.latents)
        getattr(flat.neuron, name).copy_(by_place)
    if model.raw_log_scale is not None:
        scale = flat.neuron.lateral.log_scale
        assert isinstance(scale, Tensor)
        scale.copy_(model.raw_log_scale.repeat_interleave(prod(size)))
    return flat.train(model.training)
