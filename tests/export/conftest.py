"""A model with active neurons, and samples that it can reconstruct."""

import pytest
import torch

from ipvae_snn import IPVAE


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = IPVAE(in_features=16, latents=24, init_std=0.4, step=0.3)
    with torch.no_grad():
        model.neuron.mem_init.uniform_(-1, 0)
    return model.eval()


@pytest.fixture(scope="module")
def x(model):
    """Sums of few features: what the model can reconstruct."""
    generator = torch.Generator().manual_seed(1)
    code = torch.poisson(torch.full((30, 24), 0.15), generator=generator)
    return model.decode(code).detach()
