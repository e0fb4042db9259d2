"""The fidelity report, the calibration, and the sources they compare."""

import json

import pytest
import snntorch as snn
import torch
from torch import nn

from ipvae_snn import IPVAE, export, metrics
from ipvae_snn.export.sources import GraphSource, ModelSource
from tests.export import nir_reading

nir = pytest.importorskip("nir", reason="the extra nir is not installed")


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


def test_the_model_agrees_with_itself_at_the_same_seed_alone(model, x):
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


def test_the_figures_of_a_graph_are_those_computed_by_hand(model, x):
    graph = export.to_nir(model)
    row = export.report(graph, model, x, num_steps=30, window=4).rows[-1]
    outputs, _ = nir_reading.run(graph, x.numpy(), 30)
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


def test_the_model_source_is_the_run_of_the_model(model, x):
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


def test_a_network_and_its_exact_graph_spike_alike():
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


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_calibration_reconstructs_no_worse_than_the_default_and_close_to_the_original(
    model, x, reset
):
    held_out = x[15:]
    portable = export.calibrate(model, x[:15], reset, num_steps=48)
    graphs = [
        GraphSource(export.to_nir(model, "portable", portable=portable), label="calibrated"),
        GraphSource(export.to_nir(model, "portable", reset=reset), label="default"),
    ]
    result = export.report(graphs, model, held_out, num_steps=48, window=8)
    calibrated, default = result.row("calibrated").r2, result.row("default").r2
    assert calibrated > default - 0.01
    assert calibrated > 0.8 * result.rows[0].r2
    assert portable.reset == reset


def test_the_decoder_of_a_calibrated_graph_is_the_least_squares_one(model, x):
    portable = export.calibrate(model, x, num_steps=48)
    outputs, _ = nir_reading.run(
        export.to_nir(model, "portable", portable=portable), x.numpy(), 48, "subtract"
    )
    last = torch.from_numpy(outputs[24:])
    factor = float((last * x).sum() / last.square().sum())
    assert factor == pytest.approx(1, abs=1e-3)
