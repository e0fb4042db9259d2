"""The benchmark measures what it says; how fast anything is, is not tested."""

import json
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch

from ipvae_snn import bench
from ipvae_snn.bench import cases, timing
from ipvae_snn.bench.cases import Shape
from ipvae_snn.cli import main

TINY = Shape(10, 64, 8, 6)
CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench, "PATCHES", TINY)
    monkeypatch.setattr(bench, "MNIST", replace(TINY, in_features=20))
    monkeypatch.setattr(bench, "SMALL", TINY)
    monkeypatch.setattr(bench, "HELD_OUT", TINY)
    monkeypatch.setattr(bench, "_events", lambda quick: [(64, 0.05), (64, 0.2)])
    monkeypatch.setattr(
        cases, "sweeps", lambda quick: iter([(n, [TINY, TINY]) for n in bench.report.AXES])
    )


def test_bench_prints_and_saves(tiny, tmp_path, capsys):
    out = tmp_path / "b"
    assert main(["bench", "--quick", "--quiet", "--threads", "1", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "training step" in text
    assert "1 threads" in text
    assert sorted(p.name for p in out.iterdir()) == ["bench.json", "bench.png"]
    result = json.loads((out / "bench.json").read_text())
    assert result["machine"]["torch"] == torch.__version__
    assert len(result["training"]) == 3
    assert len(result["streaming"]) == 2
    assert {*result["models"]} == {"MLP, Bernoulli", "two layers", "convolutional"}
    assert all(name in text for name in [*result["models"], "push of a frame", "evaluate"])
    assert {row["varied"] for row in result["training_sweeps"]} == set(bench.report.AXES)
    for row in result["training"]:
        assert row["to_floor"] == pytest.approx(row["ours"] / row["floor"])
    assert main(["bench", "--quick", "--out", str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["bench", "--threads", "0", "--out", str(tmp_path / "c")]) == 1


def test_gradient_error_of_bfloat16_products(tiny, monkeypatch):
    monkeypatch.setattr(cases, "sweeps", lambda quick: iter(()))
    result = bench.measure(quick=True, progress=False, precision="bfloat16")
    assert all(0 < row["gradient_error"] < 0.05 for row in result["training"])
    assert "error in the decoder's gradient" in bench.table(result)


def test_picture_shows_the_measured_times(tiny):
    result = bench.measure(quick=True, progress=False)
    open_before = plt.get_fignums()
    axes = bench.picture(result).axes
    rows = [r for r in result["training_sweeps"] if r["varied"] == "steps"]
    drawn = {line.get_label(): line.get_ydata() for line in axes[0].lines}
    assert drawn["ipvae_snn"] == pytest.approx([1e3 * r["ours"] / r["steps"] for r in rows])
    assert drawn["plain PyTorch"] == pytest.approx([1e3 * r["plain"] / r["steps"] for r in rows])
    assert plt.get_fignums() == open_before


def test_rates_stay_at_the_rate_of_the_shape():
    for rate in (0.02, cases.RATE, 5.0):
        model, x = cases.make(replace(cases.PATCHES, batch=50, rate=rate), CPU)
        with torch.no_grad():
            out = model.run(x, 400, record=("spk",), every=399, seed=0)
        assert out.spk.mean() == pytest.approx(rate, rel=0.1)
    row = cases.streaming(Shape(8, 512, 1, 1, 0.05), CPU, 1000)
    assert row["active"] == pytest.approx(0.05, rel=0.1)


def test_memory_of_training_and_inference():
    """Five bytes for one more timestep, sample and neuron; inference adds nothing per timestep."""
    shape = Shape(64, 512, 64, 20)
    row = cases.training(shape, CPU, 1, "float32")
    assert 5 <= row["added_bytes_per_tbk"] < 5.5
    row = cases.inference(shape, CPU, 1, "float32")
    assert row["peak_bytes"] == pytest.approx(row["peak_bytes_at_4_times_the_steps"], rel=0.01)


def test_peak_bytes_counts_tensors_alive_at_the_same_time():
    def work():
        a = torch.empty(1000)
        b = torch.empty(500)
        del a
        return b, torch.empty(700)

    assert timing.peak_bytes(work, CPU) == 6000


def test_work_is_interleaved():
    calls = []
    work = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    medians = timing.interleaved(work, CPU, repeats=3, warm_up=1)
    assert calls == ["a", "b"] * 4
    assert set(medians) == {"a", "b"}
