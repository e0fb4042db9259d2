"""train --decoder conv and what comes after it, on a few small pictures of different sizes."""

import json

import numpy as np
import pytest
import torch

from ipvae_snn import data, load_model
from ipvae_snn.baselines import ConvLCA
from ipvae_snn.cli import main
from ipvae_snn.models import ConvIPVAE, ImageCode, decode_image

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


@pytest.mark.slow
def test_the_peer_of_whole_images(photos, tmp_path, capsys):
    command = ["train", "--data", str(photos), "--model", "conv-lca", "--out", str(tmp_path / "a")]
    assert main([*command, *QUICK]) == 0
    assert type(load_model(tmp_path / "a" / "model.pt")) is ConvLCA
    photo, out = str(photos / "0.png"), str(tmp_path / "b.npz")
    assert main(["encode", str(tmp_path / "a"), photo, "--out", out]) == 1
    assert "holds a ConvLCA" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--graded"]], ids=["draws", "graded"])
def test_a_photograph_becomes_spikes_and_comes_back(options, run, photos, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    out = tmp_path / "spikes.npz"
    assert main(["encode", str(run), str(photos / "3.png"), "--out", str(out), *options]) == 0
    said = capsys.readouterr().out
    assert "92×85 pixels" in said
    assert "bits per pixel" in said
    assert (tmp_path / "spikes.png").stat().st_size > 10_000
    assert main(["decode", str(run), str(out), "--out", str(tmp_path / "back.png")]) == 0
    with image.open(tmp_path / "back.png") as back:
        pixels = np.asarray(back)
    code = ImageCode.load(out)
    expected = decode_image(load_model(run / "model.pt"), code)[-1, 0].clamp(0, 1)
    assert np.abs(pixels / 255 - expected.numpy()).max() <= 0.5 / 255 + 1e-6
    assert code.steps == (64,)


def test_encode_and_decode_refuse(run, photos, tmp_path, capsys):
    taken, other = tmp_path / "a.png", tmp_path / "b.npz"
    taken.write_bytes(b"")
    photo, out = str(photos / "0.png"), tmp_path / "out.npz"
    for command, says in (
        (["encode", str(run), photo, "--out", str(tmp_path / "a.npz")], "exists already"),
        (["encode", str(run), photo, "--out", str(tmp_path / "a.pt")], "must end in .npz"),
        (["encode", str(run), str(other), "--out", str(out)], "is no file"),
        (["encode", str(run), str(taken), "--out", str(out)], "a.png"),
        (["encode", str(run), photo, "--out", str(out), "--steps", "0"], "steps"),
        (["decode", str(run), str(other), "--out", str(tmp_path / "c.png")], "is no file"),
        (["decode", str(run), photo, "--out", str(tmp_path / "c.png")], "cannot be read"),
    ):
        assert main(command) == 1
        assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [taken]


@pytest.mark.slow
def test_colour_from_files_to_features_and_back(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    folder, out = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    random = np.random.default_rng(1)
    for n in range(4):
        noise = random.standard_normal((70, 72 + n, 3)).cumsum(0).cumsum(1)
        pixels = (noise - noise.min()) / (noise.max() - noise.min())
        image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"{n}.png")
    command = ["train", "--data", str(folder), "--decoder", "conv", "--as", "colour"]
    assert main([*command, "--out", str(out), *QUICK]) == 0
    assert "in colour" in capsys.readouterr().out
    model = load_model(out / "model.pt")
    assert model.channels == model.whitening.channels == 3
    spikes = tmp_path / "spikes.npz"
    assert main(["encode", str(out), str(folder / "0.png"), "--out", str(spikes)]) == 0
    assert main(["decode", str(out), str(spikes), "--out", str(tmp_path / "back.png")]) == 0
    with image.open(tmp_path / "back.png") as back:
        assert (back.size, back.mode) == ((72, 70), "RGB")
    grey = ["evaluate", str(out), "--data", str(folder), "--as", "images", "--samples", "2"]
    assert main([*grey, "--steps", "2", "--quiet"]) == 1
    assert "3" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_tuned(photos, tmp_path, capsys):
    wild, better, out = (tmp_path / name for name in ("wild", "better", "tuned"))
    options = ["--samples", "2", "--steps", "20", "--trials", "2", "--quiet"]
    command = ["train", "--data", str(photos), "--decoder", "conv", *QUICK]
    unlearned = ["--init-std", "1", "--lr", "1e-6", "--lr-end", "1e-6"]
    assert main([*command, *unlearned, "--out", str(wild)]) == 0
    assert main(["tune", str(wild), "--out", str(out), *options]) == 1
    assert "train the model first" in capsys.readouterr().err
    learned = ["--iterations", "60", "--lr", "0.03", "--latents", "8"]
    assert main([*command, *learned, "--out", str(better)]) == 0
    assert main(["tune", str(better), "--out", str(out), *options]) == 0
    assert (out / "figures" / "tuning.png").is_file()
    assert type(load_model(out / "model.pt")) is ConvIPVAE


@pytest.mark.parametrize("target", ["nir", "fixed-point"])
def test_an_export_lays_neurons_out_for_images_of_a_size(target, run, tmp_path, capsys):
    if target == "nir":
        pytest.importorskip("nir")
    out = tmp_path / "model"
    command = ["export", str(run), "--to", target, "--size", "7", "9", "--out", str(out)]
    assert main([*command, "--samples", "3", "--steps", "20", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "7×9 pixels: one layer" in said
    assert "agree" in said
    assert out.stat().st_size > 1000
    assert main([*command[:-1], str(tmp_path / "b"), "--size", "0", "9"]) != 0
    maps = [*command[:-1], str(tmp_path / "maps"), "--size", "9", "12"]
    assert main([*maps, "--samples", "3", "--steps", "20", "--quiet"]) == 0
    layout = "maps" if target == "nir" else "one layer"
    assert f"9×12 pixels: {layout}" in capsys.readouterr().out


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
