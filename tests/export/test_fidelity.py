"""The fidelity report, and the sources that it compares."""

import copy
import json

import pytest
import snntorch as snn
import torch
from torch import nn

from ipvae_snn import IPVAE, export, metrics
from ipvae_snn.export.sources import ModelSource
from tests.export import nir_reference
from tests.export.networks import poisson

nir = pytest.importorskip("nir", reason="the extra nir is not installed")


def test_the_model_agrees_with_itself_only_at_the_same_seed(model, x):
    model = copy.deepcopy(model)
    model.neuron.form = "published"  # which fires more
    result = export.report(model, model, x, num_steps=50, window=10, seed=3)
    original, other, itself = result.rows
    assert (itself.agreement, itself.same) == (pytest.approx(1), 1)
    assert (itself.r2, itself.zeros, itself.spikes) == (
        original.r2,
        original.zeros,
        original.spikes,
    )
    assert other.same < 0.99
    assert 0.3 < other.agreement < 0.999


def test_the_figures_of_a_graph_equal_those_of_the_reference(model, x):
    graph = export.to_nir(model)
    row = export.report(graph, model, x, num_steps=30, window=4).rows[-1]
    outputs, _ = nir_reference.run(graph, x.numpy(), 30)
    network = export.GraphNetwork(graph)
    spikes = torch.stack([spk for spk, _ in network.unroll(x, 30)])
    expected = torch.stack([metrics.r2(x, torch.from_numpy(out)) for out in outputs[-4:]]).mean()
    assert row.r2 == pytest.approx(float(expected), abs=1e-5)
    mean = torch.from_numpy(outputs[-4:].mean(0))
    assert row.r2_mean == pytest.approx(float(metrics.r2(x, mean)), abs=1e-5)
    assert row.zeros == pytest.approx(float((spikes[-4:] == 0).float().mean()))
    assert row.spikes == pytest.approx(float(spikes.sum() / len(x)))
    original = model.run(x, 30, record=("spk",), seed=0).spk.detach()
    assert row.same == pytest.approx(float((original == spikes).float().mean()), abs=0.02)
    pair = torch.stack([original[-4:].mean(0).flatten(), spikes[-4:].mean(0).flatten()])
    assert row.agreement == pytest.approx(float(torch.corrcoef(pair)[0, 1]), abs=0.02)


def test_the_model_source_yields_the_spikes_of_run(model, x):
    spikes = torch.stack(list(ModelSource(model, chunk=50).unroll(x, 50, seed=2)))
    assert torch.equal(spikes, model.run(x, 50, record=("spk",), seed=2).spk)
    assert torch.equal(
        torch.stack(list(ModelSource(model).unroll(x, 50, seed=2)))[:16], spikes[:16]
    )


def test_the_report_takes_files_and_says_what_was_approximated(model, x, tmp_path):
    export.write(tmp_path / "graph.nir", export.to_nir(model, "portable"))
    result = export.report(str(tmp_path / "graph.nir"), model, x, num_steps=20)
    text = str(result)
    assert "portable graph, subtract reset" in text
    assert "integrate-and-fire with subtract reset in place of e^u" in text
    assert "integrate-and-fire" not in result.table(notes=False)
    summary = json.loads(json.dumps(result.summary()))
    assert [row["label"] for row in summary["rows"]] == [row.label for row in result.rows]
    assert result.row("stochastic original").same == 1


def test_a_network_and_its_exact_graph_emit_the_same_spikes():
    torch.manual_seed(0)
    lif = {"init_hidden": True, "threshold": 0.3}
    network = nn.Sequential(
        nn.Linear(8, 12), snn.Leaky(0.8, **lif), nn.Linear(12, 5), snn.Synaptic(0.5, 0.8, **lif)
    )
    row = export.report(export.to_nir(network), network, torch.rand(6, 8), num_steps=40).rows[-1]
    assert row.same == pytest.approx(1, abs=0.002)
    assert row.agreement == pytest.approx(1, abs=1e-3)
    assert row.r2 is None
    assert row.spikes > 10


def test_large_counts_are_counted_and_runaways_named():
    model = IPVAE(in_features=16, latents=24, init_std=1e-4, clamp=16.0)
    with torch.no_grad():
        model.neuron.mem_init.fill_(11.0)
    x = torch.rand(4, 16)
    row = export.report([], model, x, 3).rows[0]
    expected = model.run(x, 3, record=("spk",), seed=0).spk.detach().sum((0, 2)).mean()
    assert row.spikes == pytest.approx(float(expected), rel=1e-3)
    assert row.spikes > 3 * 24 * 50_000
    runaway = nn.Sequential(nn.Linear(16, 24), snn.Leaky(1.0, threshold=1e-6, init_hidden=True))
    graph = export.to_nir(runaway, "portable")
    assert "ran away" in str(export.report(graph, runaway, 10 * x, 20))


def test_a_network_in_double_precision_takes_samples_in_single():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), poisson(8), nn.Linear(8, 2)).double()
    row = export.report(export.to_nir(network), network, torch.rand(3, 6), num_steps=5).rows[0]
    assert row.same == 1
