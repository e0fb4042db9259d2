"""Graphs in norse and sinabs: convolutions, missing packages, nodes that they do not import."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from ipvae_snn import IPVAE, export
from tests.export import nir_reference
from tests.export.networks import STEPS, convolutional, leaky, outputs, poisson

pytest.importorskip("nir", reason="the extra nir is not installed")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return IPVAE(in_features=16, latents=8, init_std=0.4).eval()


def test_norse_runs_convolutions_with_pooling_as_snntorch_does():
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    torch.manual_seed(0)
    network = convolutional(lambda: leaky(reset_mechanism="zero", threshold=0.2))
    x = torch.rand(3, 2, 4, 4)
    graph = export.to_nir(network, "portable", reset="zero", input_shape=(2, 4, 4))
    with torch.no_grad():
        expected = torch.stack([network(x) for _ in range(STEPS)])
    found = torch.stack([out for _, out in export.in_norse(graph).steps(x, STEPS)])
    assert expected.sum() > 0
    assert torch.equal(found, expected)


def test_sinabs_runs_convolutions_with_pooling():
    pytest.importorskip("sinabs", reason="sinabs is not installed (extra toolchains)")
    torch.manual_seed(0)
    network, x = convolutional(lambda: leaky(1.0)), torch.rand(3, 2, 4, 4)
    graph = export.to_nir(network, "portable", input_shape=(2, 4, 4))
    found = torch.stack([out for _, out in export.in_sinabs(graph).steps(x, STEPS)])
    assert found.sum() > 0
    torch.testing.assert_close(found, outputs(export.GraphNetwork(graph, "subtract"), x))


def test_a_network_that_ends_in_poisson_neurons_runs_in_norse():
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    torch.manual_seed(0)
    graph = export.to_nir(nn.Sequential(nn.Linear(6, 8), poisson(8)), "portable", reset="zero")
    x = 3 * torch.rand(4, 6)
    found = torch.stack([out for _, out in export.in_norse(graph).steps(x, STEPS)])
    expected, _ = nir_reference.run(graph, x.numpy(), STEPS)
    assert found.sum() > 0
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_missing_norse_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "norse.torch", None)
    with pytest.raises(ImportError, match=r"norse.*ipvae-snn\[toolchains\]"):
        export.in_norse(export.to_nir(model, "portable"))


def test_missing_sinabs_says_how_it_is_installed(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "sinabs.nir", None)
    graph = export.to_nir(model, "portable")
    with pytest.raises(ImportError, match=r"pip install --no-deps sinabs"):
        export.in_sinabs(graph)


def test_a_node_that_a_toolchain_does_not_import_is_named(model):
    pytest.importorskip("sinabs", reason="sinabs is not installed (extra toolchains)")
    with pytest.raises(
        ValueError, match=r"sinabs does not import l01_2_mem \(I\).*form='portable'"
    ):
        export.in_sinabs(export.to_nir(model))


def test_toolchains_leave_the_random_state_alone(model):
    pytest.importorskip("norse", reason="norse is not installed (extra toolchains)")
    x, graph = torch.rand(4, 16), export.to_nir(model, "portable")
    before = torch.random.get_rng_state()
    export.report(export.in_norse(graph), model, x, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
