"""sample, impute and stream, on a model of a few 8×8 digits."""

import json
import math
import re

import numpy as np
import pytest
import torch

from ipvae_snn import data, load_model
from ipvae_snn.cli import main

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    command = ["train", "--data", "digits", "--out", str(out), "--latents", "24", "--quiet"]
    command += ["--steps", "6", "--iterations", "40", "--eval-steps", "20", "--samples", "20"]
    assert main(command) == 0
    return out


def test_sample_writes_draws_of_a_label_and_a_picture(run, tmp_path, capsys):
    out = tmp_path / "threes.npz"
    command = ["sample", str(run), "--out", str(out), "--label", "3", "--count", "10"]
    assert main([*command, "--steps", "20"]) == 0
    drawn = np.load(out)
    assert (drawn["x"].shape, drawn["spk"].shape) == ((10, 64), (10, 24))
    assert (drawn["label"] == 3).all()
    decoded = load_model(run / "model.pt").decode(torch.from_numpy(drawn["spk"]))
    np.testing.assert_allclose(drawn["x"], decoded.detach().numpy(), atol=1e-6)
    assert out.with_suffix(".png").stat().st_size > 5000
    assert "variance of a pixel" in capsys.readouterr().out
    again = tmp_path / "again.npz"
    assert main([*command[:3], str(again), *command[4:], "--steps", "20"]) == 0
    np.testing.assert_array_equal(np.load(again)["spk"], drawn["spk"])


@pytest.mark.parametrize("hide", ["--missing", "--block"])
def test_impute_hides_values_and_finds_them(run, tmp_path, capsys, hide):
    out = tmp_path / "filled.npz"
    command = ["impute", str(run), "--out", str(out), hide, "0.25", "--samples", "30"]
    assert main([*command, "--steps", "40", "--draws", "16"]) == 0
    printed = capsys.readouterr().out
    share = float(re.search(r"([\d.]+)% of the values were not seen", printed)[1])
    assert share == pytest.approx(25, abs=3)
    assert "R² of hidden values, by the model" in printed
    filled = np.load(out)
    assert filled["x"].shape == (30, 64)
    assert (filled["low"] <= filled["mean"]).all()
    assert (filled["mean"] <= filled["high"]).all()
    assert np.isfinite(filled["x"]).all()


def test_impute_takes_nan_for_not_seen(run, tmp_path, capsys):
    x = data.load("digits").test[:5].unflatten(1, (8, 8)).numpy()
    x[1, 2:5] = math.nan
    np.save(tmp_path / "values.npy", x)
    out = tmp_path / "filled.npz"
    command = ["impute", str(run), "--values", str(tmp_path / "values.npy"), "--out", str(out)]
    assert main([*command, "--steps", "20", "--draws", "8"]) == 0
    assert "hidden" not in capsys.readouterr().out
    filled, seen = np.load(out)["x"].reshape(x.shape), ~np.isnan(x)
    np.testing.assert_array_equal(filled[seen], x[seen])
    assert np.isfinite(filled).all()


def test_a_square_has_the_share_of_the_image():
    from ipvae_snn.runs.questions import _squares

    for shape, share, area in (((8, 8), 0.25, 16), ((28, 28), 0.25, 196), ((4, 20), 0.5, 40)):
        hidden = _squares(50, shape, share, seed=0)
        assert hidden.flatten(1).sum(1).unique().tolist() == [area]
        assert hidden.any(0).float().mean() > 0.8  # anywhere


def test_a_stream_learns_and_leaves_the_run_alone(run, tmp_path, capsys):
    before, out = (run / "model.pt").read_bytes(), tmp_path / "stream"
    command = ["stream", str(run), "--out", str(out), "--samples", "120", "--steps", "8"]
    assert main([*command, "--learn", "--lr", "0.02"]) == 0
    assert (run / "model.pt").read_bytes() == before
    errors = json.loads((out / "stream.json").read_text())["errors"]
    assert [len(errors[name]) for name in ("frozen", "learning")] == [120, 120]
    assert errors["frozen"][:24] == errors["learning"][:24]  # before weights move first
    assert errors["frozen"] != errors["learning"]
    learned, old = (load_model(folder / "model.pt").weight for folder in (out, run))
    assert not torch.equal(learned, old)
    assert "learning: error / energy" in capsys.readouterr().out
    plain = tmp_path / "plain"
    assert main([*command[:3], str(plain), *command[4:]]) == 0
    assert sorted(path.name for path in plain.iterdir()) == ["stream.json", "stream.png"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["sample", "--label", "17"], "label must be one of"),
        (["sample", "--count", "0"], "--count"),
        (["impute"], "nothing is missing"),
        (["impute", "--missing", "1.5"], "missing"),
        (["impute", "--missing", "0.5", "--level", "1"], "level"),
        (["impute", "--values", "nowhere.npy"], "nowhere.npy is no file"),
        (["impute", "--values", "x.npy", "--data", "digits"], "leave out one of them"),
        (["stream", "--steps", "0"], "steps"),
        (["stream", "--lr", "7"], "lr"),
    ],
)
def test_errors_are_one_line_and_write_nothing(command, says, run, tmp_path, capsys):
    out = tmp_path / ("out" if command[0] == "stream" else "out.npz")
    assert main([command[0], str(run), *command[1:], "--out", str(out)]) == 1
    error = capsys.readouterr().err.strip()
    assert says in error
    assert not list(tmp_path.iterdir())


def test_values_of_another_size_or_beyond_bounds_are_refused(run, tmp_path, capsys):
    for values, says in (
        (np.zeros((6, 4, 4, 4)), "(N, 8, 8)"),
        (np.full((2, 64), 1e300), "beyond float32"),
        (np.zeros((2, 64), np.int64), "floating-point"),
    ):
        np.save(tmp_path / "values.npy", values)
        command = ["impute", str(run), "--values", str(tmp_path / "values.npy")]
        assert main([*command, "--missing", "0.5", "--out", str(tmp_path / "out.npz")]) == 1
        assert says in capsys.readouterr().err


def test_images_that_do_not_vary_and_a_single_draw(run, tmp_path, capsys):
    np.save(tmp_path / "values.npy", np.zeros((3, 8, 8)))
    command = ["impute", str(run), "--values", str(tmp_path / "values.npy"), "--missing", "0.5"]
    assert main([*command, "--out", str(tmp_path / "a.npz"), "--steps", "5", "--draws", "4"]) == 0
    assert (
        main(["sample", str(run), "--count", "1", "--out", str(tmp_path / "b.npz"), "--steps", "5"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "as they do not vary" in printed
    assert "nan" not in printed


def test_other_names_and_existing_files_are_refused(run, tmp_path, capsys):
    (tmp_path / "taken.png").write_text("")
    for name, says in (("a.pt", "must end in .npz"), ("taken.npz", "exists already")):
        assert main(["sample", str(run), "--out", str(tmp_path / name)]) == 1
        assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]
