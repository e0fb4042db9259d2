"""Quality of a spiking code. Pure functions; samples come first, pixels or neurons last.

Public functions check arguments and results. The ``*_of`` forms take leading axes, such as time in
(T, B, K), and check nothing: NaN, infinity and overflow pass through.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float, require_number
from ipvae_snn._utils.dtypes import wide

CONVERGENCE_WINDOW, CONVERGENCE_SLOPE, CONVERGENCE_PATIENCE = 60, 1e-5, 5
PROBE_ITERATIONS = 300


def r2_per_sample(x: Tensor, x_hat: Tensor) -> Tensor:
    """1 − SS_res / SS_tot of each sample, SS_tot about the sample's own pixel mean.

    A sample without variance counts 1 if it is reconstructed exactly and 0 otherwise
    (scikit-learn's convention for ``r2_score``).

    Args:
        x: shape (..., M).
        x_hat: reconstruction, same shape.

    Returns:
        Shape (...).

    >>> x = torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    >>> r2_per_sample(x, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    tensor([0.5000, 1.0000])
    """
    _require_pair(x, x_hat)
    return require_result(r2_of(x, x_hat), "x and x_hat")


def r2_of(x: Tensor, x_hat: Tensor) -> Tensor:
    """:func:`r2_per_sample` without checks; the shapes (..., M) may also broadcast."""
    return r2_from_error(squared_error_of(x, x_hat), variation_of(x))


class Variation(NamedTuple):
    """Of samples: the sum of squares about their mean, (...), and whether it is 0."""

    total: Tensor
    constant: Tensor


def variation_of(x: Tensor) -> Variation:
    """What the R² of samples (..., M) needs of the samples alone."""
    x = wide(x)
    total = (x - x.mean(-1, keepdim=True)).square().sum(-1)
    # Compared, since a rounded mean can leave the total of a constant sample slightly above 0.
    return Variation(total, x.amax(-1) == x.amin(-1))


def r2_from_error(error: Tensor, variation: Variation) -> Tensor:
    """R² of samples from the squared error of each."""
    score = 1 - error / variation.total.clamp(min=torch.finfo(error.dtype).tiny)
    return torch.where(variation.constant, (error == 0).to(score.dtype), score)


def r2(x: Tensor, x_hat: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over samples of :func:`r2_per_sample`; from spikes of one timestep, or from rates.

    Args:
        x, x_hat: as there.
        mask: of x's shape: only values where it is not 0 count, and samples that have any; the
            others may hold anything.

    >>> x = torch.tensor([[0.0, 2.0, float("nan")]])
    >>> r2(x, torch.tensor([[0.0, 1.0, 7.0]]), mask=~x.isnan())
    tensor(0.5000)
    """
    if mask is None:
        _require_pair(x, x_hat)
        return require_result(r2_of(x, x_hat).mean(), "x and x_hat")
    counted = mask != 0
    if counted.shape != x.shape or not bool(counted.any()):
        raise ValueError(
            f"mask must have the shape of x, {tuple(x.shape)}, and a value that is not 0, got "
            f"{tuple(mask.shape)}"
        )
    filled = torch.where(counted, x, x_hat)  # no error where nothing counts
    _require_pair(filled, x_hat)
    rows = counted.any(-1)
    x, x_hat, counted = wide(filled[rows]), x_hat[rows], counted[rows]
    mean = torch.where(counted, x, 0).sum(-1, keepdim=True) / counted.sum(-1, keepdim=True)
    total = torch.where(counted, x - mean, 0).square().sum(-1)
    highest = x.masked_fill(~counted, -math.inf).amax(-1)
    constant = highest == x.masked_fill(~counted, math.inf).amin(-1)
    score = r2_from_error(squared_error_of(x, x_hat), Variation(total, constant))
    return require_result(score.mean(), "x and x_hat")


def mse(x: Tensor, x_hat: Tensor) -> Tensor:
    """Squared error, summed over pixels, mean over samples.

    >>> mse(torch.zeros(4, 3), torch.ones(4, 3))
    tensor(3.)
    """
    _require_pair(x, x_hat)
    return require_result(squared_error_of(x, x_hat).mean(), "x and x_hat")


def squared_error_of(x: Tensor, x_hat: Tensor) -> Tensor:
    """Squared error of each sample without checks; the shapes (..., M) may also broadcast."""
    return (wide(x) - wide(x_hat)).square().sum(-1)


def mse_per_dim(x: Tensor, x_hat: Tensor) -> Tensor:
    """1000 · MSE / M, the unit of the paper's tables."""
    return 1000 * mse(x, x_hat) / x.shape[-1]


def zeros(spk: Tensor) -> Tensor:
    """Portion of zeros among all counts.

    >>> zeros(torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
    tensor(0.7500)
    """
    require_float(spk, "spk")
    if not spk.numel():
        raise ValueError(f"spk must not be empty, got shape {tuple(spk.shape)}")
    require_finite(spk, "spk")
    return (spk == 0).float().mean()


def zeros_of(spk: Tensor) -> Tensor:
    """:func:`zeros` without checks, over the last two axes: (..., N, K) to (...)."""
    # PyTorch sums bool into int32 eight times faster than into int64, its default.
    silent = (spk == 0).sum(-1, dtype=torch.int32).sum(-1)
    return silent / (spk.shape[-2] * spk.shape[-1])


def treves_rolls(total: Tensor, total_square: Tensor, count: int) -> Tensor:
    """Sparsity from sums: [1 − (Σz)² / (n Σz²)] / (1 − 1/n), 1 where all z are zero.

    Args:
        total: Σz, any shape.
        total_square: Σz², same shape.
        count: n ≥ 2, the number of terms.

    Raises:
        ValueError: n < 2.
    """
    if count < 2:
        raise ValueError(f"sparsity needs at least 2 responses, got {count}")
    tiny = torch.finfo(total.dtype).tiny
    sparsity = (1 - total.square() / (count * total_square).clamp(min=tiny)) / (1 - 1 / count)
    return torch.where(total_square > 0, sparsity, torch.ones_like(sparsity))


def lifetime_sparsity(spk: Tensor) -> Tensor:
    """How few of the samples a neuron responds to, mean over neurons; a silent neuron counts 1.

    Source: Vinje & Gallant 2000, after Treves & Rolls 1991.

    Args:
        spk: shape (N, K), N ≥ 2 samples.

    >>> lifetime_sparsity(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    tensor(0.5000)
    """
    require_matrix(spk, "spk")
    return require_result(sparsity_of(spk, dim=-2).mean(), "spk")


def population_sparsity(spk: Tensor) -> Tensor:
    """How few of the neurons respond to a sample, mean over samples; a silent sample counts 1.

    Args:
        spk: shape (N, K), K ≥ 2 neurons.
    """
    require_matrix(spk, "spk")
    return require_result(sparsity_of(spk, dim=-1).mean(), "spk")


def sparsity_of(spk: Tensor, dim: int) -> Tensor:
    """Sparsity along ``dim`` without checks: −1 over neurons, −2 over samples, 2 or more of them.

    Args:
        spk: shape (..., N, K).

    Returns:
        The shape of ``spk`` without ``dim``.
    """
    spk = wide(spk)
    return treves_rolls(spk.sum(dim), spk.square().sum(dim), spk.shape[dim])


def rate_distortion_distance(r2: float, zeros: float) -> float:
    """Distance from the ideal of a perfect code without spikes, √((1−R²)² + (1−zeros)²).

    >>> rate_distortion_distance(r2=0.7, zeros=0.6)
    0.5
    """
    r2, zeros = _number(r2, "r2"), _number(zeros, "zeros")
    return require_number(math.hypot(1 - r2, 1 - zeros), "the distance of r2 and zeros")


def _number(value: float | Tensor, name: str) -> float:
    """A number, also from a floating-point tensor with one element."""
    scalar = isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()
    return require_number(value.item() if scalar else value, name)  # type: ignore[union-attr]


def convergence_step(r2_by_step: Sequence[float]) -> int | None:
    """First timestep from which R² stays flat; ``None`` if it never does.

    Flat: the least-squares slope of R² over the trailing 60 timesteps, divided by 60, is below 1e-5
    in magnitude, at 5 timesteps in a row; the first of the five is returned, counted from 1. The
    division is part of the published definition.

    Args:
        r2_by_step: R² at timesteps 1, 2, 3, ...

    >>> convergence_step([0.5] * 100)
    60
    >>> convergence_step([0.01 * t for t in range(100)]) is None
    True
    """
    try:
        values = torch.as_tensor(r2_by_step).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"r2_by_step must hold numbers: {error}") from error
    if values.ndim != 1 or values.is_complex():
        raise ValueError(
            f"r2_by_step must hold real numbers, shape (T,), got {values.dtype} of shape "
            f"{tuple(values.shape)}"
        )
    values = values.double()
    require_finite(values, "r2_by_step")
    window = CONVERGENCE_WINDOW
    if len(values) < window:
        return None
    time = torch.arange(window, dtype=torch.float64)
    time -= time.mean()
    slopes = (values.unfold(0, window, 1) @ time) / time.square().sum()
    in_a_row = 0
    for index, flat in enumerate((slopes.abs() / window < CONVERGENCE_SLOPE).tolist()):
        in_a_row = in_a_row + 1 if flat else 0
        if in_a_row == CONVERGENCE_PATIENCE:
            return window + index - (CONVERGENCE_PATIENCE - 1)
    return None


def probe_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    strengths: Sequence[float] | None = None,
) -> float:
    """Accuracy of a linear read-out: scikit-learn's LogisticRegression.

    With its defaults, as in the paper, which fits it to the rates e^u of all training images; or
    with features of mean 0 and variance 1 over the training samples, and with that one of
    ``strengths`` which is best on every tenth training sample when fitted to the others. Square
    roots of rates, whose noise is alike for all neurons, usually serve better than rates. Needs the
    extra ``data``.

    Args:
        train, test: features, shapes (N, K) and (N', K).
        train_labels, test_labels: integers, shapes (N,) and (N',).
        strengths: inverse strengths C of the L2 penalty to choose from, more than 0.

    Raises:
        TypeError, ValueError: other shapes or types, NaN, or fewer than two different labels.

    >>> labels = torch.arange(60) % 3
    >>> rates = torch.eye(3)[labels] + 0.1
    >>> probe_accuracy(rates.sqrt(), labels, rates.sqrt(), labels, strengths=(0.01, 0.1))
    1.0
    """
    from ipvae_snn._utils.extras import require_extra

    for name, features, labels in (("train", train, train_labels), ("test", test, test_labels)):
        require_matrix(features, name)
        integers = isinstance(labels, Tensor) and not (
            labels.is_floating_point() or labels.is_complex()
        )
        if not integers or labels.shape != features.shape[:1]:
            raise ValueError(f"{name}_labels must hold {len(features)} integers, got {labels!r}")
    if train.shape[1] != test.shape[1] or bool((train_labels == train_labels[0]).all()):
        raise ValueError(
            f"train and test must have as many features, got {train.shape[1]} and "
            f"{test.shape[1]}, and train_labels at least two different labels"
        )
    linear_model = require_extra("sklearn.linear_model", extra="data")
    x, y, x_test, y_test = (
        values.numpy(force=True) for values in (train, train_labels, test, test_labels)
    )
    if strengths is None:
        return float(linear_model.LogisticRegression().fit(x, y).score(x_test, y_test))
    for strength in strengths:
        require_number(strength, "a strength", least=1e-9)
    if not strengths or len(x) < 10:
        raise ValueError(
            f"expected at least one strength and 10 training samples to choose with, got "
            f"{len(strengths)} and {len(x)}"
        )
    pipeline = require_extra("sklearn.pipeline", extra="data")
    scaling = require_extra("sklearn.preprocessing", extra="data")
    selection = require_extra("sklearn.model_selection", extra="data")
    probe = linear_model.LogisticRegression(max_iter=PROBE_ITERATIONS)
    search = selection.GridSearchCV(
        pipeline.make_pipeline(scaling.StandardScaler(), probe),
        {"logisticregression__C": list(strengths)},
        cv=selection.PredefinedSplit([0 if row % 10 == 9 else -1 for row in range(len(x))]),
        error_score="raise",
    )
    return float(search.fit(x, y).score(x_test, y_test))


# -- checks that the metrics share ------------------------------------------------------------


def require_matrix(values: Tensor, name: str, rows: str = "N") -> None:
    """Raise unless ``values`` is a floating-point, finite, non-empty tensor (rows, K)."""
    require_float(values, name)
    if values.ndim != 2 or not values.numel():
        raise ValueError(
            f"{name} must have shape ({rows}, K) and not be empty, got {tuple(values.shape)}"
        )
    require_finite(values, name)


def require_result(result: Tensor, source: str) -> Tensor:
    """The result if it is finite; ``ValueError`` if squares of its ``source`` overflow."""
    require_finite(result, f"the result, made of {source} whose squares are too large,")
    return result


def _require_pair(x: Tensor, x_hat: Tensor) -> None:
    require_float(x, "x")
    require_float(x_hat, "x_hat")
    if x.shape != x_hat.shape or x.ndim < 1 or not x.numel():
        raise ValueError(
            f"x and x_hat must have the same shape (..., M) and not be empty, got "
            f"{tuple(x.shape)} and {tuple(x_hat.shape)}"
        )
    require_finite(x, "x")
    require_finite(x_hat, "x_hat")
