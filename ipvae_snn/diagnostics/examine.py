"""``check``: observes a model on some data, and tests all signatures."""

from dataclasses import replace
from functools import partial

from torch import Tensor

from ipvae_snn._utils.checks import require_float, require_integer, require_seed
from ipvae_snn.diagnostics import signatures
from ipvae_snn.diagnostics.observe import observe
from ipvae_snn.diagnostics.report import Finding, Report
from ipvae_snn.models.base import BaseModel, require_model
from ipvae_snn.models.likelihoods import Gaussian

MIN_STEPS = 80
"""Minimum number of timesteps, for the sake of convergence and oscillation."""
# The findings that an unhealthy one explains. Of several causes, the one tested first counts.
EXPLAINS: dict[str, tuple[str, ...]] = {
    "input scale": (
        "silence", "membranes", "oscillation", "clamp", "free energy", "convergence",
        "active neurons", "lifetime sparsity", "poisson", "hyperactive", "silent neurons",
        "duplicates", "smoothing",
    ),
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
    """Test a model for failure signatures.

    =====================  =====================================================================
    ``input scale``        inputs are about as large as images in [0, 1] or whitened patches
    ``poisson``            spike counts have the variance of Poisson counts
    ``membranes``          membranes stay bounded
    ``clamp``              membranes rarely reach the clamp
    ``free energy``        the free energy falls and stays low
    ``convergence``        R² of the rates converges
    ``oscillation``        rates do not alternate or jump between timesteps
    ``active neurons``     few neurons spike in a timestep
    ``lifetime sparsity``  a neuron responds to some samples only
    ``silence``            there are enough spikes: no excessive sparsity
    ``silent neurons``     few neurons hardly ever spike
    ``hyperactive``        no neuron spikes much more than the others on nearly all samples
    ``duplicates``         few features are nearly equal
    ``smoothing``          reconstructions keep fine detail; needs ``shape``
    ``gradient``           gradients reach the neurons through their spikes
    =====================  =====================================================================

    An unhealthy finding that another one explains names it in ``follows``; ``report.problems``
    holds the rest.

    Args:
        model: the model, left unchanged. It runs in ``eval()`` mode, except for a gradient.
            Findings that do not apply to it are left out: ``poisson``, ``membranes`` and ``clamp``
            if its codes are not counts; ``silence``, ``active neurons``, ``lifetime sparsity``,
            ``hyperactive`` and ``silent neurons`` if they are dense by design; ``gradient`` if it
            has no tonic inhibition whose gradient could be measured; ``input scale`` if its
            likelihood is not the Gaussian.
        data: held-out samples, shape (N, M), N ≥ 2; images (N, C, H, W) of a convolutional model.
        shape: (H, W) of a flat sample, for spectra.
        num_steps: T ≥ 80.
        samples: number of samples to use, from the first.
        seed: seed of the spikes.

    Raises:
        TypeError: not a model.
        ValueError: a shape or number is out of range.

    Source: the quick checks and failure signatures published with the paper (arXiv 2410.19315).

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
    if data.ndim < 2 or len(data) < 2 or not model.takes_samples(tuple(data.shape[1:])):
        raise ValueError(
            f"data must have shape {model.expected_samples()} with N ≥ 2, got {tuple(data.shape)}"
        )
    if data.ndim == 4:
        shape = data.shape[2], data.shape[3]
    elif shape is not None and shape[0] * shape[1] != model.in_features:
        raise ValueError(f"shape must hold the {model.in_features} pixels of a sample, got {shape}")
    observation = observe(model, data[:samples].detach(), num_steps, seed)
    sparse, counts = model.sparse_code, model.emits_counts
    likelihood = getattr(getattr(model, "decoded", None), "likelihood", None)
    tests = (
        (likelihood is None or isinstance(likelihood, Gaussian), signatures.input_scale),
        (sparse, signatures.silence),
        (counts, signatures.membranes),
        (True, signatures.oscillation),
        (observation.clamped is not None, signatures.clamp),
        (True, signatures.free_energy),
        (True, signatures.convergence),
        (sparse, signatures.active_neurons),
        (sparse, signatures.lifetime_sparsity),
        (counts, signatures.poisson),
        (sparse, signatures.hyperactive),
        (sparse, signatures.silent_neurons),
        (True, signatures.duplicates),
        (True, partial(signatures.smoothing, shape=shape)),
        (observation.gradient is not None, signatures.gradient),
    )
    findings = [test(observation) for applies, test in tests if applies]
    return Report(tuple(_with_causes(findings)))


def _with_causes(findings: list[Finding]) -> list[Finding]:
    """Set ``follows`` of each unhealthy finding to the first unhealthy one that explains it."""
    unhealthy = [finding.name for finding in findings if not finding.healthy]
    causes = {
        name: next((c for c in unhealthy if name in EXPLAINS.get(c, ())), "") for name in unhealthy
    }
    return [replace(f, follows=causes.get(f.name, "")) for f in findings]
