"""Calibration of the portable form: as good as the default, and close to the model."""

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, data, export, fit
from ipvae_snn.export import GraphSource
from tests.export import nir_reference

pytest.importorskip("nir", reason="the extra nir is not installed")


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_r2_is_no_worse_than_the_default_and_close_to_the_original(model, x, reset):
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
    outputs, _ = nir_reference.run(
        export.to_nir(model, "portable", portable=portable), x.numpy(), 48, "subtract"
    )
    last = torch.from_numpy(outputs[24:])
    factor = float((last * x).sum() / last.square().sum())
    assert factor == pytest.approx(1, abs=1e-3)


@pytest.fixture(scope="module")
def overlapping():
    """A model whose features overlap so much that low thresholds run away, and samples."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra data)")
    digits = data.load("digits")
    torch.manual_seed(0)
    model = IPVAE(64, 128)
    config = TrainConfig(iterations=200, lr=5e-3, beta=16.0, grad_clip=3000.0, progress=False)
    fit(model, digits.train, config)
    return model, digits.test[:60]


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_r2_is_no_worse_than_the_default_where_features_overlap(overlapping, reset):
    model, x = overlapping
    portable = export.calibrate(model, x[:30], reset)
    graphs = [export.to_nir(model, "portable", portable=portable)]
    graphs.append(export.to_nir(model, "portable", reset=reset))
    original, _, calibrated, default = export.report(graphs, model, x[30:], 128).rows
    assert calibrated.r2 > default.r2 - 0.02
    assert calibrated.r2 > 0.8 * original.r2
    assert original.r2 > 0.3


def test_the_default_thresholds_do_not_run_away_where_features_overlap(overlapping):
    model, x = overlapping
    row = export.report(export.to_nir(model, "portable"), model, x, 128).rows[-1]
    assert row.r2 > 0.5
    assert not any("ran away" in note for note in row.notes)


def test_r2_far_below_that_of_the_model_warns(overlapping, monkeypatch):
    monkeypatch.setattr("ipvae_snn.export.graphs.calibration.AIM", 10.0)
    model, x = overlapping
    with pytest.warns(UserWarning, match="the portable form reconstructs with R² .* at best"):
        export.calibrate(model, x, num_steps=8)
