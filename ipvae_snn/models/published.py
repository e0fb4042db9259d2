"""Checkpoints of the authors' program, read without running code from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite
from ipvae_snn._utils.storage import load_plain

CLAMP = 10.0
"""Of the published models with a linear decoder, nats; their files do not hold it."""
_WEIGHTS = {
    "weight": "layer.phi.weight",
    "log_scale": "layer.dec_log_sigma",
    "log_bias": "layer.log_bias",
    "log_step": "layer.log_lr.0",
    "mem_init": "layer.u_init.0",
}
_UNUSED = "layer.temp", "layer.beta_inner", "layer.eps", "layer.n_exp"
"""Buffers of the relaxed draws of their training; counts are exact here."""

_SCALAR = np.float64(0).__reduce__()[0]
_KINDS = [type(np.dtype(name)) for name in ("?", "i4", "i8", "u1", "f2", "f4", "f8", "U1")]
_NUMPY = (
    # The function that makes numpy's scalars, under its names in numpy 1 and 2.
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *_KINDS,
)


def read_published(path: str | Path, ema: bool = False) -> dict[str, Tensor]:
    """The weights of an iterative Poisson VAE in a checkpoint of the authors' program.

    Args:
        path: the file: a dictionary with the weights under ``model``.
        ema: take the moving averages of the weights, under ``model_ema``.

    Returns:
        ``weight`` (M, K), ``log_scale`` (M,), unbounded, ``log_bias`` (K,), ``log_step`` () and
        ``mem_init`` (K,).

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or no such model: the message names what it lacks or has besides.
    """
    content = load_plain(path, writer="the published program", allowed=_NUMPY)
    name = "model_ema" if ema else "model"
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"{path} holds no weights under {name!r}, as the published program writes")
    missing = [key for key in _WEIGHTS.values() if key not in found]
    others = [str(key) for key in found if key not in (*_WEIGHTS.values(), *_UNUSED)]
    if missing or others:
        lacks = f"lacks {_listed(missing)}" if missing else ""
        has = f"has {_listed(others)} besides" if others else ""
        raise ValueError(
            f"{path} holds another model than the iterative Poisson VAE with a linear decoder and "
            f"one update per timestep: it {' and '.join(filter(None, (lacks, has)))}"
        )
    return _shaped(path, {own: found[theirs] for own, theirs in _WEIGHTS.items()})


def _shaped(path: str | Path, weights: dict[str, Any]) -> dict[str, Tensor]:
    phi = weights["weight"]
    if not isinstance(phi, Tensor) or phi.ndim != 2 or not phi.numel():
        raise ValueError(f"{path} is damaged: {_WEIGHTS['weight']} is no matrix (M, K)")
    pixels, latents = phi.shape
    shapes: dict[str, tuple[int, ...]] = {
        "weight": (pixels, latents),
        "log_scale": (pixels,),
        "log_bias": (latents,),
        "log_step": (),
        "mem_init": (latents,),
    }
    for name, shape in shapes.items():
        value, theirs = weights[name], _WEIGHTS[name]
        wanted = torch.Size((1, *shape)) if len(shape) < 2 else torch.Size(shape)
        if not (isinstance(value, Tensor) and value.is_floating_point()) or (
            value.shape not in (wanted, shape)
        ):
            told = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{path} is damaged: {theirs} must have shape {tuple(wanted)}, it is {told}"
            )
        require_finite(value, f"{theirs} in {path}")
        weights[name] = value.detach().float().reshape(shape)
    return weights


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"
