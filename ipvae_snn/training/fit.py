"""Training a model in place: what is checked before, and what is put back after."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_device, require_integer
from ipvae_snn._utils.files import exclusive_lock
from ipvae_snn.data.sources import Samples, as_samples
from ipvae_snn.models.base import BaseModel, require_model
from ipvae_snn.training.checkpointer import Checkpointer, History
from ipvae_snn.training.config import TrainConfig
from ipvae_snn.training.distributed import ProcessGroup
from ipvae_snn.training.health import require_sound_weights
from ipvae_snn.training.loop import Loop
from ipvae_snn.training.signals import deferred_signals


def fit(
    model: BaseModel,
    data: Tensor | Samples,
    config: TrainConfig | None = None,
    *,
    checkpoint: str | Path | None = None,
    workers: int = 0,
) -> History:
    """Train ``model`` on ``data`` in place.

    In processes that ``torchrun`` started (and that joined a process group), each takes its share
    of every batch, and all end with the same weights.

    Args:
        model: an :class:`IPVAE`, one of :mod:`ipvae_snn.baselines`, or another
            :class:`~ipvae_snn.models.BaseModel`; moved to ``config.device``, and left in ``eval()``
            mode. An IPVAE has its final clamp again, and a relaxed estimator
            keeps the temperature it ended with. Baselines have neither: their history has no
            ``clamp``.
        data: samples, shape (N, M), floating point; or :class:`~ipvae_snn.data.Samples` that
            are read batch by batch.
        config: the recipe; default :class:`TrainConfig`.
        checkpoint: file to keep the state of the training in: written at the start, every
            ``config.checkpoint_every`` iterations, at the end, and when SIGINT, SIGTERM or SIGHUP
            ask to stop. If there is one, the training goes on from it, and on the CPU ends with the
            very weights of one that was never interrupted.
        workers: processes that read samples ahead; for Samples that are not in memory.

    Returns:
        History: a row per ``config.log_every`` iterations and one for the last, with ``iteration``,
        ``loss``, ``nll`` and ``kl`` (nats per sample and timestep), ``r2`` and ``zeros`` of the
        batch at the last timestep, ``beta``, ``clamp``, ``lr`` and ``grad_norm``. Equal seeds
        give equal weights on the CPU, whatever was drawn before, as long as no other thread draws
        from torch's generator meanwhile.

    Raises:
        TypeError: data is no floating tensor.
        ValueError: wrong shape, fewer samples than one, NaN or infinity in data or weights; a
            checkpoint that is damaged, or of another model, recipe or data.
        FloatingPointError: loss, gradient or weights stop being finite; says which, and where. The
            model keeps the weights it had before that iteration, the checkpoint stays as it is.
        OSError: the checkpoint cannot be written, or another training uses it.
        ConnectionError: another process of this training ended.
        Stopped: a signal asked to, and the checkpoint is written. A kind of KeyboardInterrupt.

    >>> config = TrainConfig(iterations=4, batch=8, steps=3, log_every=2, progress=False)
    >>> from ipvae_snn import IPVAE
    >>> [row["iteration"] for row in fit(IPVAE(16, 8), torch.rand(32, 16), config)]
    [2, 4]
    """
    config = TrainConfig() if config is None else config
    if not isinstance(config, TrainConfig):
        raise TypeError(f"config must be a TrainConfig, got {type(config).__name__}")
    require_model(model)
    samples = as_samples(data)
    if samples.features != model.in_features:
        raise ValueError(
            f"data must have shape (N, {model.in_features}) with N ≥ 1, got "
            f"({len(samples)}, {samples.features})"
        )
    require_integer(workers, "workers", least=0)
    require_sound_weights(model)
    device, world = require_device(config.device), ProcessGroup()
    path = None if checkpoint is None else Path(checkpoint)
    optimizer = torch.optim.Adamax(
        model.to(device).parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    with exclusive_lock(path if world.leads else None), deferred_signals(path is not None) as asked:
        keeper = Checkpointer(path, model, optimizer, config, samples, world)
        with model.seeded(config.seed), _in_training(model, config) as final:
            loop = Loop(model, optimizer, samples, config, world, keeper, final)
            keeper.restore()
            loop.run(asked, workers)
    return keeper.history


@contextmanager
def _in_training(model: BaseModel, config: TrainConfig) -> Iterator[dict[str, float]]:
    """The settings that schedules move, with the values they end at.

    After the block the model has its own clamp and precision again, and is in eval mode.
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
