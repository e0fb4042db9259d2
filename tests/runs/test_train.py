"""The validation samples of a run, and the picture in its folder while it trains."""

import csv
import json

import pytest
import torch

from ipvae_snn.cli import main
from ipvae_snn.data.sources import InMemory, as_samples
from ipvae_snn.runs import figures, train
from ipvae_snn.runs.train import _split_validation
from tests.runs.test_resume import QUICK, RESULTS, listing, raise_signal_at


def read_history(run):
    with (run / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("wrap", [lambda x: x, InMemory], ids=["tensor", "Samples"])
def test_validation_samples_are_a_seeded_random_choice_and_not_trained_on(wrap):
    x = torch.arange(400.0)[:, None]
    kept, validation = _split_validation(wrap(x), 15, seed=4)
    both = [part.read(torch.arange(len(part))) for part in (kept, validation)]
    assert [len(part) for part in both] == [385, 15]
    assert torch.equal(torch.cat(both).sort(0).values, x)
    assert torch.equal(both[0], both[0].sort(0).values)
    assert both[1].max() > 300
    assert both[1].min() < 100
    assert _split_validation(x, 15, seed=4)[0].fingerprint() == kept.fingerprint()
    assert _split_validation(x, 15, seed=5)[0].fingerprint() != kept.fingerprint()


@pytest.mark.parametrize(("samples", "asked", "chosen"), [(400, 100, 20), (19, 9, 0), (400, 0, 0)])
def test_they_are_at_most_a_twentieth(samples, asked, chosen):
    x = torch.rand(samples, 3)
    kept, validation = _split_validation(x, asked, seed=0)
    assert (0 if validation is None else len(validation)) == chosen
    assert len(as_samples(kept)) == samples - chosen
    assert chosen or kept is x


def test_an_interrupted_run_has_a_picture_and_a_resumed_one_continues_its_curve(
    tmp_path, monkeypatch, capsys
):
    run, drawn = tmp_path / "run", []

    def draw(path, history, iterations=None):
        path.write_bytes(b"picture")
        files = {file.name for file in path.parent.iterdir()}
        assert ".training.png.x.part" not in files
        drawn.append(([row["iteration"] for row in history], iterations))

    def at_the_end(folder, *arguments, history, **options):
        folder.mkdir()
        draw(folder / "training.png", history)

    monkeypatch.setattr(train, "save_figures", at_the_end)
    monkeypatch.setattr(figures, "LIVE_INTERVAL", 0)
    monkeypatch.setattr(figures, "LIVE_SHARE", 1e9)
    monkeypatch.setattr(figures, "save_training", draw)
    with monkeypatch.context() as patch:
        raise_signal_at(patch, 3)
        assert main(["train", *QUICK, "--log-every", "1", "--out", str(run)]) == 130
    assert f"redrawn every few seconds: {run / 'figures' / 'training.png'}" in (
        capsys.readouterr().out
    )
    assert listing(run) == ["checkpoint.pt", "config.json", "figures"]
    assert listing(run / "figures") == ["training.png"]
    (run / "figures" / ".training.png.x.part").write_bytes(b"of a killed process")
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    rows = [1, 2, 3, 4, 5, 6]
    assert drawn == [*((rows[:n], 6) for n in rows), (rows, None)]
    assert listing(run) == RESULTS
    assert (run / "figures" / "training.png").read_bytes() == b"picture"
    measured = [row["iteration"] for row in read_history(run) if row["r2_val"]]
    assert measured == ["1", "6"]


def test_a_run_of_an_earlier_version_is_resumed_on_all_its_samples(tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(train, "save_figures", lambda *arguments, **options: None)
    with monkeypatch.context() as patch:
        raise_signal_at(patch, 3)
        assert main(["train", *QUICK, "--out", str(run), "--validation", "0"]) == 130
    config = json.loads((run / "config.json").read_text())
    assert config.pop("validation") == 0
    (run / "config.json").write_text(json.dumps(config))
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert "r2_val" not in read_history(run)[-1]


def test_a_negative_number_of_validation_samples_is_refused(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *QUICK, "--out", str(run), "--validation", "-1"]) == 1
    assert "validation samples must be at least 0" in capsys.readouterr().err
    assert not run.exists()
