"""train --decoder conv and what comes after it, on a few small pictures of different sizes."""

import json

import numpy as np
import pytest
import torch

from ipvae_snn import data, load_model
from ipvae_snn.cli import main
from ipvae_snn.models import ConvIPVAE

QUICK = ["--latents", "4", "--kernel-size", "6", "--stride", "3", "--steps", "4", "--iterations",
         "6", "--batch", "3", "--eval-steps", "20", "--samples", "3", "--quiet"]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for n in range(6):
        noise = random.standard_normal((80 + 4 * n, 100 - 5 * n)).cumsum(0).cumsum(1)
        pixels = (noise - noise.min()) / (noise.max() - noise.min())
        image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "photos"
    command = ["train", "--data", str(photos), "--decoder", "conv", "--out", str(out), *QUICK]
    assert main(command) == 0
    return out


def test_a_run_has_model_whitening_and_figures(run):
    model = load_model(run / "model.pt")
    assert type(model) is ConvIPVAE
    assert (model.channels, model.latents, model.stride) == (1, 4, (3, 3))
    assert 0 < model.whitening.slope < 3
    assert len(list((run / "figures").glob("*.png"))) == 6
    config = json.loads((run / "config.json").read_text())
    assert (config["sample_kind"], config["sample_shape"]) == ("images", [64, 64])
    assert (config["recipe"], config["model"]["name"]) == ("conv-ipvae", "conv-ipvae")
    assert list(json.loads((run / "metrics.json").read_text())["steps"]) == ["1", "16", "20"]


def test_the_metrics_are_those_of_whitened_crops(run, photos):
    model = load_model(run / "model.pt")
    whole = data.load(photos, treat="images", patches=(0, 3), seed=0)
    x = whole.test.changed(model.whitening).read(torch.arange(3))
    spk = model.run(x, 20, record=(), seed=0).state.spk
    zeros = json.loads((run / "metrics.json").read_text())["steps"]["20"]["zeros"]
    assert float((spk == 0).float().mean()) == pytest.approx(zeros, abs=0.02)


def test_evaluate_check_and_report(run, photos, capsys):
    command = ["evaluate", str(run), "--data", str(photos), "--as", "images", "--steps", "5"]
    assert main([*command, "--samples", "2", "--quiet"]) == 0
    assert main(["check", str(run), "--steps", "80", "--samples", "2", "--quiet"]) in (0, 1)
    assert "spikes" in capsys.readouterr().out
    assert main(["report", str(run), "--steps", "5", "--samples", "2", "--quiet"]) == 0
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("command", [["tune"], ["export", "--to", "nir"]])
def test_what_is_for_flat_models_says_so(command, run, tmp_path, capsys):
    name, *options = command
    assert main([name, str(run), *options, "--out", str(tmp_path / "out"), "--quiet"]) != 0
    assert "onv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--decoder", "conv", "--as", "patches"], "whole images"),
        (["--decoder", "conv", "--model", "lca"], "--model conv-ipvae"),
        (["--decoder", "linear", "--as", "images"], "--decoder conv"),
        (["--decoder", "conv", "--stride", "9", "--kernel-size", "4"], "stride"),
        (["--decoder", "conv", "--recipe", "natural"], "recipe"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, says, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["train", "--data", str(photos), "--out", str(out), *options]) != 0
    assert says in capsys.readouterr().err
    assert not out.exists()
