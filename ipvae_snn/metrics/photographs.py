"""Quality of reconstructed photographs in pixels, and the size of their codes in bits."""

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float, require_integer
from ipvae_snn._utils.extras import require_extra
from ipvae_snn.metrics.quality import require_result


def psnr(image: Tensor, reconstruction: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, of pixels in [0, 1]; the reconstruction is clipped to it.

    Args:
        image: (C, H, W).
        reconstruction: the same shape.

    Raises:
        ImportError: the extra ``data`` is not installed: it is that of scikit-image.

    >>> round(psnr(torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.1)), 3)
    20.0
    """
    pair = _pair(image, reconstruction)
    library = require_extra("skimage.metrics", "data")
    if torch.equal(*pair):
        return float("inf")
    return float(library.peak_signal_noise_ratio(*(v.numpy() for v in pair), data_range=1))


def ssim(image: Tensor, reconstruction: Tensor) -> float:
    """Structural similarity of pixels in [0, 1], scikit-image's: at most 1, that of equal images.

    Args:
        image: (C, H, W), at least 7×7.
        reconstruction: the same shape; clipped to [0, 1].

    Raises:
        ImportError: the extra ``data`` is not installed: it is that of scikit-image.

    Source: Wang et al. 2004.

    >>> image = torch.rand(1, 16, 16)
    >>> round(ssim(image, image), 3)
    1.0
    """
    pair = _pair(image, reconstruction)
    if min(image.shape[1:]) < 7:
        raise ValueError(f"image must have at least 7×7 pixels, got {tuple(image.shape[1:])}")
    library = require_extra("skimage.metrics", "data")
    arrays = (v.numpy() for v in pair)
    return float(library.structural_similarity(*arrays, channel_axis=0, data_range=1))


def _pair(image: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
    for name, values in (("image", image), ("reconstruction", reconstruction)):
        require_float(values, name)
        if values.ndim != 3 or values.shape != image.shape or not values.numel():
            raise ValueError(
                f"image and reconstruction must have one shape (C, H, W), got "
                f"{tuple(image.shape)} and {tuple(reconstruction.shape)}"
            )
        require_finite(values, name)
    kept, other = (v.detach().cpu().float() for v in (image, reconstruction))
    return kept, other.clamp(0, 1)


def entropy(spk: Tensor, dim: int = -1) -> Tensor:
    r"""Empirical entropy of counts in bits, as if each neuron's were independent draws.

    .. math:: Σ_k n \, H(p_k), \quad H(p) = −Σ_z p(z) \log_2 p(z)

    with p_k the histogram of the n counts of feature k, over all other dimensions. An entropy coder
    with one table for each feature comes near it; the tables themselves are not counted.

    Args:
        spk: counts ≥ 0, such as (K, h, w) with ``dim=0``.
        dim: the dimension of features.

    Returns:
        A scalar: bits of all counts together.

    >>> entropy(torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]), dim=0)
    tensor(4., dtype=torch.float64)
    """
    require_float(spk, "spk")
    if not spk.numel() or not -spk.ndim <= require_integer(dim, "dim", least=-spk.ndim) < spk.ndim:
        raise ValueError(f"spk must have a dimension {dim}, got shape {tuple(spk.shape)}")
    require_finite(spk, "spk")
    if bool((spk < 0).any()) or not torch.equal(spk, spk.round()):
        raise ValueError("spk must hold counts: integers of at least 0")
    rows = spk.detach().movedim(dim, 0).flatten(1).sort().values
    changes = torch.ones_like(rows, dtype=torch.bool)
    changes[:, 1:] = rows[:, 1:] != rows[:, :-1]
    starts = changes.flatten().nonzero().squeeze(1)
    ends = torch.cat([starts[1:], starts.new_tensor([rows.numel()])])
    lengths = (ends - starts).double()
    return require_result((lengths * (rows.shape[1] / lengths).log2()).sum(), "spk")
