"""The train, evaluate and check commands: output, files and error messages."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from ipvae_snn import IPVAE
from ipvae_snn.cli import main

QUICK = ["--latents", "24", "--steps", "4", "--iterations", "6", "--batch", "10", "--quiet",
         "--samples", "20"]  # fmt: skip
TRAIN = ["train", "--data", "digits", "--out", "{tmp}/o"]


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "--data", "digits", "--out", str(out), "--eval-steps", "20", *QUICK]) == 0
    return out


def test_a_run_folder_is_complete(run):
    assert sorted(p.name for p in run.iterdir()) == [
        "config.json", "figures", "history.csv", "metrics.json", "model.pt",
    ]  # fmt: skip
    assert sorted(p.name for p in (run / "figures").iterdir()) == [
        "convergence.png", "dictionary.png", "membranes.png", "raster.png",
        "reconstructions.png", "training.png",
    ]  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["steps"]) == ["1", "16", "20"]
    assert {"r2", "mse", "zeros", "lifetime_sparsity", "population_sparsity"} <= set(
        metrics["steps"]["20"]
    )
    assert metrics["parameters"] == 64 * 24 + 24 + 1
    assert metrics["convergence_step"] is None
    config = json.loads((run / "config.json").read_text())
    assert config["training"]["iterations"] == 6
    assert config["data"]["source"] == "digits"
    assert (config["recipe"], config["budget"]) == ("mnist", None)
    with (run / "history.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["iteration"] == "6"
    assert -1 < float(row["r2_val"]) < 1
    assert config["validation"] == 100
    model = IPVAE.load(run / "model.pt")
    assert (model.in_features, model.latents) == (64, 24)


def test_equal_seeds_write_equal_runs(run, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    torch.rand(100)
    command = ["train", "--data", "digits", "--eval-steps", "20", *QUICK]
    main([*command, "--out", str(again)])
    main([*command, "--out", str(other), "--seed", "1"])
    a, b = IPVAE.load(run / "model.pt"), IPVAE.load(again / "model.pt")
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert (run / "metrics.json").read_text() == (again / "metrics.json").read_text()
    assert (run / "metrics.json").read_text() != (other / "metrics.json").read_text()


def test_the_final_table_lists_all_metrics(run, capsys, tmp_path):
    main(["evaluate", str(run), "--data", "digits", "--steps", "70", "--quiet", "--samples", "30",
          "--out", str(tmp_path / "e")])  # fmt: skip
    out = capsys.readouterr().out
    assert "digits of scikit-learn" in out
    words = "step 1,step 16,step 64,step 70,R²,MSE,zeros,lifetime sparsity,population sparsity"
    for word in (*words.split(","), "spikes per sample", "parameters", "took", "figures"):
        assert word in out


def test_evaluate_writes_a_new_folder_each_time_and_leaves_the_run_unchanged(run):
    before = files(run)
    command = ["evaluate", str(run), "--data", "digits", "--steps", "5", "--quiet"]
    assert main(command) == main(command) == 0
    assert (run / "evaluations/digits/metrics.json").is_file()
    assert (run / "evaluations/digits-2/figures/raster.png").is_file()
    after = files(run)
    assert all(after[name] == content for name, content in before.items())


def test_check_prints_findings_on_held_out_samples(run, capsys):
    before = files(run)
    assert main(["check", str(run), "--steps", "80", "--samples", "20", "--quiet"]) == 1
    out = capsys.readouterr().out
    assert "digits of scikit-learn" in out
    assert "PROBLEM" in out  # after six iterations
    assert out.rstrip().endswith(("problem", "problems"))
    assert files(run) == before


def test_train_on_a_path_prints_how_the_data_was_read(tmp_path, capsys):
    path = tmp_path / "scenes.npy"
    np.save(path, np.random.default_rng(0).random((6, 90, 80)))
    out = tmp_path / "run"
    assert main(["train", "--data", str(path), "--out", str(out), "--eval-steps", "3", *QUICK]) == 0
    said = capsys.readouterr().out
    assert "whitened 16×16 patches" in said
    assert "recipe: natural, because the data are patches; --recipe takes another\n" in said
    assert IPVAE.load(out / "model.pt").in_features == 256


def test_errors_print_no_control_characters(tmp_path, capsys):
    assert main(["train", "--data", "a\x1b[31m.npy", "--out", str(tmp_path / "run")]) == 1
    assert "a\\x1b[31m.npy does not exist" in capsys.readouterr().err


def test_the_axis_that_counts_the_images_is_kept_with_the_run(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((8, 8, 20)))
    out = str(tmp_path / "run")
    train = ["train", "--data", str(tmp_path / "a.npy"), "--out", out, "--eval-steps", "3", *QUICK]
    assert main(train) == 1
    assert "--axis -1" in capsys.readouterr().err
    assert main([*train, "--axis", "-1"]) == 0
    capsys.readouterr()
    assert main(["check", out, "--steps", "80"]) in (0, 1)
    assert "its axis 2 counts the images" in capsys.readouterr().out


@pytest.mark.parametrize("named", ["empty", ".", "deep/er/new"])
def test_out_may_be_an_empty_or_a_missing_folder(tmp_path, monkeypatch, named):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty" if named == "." else tmp_path)
    command = ["train", "--data", "digits", "--out", named, "--eval-steps", "3", *QUICK]
    assert main(command) == 0
    out = tmp_path / ("empty" if named == "." else named)
    assert (out / "model.pt").is_file()
    assert not list(tmp_path.rglob(".*"))


def test_one_neuron_is_enough(tmp_path):
    command = ["train", "--data", "digits", "--eval-steps", "3", *QUICK, "--latents", "1"]
    assert main([*command, "--out", str(tmp_path / "o")]) == 0


def test_new_data_is_evaluated_whole_and_training_data_on_its_held_out_part(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", images)
    out = str(tmp_path / "run")
    command = ["--eval-steps", "3", *QUICK, "--seed", "5"]
    assert main(["train", "--data", str(tmp_path / "a.npy"), "--out", out, *command]) == 0
    capsys.readouterr()
    evaluate = ["evaluate", out, "--steps", "3", "--quiet", "--data"]
    assert main([*evaluate, str(tmp_path / "a.npy")]) == 0
    assert "4 others held out" in capsys.readouterr().out
    assert main([*evaluate, str(tmp_path / "b.npy")]) == 0
    assert "20 others held out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["train", "--data", "{tmp}/none", "--out", "{tmp}/o"], "does not exist"),
        (["train", "--data", "{tmp}/empty", "--out", "{tmp}/o"], "holds no images"),
        (["train", "--data", "{tmp}/nan.npy", "--out", "{tmp}/o"], "NaN"),
        (["train", "--data", "digits", "--out", "{tmp}/full"], "exists already"),
        (["train", "--data", "digits", "--out", "{tmp}/full/note.txt"], "exists already"),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--steps", "-4"], "steps must be"),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--iterations", "0"], "iterations"),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--latents", "0"], "latents"),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--lr", "nan"], "lr must be"),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--clamp", "99"], "clamp"),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--device", "tpu9"], "device"),
        (
            ["train", "--data", "digits", "--out", "{tmp}/o", "--eval-steps", "0"],
            "steps must be",
        ),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--as", "patches"], "too small"),
        (["train", "--data", "mnist", "--out", "{tmp}/o", "--data-dir", "{tmp}"], "no MNIST"),
        ([*TRAIN, "--budget", "5"], "with its unit"),
        ([*TRAIN, "--budget", "1", "ms"], "must be a time such as"),
        ([*TRAIN, "--budget", "0.001", "s"], "too short"),
        ([*TRAIN, "--budget", "5min", "--iterations", "3"], "leave out one"),
        ([*TRAIN, "--recipe", "natural", "--model", "lca"], "for --model ipvae, not for lca"),
        ([*TRAIN, "--substeps", "3"], "belongs to --estimator bernoulli, not to --estimator mid"),
        (
            [*TRAIN, "--model", "lca", "--estimator", "eat"],
            "is for models with spikes, not for lca",
        ),
        (["evaluate", "{tmp}/full", "--data", "digits"], "not a run folder"),
        (["evaluate", "{tmp}/none", "--data", "digits"], "not a run folder"),
        (["evaluate", "{run}", "--data", "digits", "--steps", "-1"], "steps must be"),
        (["evaluate", "{run}", "--data", "{tmp}/other.npy"], "samples of 8×8"),
        (["evaluate", "{run}", "--data", "digits", "--out", "{tmp}/full"], "exists already"),
        (["demo", "--out", "{tmp}/full"], "exists already"),
        (["train", "--data", "", "--out", "{tmp}/o"], "must be named"),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--seed", "-1"], "seed must be"),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--device", "meta"], "device"),
        (["train", "--data", "digits", "--out", "{tmp}/o", "--samples", "1"], "samples must be"),
        (["train", "--data", "digits", "--out", "{tmp}/a/b", "--lr", "1e30"], "lr must be"),
        (
            [
                "train",
                "--data",
                "digits",
                "--out",
                "{tmp}/a/b",
                "--iterations",
                "2",
                "--latents",
                "10000000000",
            ],
            "PyTorch failed",
        ),
    ],
)
def test_errors_are_one_line_and_change_no_file(command, says, run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    np.save(tmp_path / "nan.npy", np.full((5, 8, 8), np.nan))
    np.save(tmp_path / "other.npy", np.zeros((6, 9, 9)))
    before, run_before = files(tmp_path), files(run)
    status = main([part.format(tmp=tmp_path, run=run) for part in command] + ["--quiet"])
    error = capsys.readouterr().err
    assert status == 1
    assert error.startswith("ipvae-snn: ")
    assert error.count("\n") == 1
    assert says in error
    assert files(tmp_path) == before
    assert files(run) == run_before


def test_a_damaged_run_is_refused(run, tmp_path, capsys):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "config.json").write_text("{")
    assert main(["evaluate", str(broken), "--data", "digits", "--quiet"]) == 1
    assert "damaged" in capsys.readouterr().err
    shutil.copy(run / "config.json", broken / "config.json")
    (broken / "model.pt").write_bytes(b"junk")
    assert main(["evaluate", str(broken), "--data", "digits", "--quiet"]) == 1
    assert "model.pt" in capsys.readouterr().err


def test_missing_required_options_exit_with_status_2():
    with pytest.raises(SystemExit) as stop:
        main(["train", "--data", "digits"])
    assert stop.value.code == 2


def test_the_installed_command_and_its_help():
    command = [sys.executable, "-m", "ipvae_snn.cli"]
    shown = subprocess.run(
        [*command, "train", "--help"], capture_output=True, text=True, check=True
    )
    for word in ("natural", "digits", "mnist", "--latents", "--device", "model.pt", "16x16"):
        assert word in shown.stdout
    failed = subprocess.run(
        [*command, "evaluate", "nowhere", "--data", "digits"], capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert "not a run folder" in failed.stderr
    assert "Traceback" not in failed.stderr
