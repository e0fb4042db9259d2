"""``fit``: validates its arguments, trains a model in place, and restores its settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ipvae_snn._utils.checks import (
    require_device,
    require_fitting,
    require_integer,
)
from ipvae_snn._utils.files import exclusive_lock
from ipvae_snn.data.sources import InMemory, Samples, as_samples
from ipvae_snn.models.base import BaseModel, require_model
from ipvae_snn.models.local_rule import LocalRule
from ipvae_snn.training.checkpointer import Checkpointer, History
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.distributed import ProcessGroup
from ipvae_snn.training.health import require_finite_weights
from ipvae_snn.training.loop import Loop
from ipvae_snn.training.monitor import Monitor, Watch
from ipvae_snn.training.signals import deferred_signals


def fit(
    model: BaseModel,
    data: Tensor | Samples,
    config: TrainConfig | None = None,
    *,
    checkpoint: str | Path | None = None,
    workers: int = 0,
    validation: Tensor | Samples | None = None,
    watch: Watch | None = None,
) -> History:
    """Train ``model`` on ``data`` in place.

    If PyTorch's process group is initialized, as under ``torchrun``, each rank trains on its share
    of every batch, and all end with the same weights.

    Args:
        model: an :class:`IPVAE`, one of :mod:`ipvae_snn.baselines`, or another
            :class:`~ipvae_snn.models.BaseModel`. It is moved to ``config.device`` and left in
            ``eval()`` mode, with the clamp it had before; a relaxed estimator keeps its final
            temperature. Baselines have neither: their history has no ``clamp``.
        data: samples, shape (N, M), floating point; or :class:`~ipvae_snn.data.Samples`, which are
            read batch by batch.
        config: the recipe; default :class:`TrainConfig`.
        checkpoint: file for the state of the training. It is written at the start, every
            ``config.checkpoint_every`` iterations, at the end, and on SIGINT, SIGTERM and SIGHUP.
            If it exists, the training resumes from it, and ends on the CPU with the same weights,
            bit for bit, as one without interruption.
        workers: processes that read samples ahead; for Samples that are not in memory.
        validation: some samples that are not in ``data``, shape (N, M), held in memory. Their R² is
            measured in the first row of the history, in every fifth from there and in the last,
            and shown by the progress bar. The training is the same, bit for bit, without them.
        watch: called on rank 0 with the history so far, which it must not change, whenever a row
            was added; after a resume the rows from before are in it. What it raises ends the
            training. :class:`ipvae_snn.runs.LivePicture` draws it.

    Returns:
        History: a row for every ``config.log_every`` iterations and for the last, with
        ``iteration``, ``loss``, ``nll`` and ``kl`` (nats per sample and timestep), ``r2`` and
        ``zeros`` of the batch at the last timestep, ``grad_norm``, ``beta``, ``clamp``, ``lr`` and
        ``grad_clip``; where ``validation`` was measured, ``r2_val``, its R² from one draw of the
        spikes at the last of the trained timesteps. Equal seeds give equal weights on the CPU,
        whatever the random state before and whatever other threads draw; only models with parts
        from outside this package, which may draw from torch's generators, are disturbed by other
        threads that do.

    Raises:
        TypeError: data is not a floating-point tensor; watch cannot be called.
        ValueError: wrong shape, no samples, NaN (unless ``config.missing``) or infinity in data or
            weights; a checkpoint that
            is damaged, or of another model, recipe or data.
        FloatingPointError: loss, gradient or weights become NaN or infinite; the message names
            which, and the iteration. The model keeps the weights from before that iteration, and
            the checkpoint is unchanged.
        OSError: the checkpoint cannot be written, or another training uses it.
        ConnectionError: another rank was lost.
        Stopped: a signal was received and the checkpoint written; a subclass of KeyboardInterrupt.

    >>> config = TrainConfig(iterations=4, batch=8, steps=3, log_every=2, progress=False)
    >>> from ipvae_snn import IPVAE
    >>> [row["iteration"] for row in fit(IPVAE(16, 8), torch.rand(32, 16), config)]
    [2, 4]
    """
    config = TrainConfig() if config is None else config
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}")
    config = replace(config)  # checks again how its fields, which may have been set, fit together
    require_model(model)
    require_fitting(model.like, "model", like=model.like)
    if not torch.is_grad_enabled():
        raise ValueError(
            "gradients are switched off: call fit outside torch.no_grad() and inference_mode()"
        )
    if any(weight.is_inference() for weight in model.parameters()):
        raise ValueError(
            "the model was made in torch.inference_mode(), in which nothing can learn: make it, or "
            "a copy.deepcopy of it, outside"
        )
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(
            "no parameter of the model requires a gradient: call model.requires_grad_() first"
        )
    linear = getattr(model, "linear_gaussian", False)
    if config.missing and not getattr(model, "takes_mask", False):
        raise ValueError(
            "missing belongs to models whose run takes a mask, as of an IPVAE: fill in values "
            f"before a {type(model).__name__} learns from them"
        )
    if config.rule == "local" and not getattr(model, "learns_locally", False):
        raise ValueError(
            f"rule='local' is not one that a {type(model).__name__} learns by, as an IPVAE does: "
            "take rule='backprop'"
        )
    samples = _fitting_samples(model, data, "data", config.missing)
    x_val = None if validation is None else _read_all(model, validation, config.missing)
    if not (watch is None or callable(watch)):
        raise TypeError(f"watch must be a function of the history, got {type(watch).__name__}")
    require_integer(workers, "workers", least=0)
    require_finite_weights(model)
    device, group = require_device(config.device), ProcessGroup()
    path = None if checkpoint is None else Path(checkpoint)
    model.to(device)
    optimizer: torch.optim.Optimizer
    local = config.rule == "local"
    if local and linear:
        optimizer = LocalRule(model, samples.shape, config.lr)
    else:
        # A parameter that does not learn, as the step by the local rule, must not decay either.
        decay = 0.0 if local else config.weight_decay
        optimizer = torch.optim.Adamax(model.parameters(), lr=config.lr, weight_decay=decay)
    x_val = None if x_val is None else x_val.to(model.like)
    monitor = Monitor(model, config, group, x_val, watch)
    lock = exclusive_lock(path if group.is_main else None)
    with lock, deferred_signals(path is not None) as pending:
        checkpointer = Checkpointer(path, model, optimizer, config, samples, group)
        with model.seeded(config.seed), _training_mode(model, config) as final:
            loop = Loop(model, optimizer, samples, config, group, checkpointer, final, monitor)
            checkpointer.restore()
            loop.run(pending, workers)
    return checkpointer.history


def _fitting_samples(model: BaseModel, data: Tensor | Samples, name: str, missing: bool) -> Samples:
    samples = as_samples(data, name, missing=missing)
    if not model.takes_samples(samples.shape):
        raise ValueError(
            f"{name} must have shape {model.expected_samples()} with N ≥ 1, got "
            f"{(len(samples), *samples.shape)}"
        )
    return samples


def _read_all(model: BaseModel, validation: Tensor | Samples, missing: bool) -> Tensor:
    samples = _fitting_samples(model, validation, "validation", missing)
    return InMemory(samples.read(torch.arange(len(samples))), "validation", missing=missing).data


@contextmanager
def _training_mode(model: BaseModel, config: TrainConfig) -> Iterator[dict[str, float]]:
    """Set precision and ``train()`` mode; restore clamp and precision and set ``eval()`` after.

    Yields the settings that schedules change, with their final values.
    """
    final, precision = model.annealed(), model.precision
    model.precision = config.precision
    model.train()
    try:
        yield final
    finally:
        if "clamp" in final:
            model.anneal("clamp", final["clamp"])
        model.precision = precision
        model.eval()
