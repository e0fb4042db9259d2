"""Run a model, and hold what is seen against the signatures."""

from dataclasses import replace

from torch import Tensor

from ipvae_snn._utils.checks import require_float, require_integer, require_seed
from ipvae_snn.diagnostics import signatures
from ipvae_snn.diagnostics.observe import observe
from ipvae_snn.diagnostics.report import Finding, Report
from ipvae_snn.models.base import BaseModel, require_model

MIN_STEPS = 80
"""Timesteps below which nothing can be said of convergence."""
# What an unhealthy finding explains; of several the one that is looked at first.
EXPLAINS: dict[str, tuple[str, ...]] = {
    "silence": ("silent neurons", "free energy", "lifetime sparsity", "smoothing"),
    "membranes": (
        "clamp", "free energy", "convergence", "oscillation", "active neurons",
        "lifetime sparsity", "hyperactive", "poisson", "smoothing", "silent neurons",
    ),
    "oscillation": (
        "convergence", "free energy", "clamp", "active neurons", "lifetime sparsity", "hyperactive",
        "smoothing", "poisson",
    ),
    "clamp": ("free energy", "lifetime sparsity", "active neurons", "hyperactive", "smoothing"),
    "free energy": (
        "convergence", "active neurons", "lifetime sparsity", "smoothing", "hyperactive",
    ),
    "convergence": (
        "active neurons", "lifetime sparsity", "smoothing", "silent neurons",
    ),
    "active neurons": ("lifetime sparsity", "hyperactive"),
    "lifetime sparsity": ("silent neurons", "hyperactive"),
}  # fmt: skip


def check(
    model: BaseModel,
    data: Tensor,
    *,
    shape: tuple[int, int] | None = None,
    num_steps: int = 200,
    samples: int = 200,
    seed: int = 0,
) -> Report:
    """Look for the signatures of a model that went wrong.

    =====================  =====================================================================
    ``poisson``            counts scatter about their rates as Poisson counts do
    ``membranes``          stay bounded
    ``clamp``              is rarely reached
    ``free energy``        falls, and stays low
    ``convergence``        R² of the rates settles
    ``oscillation``        rates stay where they are, but for noise
    ``active neurons``     few per timestep
    ``lifetime sparsity``  a neuron answers to some samples only
    ``silence``            there are spikes enough: no excessive sparsity
    ``silent neurons``     few neurons never fire
    ``hyperactive``        no neuron outshouts the rest on all samples
    ``duplicates``         few features are there twice
    ``smoothing``          reconstructions keep fine detail; needs ``shape``
    ``gradient``           reaches the neurons through their spikes
    =====================  =====================================================================

    A finding that another one explains says so (``follows``); ``report.problems`` holds the others.

    Args:
        model: left as it was; it is run in ``eval()`` mode, but for a gradient. Of other models
            than an :class:`~ipvae_snn.IPVAE` what makes no sense is left out: ``poisson``,
            ``membranes`` and ``clamp`` where codes are no counts, ``active neurons``, ``lifetime
            sparsity``, ``hyperactive`` and ``silent neurons`` where they are dense by design,
            ``gradient`` where there is no tonic inhibition to measure it by.
        data: held-out samples, shape (N, M), N ≥ 2.
        shape: (H, W) of an image, for the spectra.
        num_steps: T ≥ 80.
        samples: at most so many of ``data``, the first.
        seed: of the spikes.

    Raises:
        TypeError: no model.
        ValueError: shapes or numbers out of range.

    Source: the quick checks and failure signatures that go with the paper (arXiv 2410.19315).

    >>> import torch
    >>> from ipvae_snn import IPVAE
    >>> report = check(IPVAE(16, 8, bias=5.0), torch.rand(20, 16), num_steps=80)
    >>> [finding.name for finding in report.problems]
    ['silence']
    """
    require_model(model)
    require_integer(num_steps, "num_steps", least=MIN_STEPS)
    require_integer(samples, "samples", least=2)
    require_seed(seed)
    require_float(data, "data")
    if data.ndim != 2 or len(data) < 2 or data.shape[1] != model.in_features:
        raise ValueError(
            f"data must have shape (N, {model.in_features}) with N ≥ 2, got {tuple(data.shape)}"
        )
    if shape is not None and shape[0] * shape[1] != model.in_features:
        raise ValueError(f"shape must hold the {model.in_features} pixels of a sample, got {shape}")
    seen = observe(model, data[:samples].detach(), num_steps, seed)
    sparse, counts = model.sparse_code, model.emits_counts
    found = [
        *([signatures.silence(seen)] if sparse else []),
        *([signatures.membranes(seen)] if counts else []),
        signatures.oscillation(seen),
        *([signatures.clamp(seen)] if seen.clamped is not None else []),
        signatures.free_energy(seen),
        signatures.convergence(seen),
        *([signatures.active_neurons(seen), signatures.lifetime_sparsity(seen)] if sparse else []),
        *([signatures.poisson(seen)] if counts else []),
        *([signatures.hyperactive(seen), signatures.silent_neurons(seen)] if sparse else []),
        signatures.duplicates(seen),
        signatures.smoothing(seen, shape),
        *([signatures.gradient(seen)] if seen.gradient is not None else []),
    ]
    return Report(tuple(_explained(found)))


def _explained(found: list[Finding]) -> list[Finding]:
    """The same, each unhealthy one with the first unhealthy one that explains it."""
    unhealthy = [finding.name for finding in found if not finding.healthy]
    causes = {
        name: next((c for c in unhealthy if name in EXPLAINS.get(c, ())), "") for name in unhealthy
    }
    return [replace(f, follows=causes.get(f.name, "")) for f in found]
