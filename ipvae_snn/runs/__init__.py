"""Runs: training, evaluation and tuning of a model, with all files in one folder."""

from ipvae_snn.runs.figures import LivePicture
from ipvae_snn.runs.folder import (
    TRAIN_PATCHES,
    VALIDATION,
    RunConfig,
    free_folder,
    is_complete,
    open_run,
    read_config,
    require_same_kind,
)
from ipvae_snn.runs.measure import evaluate_run, pick, read, table
from ipvae_snn.runs.origin import recorded_data
from ipvae_snn.runs.train import resume_run, train_run
from ipvae_snn.runs.tune import tune_run

__all__ = [
    "TRAIN_PATCHES",
    "VALIDATION",
    "LivePicture",
    "RunConfig",
    "evaluate_run",
    "free_folder",
    "is_complete",
    "open_run",
    "pick",
    "read",
    "read_config",
    "recorded_data",
    "require_same_kind",
    "resume_run",
    "table",
    "train_run",
    "tune_run",
]
