"""The file format of a model: plain configuration and tensors, nothing that could run."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ipvae_snn.files import require_file, whole_file

FORMAT, FORMAT_VERSION = "ipvae_snn.IPVAE", 1
Weights = dict[str, Tensor]


def write_model(path: str | Path, config: dict[str, Any], weights: Weights) -> None:
    """Write configuration and weights to one file, whole or not at all."""
    content = {"format": FORMAT, "version": FORMAT_VERSION, "config": config, "weights": weights}
    with whole_file(path) as temporary:
        torch.save(content, temporary)


def read_model(path: str | Path, device: torch.device | str) -> tuple[dict[str, Any], Weights]:
    """Configuration and weights from a file of :func:`write_model`; never runs code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, damaged, or written by a newer version.
    """
    path = require_file(path, "IPVAE.save")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere inside the unpickler
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a model: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by IPVAE.save")
    if content.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {content.get('version')}, this release reads version "
            f"{FORMAT_VERSION}: update ipvae_snn"
        )
    if not (isinstance(content.get("config"), dict) and isinstance(content.get("weights"), dict)):
        raise ValueError(f"{path} is damaged: it lacks its configuration or its weights")
    return dict(content["config"]), content["weights"]
