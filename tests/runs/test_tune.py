"""A tuned run: a complete run folder of its own, chosen without held-out samples."""

import csv
import json

import pytest
import torch

from ipvae_snn import IPVAE, data, tune
from ipvae_snn.cli import main
from ipvae_snn.runs import read_config
from tests.cli.test_commands import files

TRAIN = ["--latents", "24", "--steps", "8", "--iterations", "60", "--batch", "20", "--lr", "0.02",
         "--beta", "4", "--samples", "20", "--eval-steps", "20"]  # fmt: skip
TUNE = ["--samples", "40", "--steps", "30", "--trials", "4", "--quiet"]


@pytest.fixture(scope="module", autouse=True)
def _only_one_figure():
    """The figures of every run are slow to draw, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("train", "tune", "measure"):
            patch.setattr(
                f"ipvae_snn.runs.{module}.save_figures", lambda folder, *_, **__: folder.mkdir()
            )
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "--data", "digits", "--out", str(out), *TRAIN, "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def tuned(run):
    before = files(run)
    assert main(["tune", str(run), *TUNE]) == 0
    assert files(run) == before
    return run.with_name("digits-tuned")


def test_the_folder_is_that_of_a_run(run, tuned):
    assert set(files(tuned)) == {*files(run), "tune.json", "figures/tuning.png"}
    assert (tuned / "history.csv").read_bytes() == (run / "history.csv").read_bytes()
    config, original = read_config(tuned), read_config(run)
    summary = json.loads((tuned / "tune.json").read_text())
    assert config.pop("tuned") == summary["knobs"]
    assert config == original
    assert summary["run"] == "digits"
    assert (summary["choosing"], summary["validating"], summary["num_steps"]) == (40, 40, 30)
    a, b = (json.loads((folder / "metrics.json").read_text()) for folder in (run, tuned))
    assert a["steps"].keys() == b["steps"].keys()
    assert a != b
    with (tuned / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) > 0


def test_held_out_samples_have_no_part_in_the_choice(run, tuned):
    summary = json.loads((tuned / "tune.json").read_text())
    x = data.load("digits").train
    result = tune(IPVAE.load(run / "model.pt"), x, num_steps=30, samples=40, trials=4)
    assert {"run": "digits", **result.summary()} == summary
    again, expected = (
        m.run(x[:5], 9, seed=0) for m in (IPVAE.load(tuned / "model.pt"), result.model)
    )
    assert torch.equal(again.spk, expected.spk)


def test_commands_take_the_folder(tuned, capsys, tmp_path):
    quick = ["--steps", "80", "--samples", "10", "--quiet"]
    assert main(["evaluate", str(tuned), "--data", "digits", *quick]) == 0
    assert main(["check", str(tuned), *quick]) in (0, 1)
    out = str(tmp_path / "tuned.nir")
    assert main(["export", str(tuned), "--to", "nir", "--out", out, *quick]) == 0
    assert main(["report", str(tuned), *quick]) == 0
    assert "Settings tried after training" in (tuned / "report.html").read_text("utf-8")
    assert main(["train", "--resume", str(tuned)]) == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_the_command_prints_before_and_after_and_writes_all_or_nothing(run, capsys):
    before = sorted(run.parent.iterdir())
    command = ["tune", str(run), "--samples", "10", "--steps", "5", "--quiet", "--trials", "2"]
    assert main([*command, "--spikes-per-sample", "1e-6"]) == 1
    captured = capsys.readouterr()
    assert "digits of scikit-learn" in captured.out
    assert len(captured.err.splitlines()) == 1
    assert main([*command, "--out", str(run)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*command, "--steps", "0"]) == 1
    assert "steps must be at least 1" in capsys.readouterr().err
    assert sorted(run.parent.iterdir()) == before
