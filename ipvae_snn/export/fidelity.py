"""The fidelity report: a model and what was exported from it, run on the same data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipvae_snn import metrics
from ipvae_snn._utils.checks import require_finite, require_float, require_integer, require_seed
from ipvae_snn._utils.progress import progress_bar
from ipvae_snn.export.graphs.network import RUNAWAY
from ipvae_snn.export.sources import Source, as_source


@dataclass(frozen=True)
class FidelityRow:
    """One form of the model; figures are over the last ``window`` timesteps unless noted.

    Attributes:
        label: short name of the form.
        r2: R² from the spikes of single timesteps, mean over the window; ``None`` without a
            decoder.
        r2_mean: R² from the mean counts of the window; ``None`` without a decoder.
        zeros: fraction of counts that are 0.
        spikes: per sample, over all timesteps.
        agreement: correlation of the window's mean counts with the original's, over samples and
            neurons.
        same: fraction of counts that equal the original's, over all timesteps.
        notes: what was approximated.
    """

    label: str
    r2: float | None
    r2_mean: float | None
    zeros: float
    spikes: float
    agreement: float
    same: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Fidelity:
    """Rows of the table: the original, the original with another seed, then the exported forms."""

    rows: tuple[FidelityRow, ...]
    num_steps: int
    window: int
    samples: int

    def row(self, label: str) -> FidelityRow:
        """The first row of that label; ``KeyError`` if there is none."""
        for row in self.rows:
            if row.label == label:
                return row
        raise KeyError(f"no row {label!r}: there are {[row.label for row in self.rows]}")

    def table(self, notes: bool = True) -> str:
        """As text; ``notes`` lists below what was approximated."""
        width = max(len(row.label) for row in self.rows) + 2
        heads = ("R²", "R² mean", "zeros", "spikes", "agree", "same")
        lines = [
            f"{self.samples} samples, {self.num_steps} timesteps, window {self.window}",
            " " * width + "".join(f"{head:>9}" for head in heads),
        ]
        for row in self.rows:
            r2 = "".join(f"{'–' if v is None else f'{v:.3f}':>9}" for v in (row.r2, row.r2_mean))
            rest = f"{row.zeros:>9.1%}{row.spikes:>9,.0f}{row.agreement:>9.3f}{row.same:>9.1%}"
            lines.append(f"{row.label:<{width}}{r2}{rest}")
        if notes:
            labels_of: dict[str, list[str]] = {}
            for row in self.rows:
                for note in row.notes:
                    labels_of.setdefault(note, []).append(row.label)
            for note, labels in labels_of.items():
                forms = "; ".join(labels) if len(labels) <= 2 else f"{len(labels)} forms"
                lines.append(f"- {note} [{forms}]")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def summary(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {
            "samples": self.samples,
            "steps": self.num_steps,
            "window": self.window,
            "rows": [asdict(row) for row in self.rows],
        }


def report(
    exported: Any,
    model: Any,
    data: Tensor,
    num_steps: int = 256,
    *,
    window: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> Fidelity:
    """Run a model and what was exported from it on the same data, and compare.

    Args:
        exported: a NIR graph or its file, what ``to_fixed_point``, ``to_xylo``, ``in_norse``,
            ``in_sinabs`` or ``in_xylosim`` returned, or a sequence of these. A graph in seconds is
            given as a :class:`~ipvae_snn.export.GraphSource` with its ``dt``.
        model: the :class:`~ipvae_snn.IPVAE`, or the network, that was exported.
        data: samples (N, M), or images (N, C, H, W), shown at every timestep.
        num_steps: T.
        window: number of timesteps at the end that the figures are taken over.
        seed: of stochastic forms. The original also runs with another seed, to show how much two
            draws agree; forms without noise can agree more.
        progress: show a progress bar.

    Raises:
        TypeError: something in ``exported`` that cannot be compared.
        ValueError: bad data, or a form that has another number of neurons than the model.

    >>> from ipvae_snn import IPVAE, export
    >>> model = IPVAE(in_features=16, latents=8, init_std=0.5)
    >>> result = export.report(export.to_nir(model), model, torch.rand(5, 16), num_steps=20)
    >>> [row.label for row in result.rows]
    ['stochastic original', 'the same, other draws', 'exact graph']
    """
    require_float(data, "data")
    if data.ndim < 2 or len(data) < 2:
        raise ValueError(f"data must hold at least 2 samples (N, M), got {tuple(data.shape)}")
    require_finite(data, "data")
    num_steps, seed = require_integer(num_steps, "num_steps"), require_seed(seed)
    window = min(require_integer(window, "window"), num_steps)
    items = (
        exported if isinstance(exported, Sequence) and not isinstance(exported, str) else [exported]
    )
    original = as_source(model)
    sources = [as_source(item) for item in items]
    runs = [(original, seed, original.label), (original, seed ^ 1, "the same, other draws")]
    runs += [(source, seed, source.label) for source in sources]
    reference: Tensor | None = None
    rows = []
    with progress_bar(len(runs) * num_steps, "comparing", shown=progress) as bar:
        for source, run_seed, label in runs:
            counts = _run(source, data, num_steps, run_seed, bar)
            reference = counts if reference is None else reference
            rows.append(_row(source, label, data, counts, reference, window))
    return Fidelity(tuple(rows), num_steps, window, len(data))


def _run(source: Source, x: Tensor, num_steps: int, seed: int, bar: Any) -> Tensor:
    """Counts of all timesteps, (T, B, K)."""
    counts = []
    for spk in source.unroll(x, num_steps, seed):
        counts.append(spk.detach().cpu().float())
        bar.update()
    return torch.stack(counts)


def _row(
    source: Source, label: str, x: Tensor, counts: Tensor, reference: Tensor, window: int
) -> FidelityRow:
    if counts.shape != reference.shape:
        raise ValueError(
            f"{label} has spikes of shape {tuple(counts.shape)} (T, B, K), the original "
            f"{tuple(reference.shape)}: they are not of the same model"
        )
    x = x.detach().cpu().float().flatten(1)
    last = counts[-window:]
    reconstructions = [source.decode(spk) for spk in last]
    scores = [float(metrics.r2(x, x_hat)) for x_hat in reconstructions if x_hat is not None]
    mean, mean_reference = last.mean(0), reference[-window:].mean(0)
    decoded = source.decode(mean)
    return FidelityRow(
        label=label,
        r2=float(np.mean(scores)) if scores else None,
        r2_mean=None if decoded is None else float(metrics.r2(x, decoded)),
        zeros=float((last == 0).float().mean()),
        spikes=float(counts.sum((0, 2), dtype=torch.float64).mean()),
        agreement=_correlation(mean, mean_reference),
        same=float((counts == reference).float().mean()),
        notes=(*source.notes, *_runaway(counts)),
    )


def _runaway(counts: Tensor) -> tuple[str, ...]:
    top = float(counts.max())
    if top < RUNAWAY:
        return ()
    return (f"spikes ran away: one neuron emits up to {top:.3g} in a timestep",)


def _correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation; of constants, 1 if they are equal, else 0."""
    a, b = a.double().flatten(), b.double().flatten()
    a, b = a - a.mean(), b - b.mean()
    norm = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / norm if norm > 0 else float(bool((a == b).all()))
