import os
import signal
from pathlib import Path

import matplotlib
import pytest
import torch

from ipvae_snn.kernels import native

matplotlib.use("Agg")

# The problems of the tests are tiny: more threads only cost time, most of all on a busy machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for processes started by tests


@pytest.fixture(autouse=True)
def _seed_and_sigint():
    torch.manual_seed(0)
    # Worker processes of pytest-xdist ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of mnist.npz and natural_images.npz, where IPVAE_SNN_DATA names one."""
    folder = os.environ.get("IPVAE_SNN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("IPVAE_SNN_DATA names no folder of data sets")
    return Path(folder)


@pytest.fixture
def plain_kernels(monkeypatch):
    """PyTorch operations only, as on a machine without a compiler."""
    monkeypatch.setattr(native, "available", lambda: False)
