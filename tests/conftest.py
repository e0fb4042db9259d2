import os
import signal
from pathlib import Path

import matplotlib
import pytest
import torch

from ipvae_snn.kernels import native

matplotlib.use("Agg")

# The problems here are tiny: a second thread gains nothing, and loses much on a busy machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start


@pytest.fixture(autouse=True)
def _same_start():
    torch.manual_seed(0)
    # Where tests run in several processes, those ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with mnist.npz and natural_images.npz, where the machine has one."""
    folder = os.environ.get("IPVAE_SNN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("IPVAE_SNN_DATA names no folder of real data sets")
    return Path(folder)


@pytest.fixture
def plain_kernels(monkeypatch):
    """PyTorch's own operations only, as on a machine without a compiler."""
    monkeypatch.setattr(native, "available", lambda: False)
