"""Runs that are interrupted: the command, its folder, and what it says."""

import json
import signal

import numpy as np
import pytest
import torch

from ipvae_snn._utils.files import exclusive_lock
from ipvae_snn.cli import main
from ipvae_snn.runs import read_config
from ipvae_snn.training import checkpointer as keeper
from ipvae_snn.training import loop

QUICK = [
    "--data", "digits", "--latents", "12", "--steps", "4", "--iterations", "6", "--batch", "10",
    "--samples", "20", "--eval-steps", "10", "--checkpoint-every", "2", "--quiet",
]  # fmt: skip
RESULTS = ["config.json", "figures", "history.csv", "metrics.json", "model.pt"]


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["train", *QUICK, "--out", str(run)]) == 0
    return run


def stop_at(monkeypatch, iteration, number=signal.SIGINT):
    """Have a signal come while an iteration is at work."""
    step = loop.train_step

    def signalling(*arguments, **options):
        if arguments[6] == iteration:
            signal.raise_signal(number)
        return step(*arguments, **options)

    monkeypatch.setattr(loop, "train_step", signalling)


@pytest.fixture
def stopped(tmp_path, monkeypatch, capsys):
    """A run that was stopped after its third iteration."""
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert main(["train", *QUICK, "--out", str(tmp_path / "run")]) == 130
    error = capsys.readouterr().err
    assert "stopped by SIGINT after iteration 3" in error
    assert f"go on with: ipvae-snn train --resume {tmp_path / 'run'}" in error
    assert listing(tmp_path / "run") == ["checkpoint.pt", "config.json"]
    return tmp_path / "run"


def test_a_run_that_goes_on_ends_as_one_that_was_never_interrupted(stopped, whole):
    assert main(["train", "--resume", str(stopped), "--quiet"]) == 0
    assert listing(stopped) == RESULTS
    for name in ("config.json", "history.csv", "metrics.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    a, b = (torch.load(run / "model.pt", weights_only=True) for run in (stopped, whole))
    assert all(torch.equal(value, b["weights"][name]) for name, value in a["weights"].items())
    assert listing(stopped / "figures") == listing(whole / "figures")


def test_sigterm_ends_with_its_own_status(tmp_path, monkeypatch, capsys):
    stop_at(monkeypatch, 2, signal.SIGTERM)
    assert main(["train", *QUICK, "--out", str(tmp_path / "run")]) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_what_needs_a_whole_run_says_how_to_complete_it(stopped, capsys):
    before = listing(stopped)
    for command in (["evaluate", str(stopped), "--data", "digits"], ["check", str(stopped)]):
        assert main([*command, "--quiet"]) == 1
        assert f"not complete.*{stopped}".split(".*")[0] in capsys.readouterr().err
    assert main(["train", *QUICK, "--out", str(stopped)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert listing(stopped) == before


def test_an_evaluation_that_was_interrupted_is_made_up_for(stopped, whole, monkeypatch, capsys):
    from ipvae_snn.runs import train

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_figures", interrupted)
        assert main(["train", "--resume", str(stopped), "--quiet"]) == 130
    assert f"go on with: ipvae-snn train --resume {stopped}" in capsys.readouterr().err
    assert listing(stopped) == ["checkpoint.pt", "config.json"]
    # As killed between two moves:
    (stopped / "figures").mkdir()
    (stopped / "figures" / "half.png").write_bytes(b"")
    (stopped / ".results.part").mkdir()
    assert main(["train", "--resume", str(stopped), "--quiet"]) == 0
    assert listing(stopped) == RESULTS
    assert listing(stopped / "figures") == listing(whole / "figures")
    assert (stopped / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


def test_a_run_killed_before_its_first_checkpoint_begins_again(stopped, whole):
    (stopped / "checkpoint.pt").unlink()
    (stopped / ".checkpoint.pt.x1.part").write_bytes(b"half")
    assert main(["train", "--resume", str(stopped), "--quiet"]) == 0
    assert listing(stopped) == RESULTS
    assert (stopped / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_a_complete_run_has_nothing_to_go_on_with(whole, capsys):
    before = listing(whole)
    assert main(["train", "--resume", str(whole), "--quiet"]) == 0
    assert "is complete: there is nothing to go on with" in capsys.readouterr().out
    assert listing(whole) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--beta", "3"], "--beta cannot be given with --resume"),
        (["--latents", "512"], "--latents cannot be given with --resume"),
        (["--checkpoint-every", "0"], "checkpoint_every must be at least 1"),
        (["--data", "{tmp}/other.npy"], "was trained on samples of 8×8 values"),
        (["--data", "{tmp}/same.npy"], "learned from other data"),
        (["--data", "nowhere"], "does not exist"),
        (["--lr", "nan"], "lr must be"),
        (["--workers", "-1"], "--workers must be at least 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_refusals_leave_the_checkpoint(options, says, stopped, tmp_path, capsys):
    np.save(tmp_path / "other.npy", np.zeros((20, 9, 9)))
    np.save(tmp_path / "same.npy", np.zeros((20, 8, 8)))
    before = (stopped / "checkpoint.pt").read_bytes()
    given = [option.format(tmp=tmp_path) for option in options]
    assert main(["train", "--resume", str(stopped), "--quiet", *given]) == 1
    assert says in capsys.readouterr().err
    assert (stopped / "checkpoint.pt").read_bytes() == before
    assert listing(stopped) == ["checkpoint.pt", "config.json"]


def test_what_may_differ_may_differ(stopped):
    options = ["--lr", "1e-3", "--checkpoint-every", "1", "--data-dir", "."]
    assert main(["train", "--resume", str(stopped), "--quiet", *options]) == 0
    assert listing(stopped) == RESULTS


@pytest.mark.parametrize("damage", ["{", "{}", '{"training": 3}', "config"])
def test_a_damaged_configuration_is_refused(damage, stopped, capsys):
    config = json.loads((stopped / "config.json").read_text())
    config["training"]["batch"] = -1
    text = json.dumps(config) if damage == "config" else damage
    (stopped / "config.json").write_text(text)
    assert main(["train", "--resume", str(stopped), "--quiet"]) == 1
    assert "config.json is damaged" in capsys.readouterr().err
    assert listing(stopped) == ["checkpoint.pt", "config.json"]


def test_two_processes_do_not_work_on_one_run(stopped, capsys):
    with exclusive_lock(stopped):
        assert main(["train", "--resume", str(stopped), "--quiet"]) == 1
    assert f"another process is working on {stopped}" in capsys.readouterr().err
    assert listing(stopped) == ["checkpoint.pt", "config.json"]


def test_a_full_disk_is_told_and_the_last_checkpoint_kept(stopped, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    before = (stopped / "checkpoint.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(keeper, "write_checkpoint", full)
        assert main(["train", "--resume", str(stopped), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "cannot write the checkpoint of iteration 4, No space left on device" in error
    assert "that of iteration 3 is kept" in error
    assert (stopped / "checkpoint.pt").read_bytes() == before
    assert main(["train", "--resume", str(stopped), "--quiet"]) == 0


def test_a_training_that_diverges_keeps_its_last_good_state(tmp_path, monkeypatch, capsys):
    step = loop.train_step

    def diverging(model, *arguments, **options):
        if arguments[5] == 5:
            with torch.no_grad():
                model.weight[0, 0] = float("nan")
        return step(model, *arguments, **options)

    monkeypatch.setattr(loop, "train_step", diverging)
    run = tmp_path / "run"
    assert main(["train", *QUICK, "--out", str(run)]) == 1
    error = capsys.readouterr().err
    assert "training diverged at iteration 5" in error
    assert "decoder.weight holds 1 NaN" in error
    assert "lower the learning rate" in error
    assert "checkpoint.pt holds the state after iteration 4" in error
    assert listing(run) == ["checkpoint.pt", "config.json"]


def test_streamed_samples_train_as_those_in_memory(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    data = ["--data", str(tmp_path / "images.npy")]
    histories = []
    for name, options in (("memory", []), ("stream", ["--stream", "--workers", "1"])):
        run = tmp_path / name
        assert main(["train", *QUICK, *data, "--out", str(run), *options]) == 0
        histories.append((run / "history.csv").read_bytes())
    assert histories[0] == histories[1]
    assert read_config(tmp_path / "stream")["data"]["stream"] is True


def test_what_was_changed_is_gone_on_with(stopped, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        assert main(["train", "--resume", str(stopped), "--quiet", "--lr", "1e-3"]) == 130
    assert read_config(stopped, complete=False)["training"]["lr"] == 1e-3
    assert main(["train", "--resume", str(stopped), "--quiet"]) == 0
    last = (stopped / "history.csv").read_text().splitlines()
    assert float(last[1].split(",")[last[0].split(",").index("lr")]) < 1e-3


def test_a_start_that_comes_second_leaves_the_first_alone(tmp_path, monkeypatch, capsys):
    from ipvae_snn.runs import train

    run = tmp_path / "run"

    def slow(path):
        """As on a slow disk: another one is quicker, after the look whether the folder is free."""
        monkeypatch.setattr(train, "exclusive_lock", was)
        assert main(["train", *QUICK, "--out", str(run), "--seed", "1"]) == 0
        return was(path)

    was = train.exclusive_lock
    monkeypatch.setattr(train, "exclusive_lock", slow)
    assert main(["train", *QUICK, "--out", str(run), "--seed", "2"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert read_config(run)["training"]["seed"] == 1
    assert listing(run) == RESULTS


def test_left_overs_of_a_kill_are_no_run_and_are_swept(tmp_path, whole):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / ".config.json.abc.part").write_text("{")
    assert main(["train", *QUICK, "--out", str(run)]) == 0
    assert (run / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    (run / ".results.part").mkdir()
    (run / "checkpoint.pt").touch()
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert listing(run) == RESULTS


def test_results_that_cannot_be_written_leave_the_training(stopped, monkeypatch, capsys):
    from ipvae_snn.runs import train

    def full(path, rows):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_csv", full)
        assert main(["train", "--resume", str(stopped), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "cannot write the results, No space left on device; the training is kept" in error
    assert listing(stopped) == ["checkpoint.pt", "config.json"]
    assert main(["train", "--resume", str(stopped), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {}), ("model", {"latents": 10**30, "spike_grad": {"name": "midpoint"}}),
        ("model", {"latents": 12, "odd": 1, "spike_grad": {"name": "midpoint"}}),
        ("sample_shape", []), ("sample_shape", [8]), ("sample_shape", [1, 8, 8]),
        ("eval_samples", -1), ("data", {"source": 3}),
        ("training", {"steps": 1, "seed": 0, "a": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_edited_by_hand_is_refused_in_a_sentence(part, value, stopped, capsys):
    config = json.loads((stopped / "config.json").read_text())
    (stopped / "config.json").write_text(json.dumps({**config, part: value}))
    assert main(["train", "--resume", str(stopped), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("ipvae-snn: ")
    assert "config.json is damaged" in error or "no model can be made" in error
    assert listing(stopped) == ["checkpoint.pt", "config.json"]


def test_a_configuration_without_end_is_refused(stopped, capsys):
    (stopped / "config.json").write_text("[" * 100_000)
    assert main(["train", "--resume", str(stopped), "--quiet"]) == 1
    assert "config.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_cannot_begin_leaves_nothing(there, tmp_path, monkeypatch, capsys):
    from ipvae_snn.runs import train

    run = tmp_path / "above" / "run"
    if there:
        run.mkdir(parents=True)

    def failing(*arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(train, "fit", failing)
    assert main(["train", *QUICK, "--out", str(run)]) == 1
    assert "Input/output error" in capsys.readouterr().err
    assert listing(tmp_path) == (["above"] if there else [])
    assert not there or not listing(run)


def test_a_folder_that_somebody_made_meanwhile_stays(tmp_path):
    from ipvae_snn._utils.files import atomic_folder

    out = tmp_path / "above" / "out"

    def meanwhile():
        with atomic_folder(out):
            out.mkdir(parents=True)
            (out / "theirs").write_text("mine")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meanwhile()
    assert (out / "theirs").read_text() == "mine"
    assert listing(tmp_path / "above") == ["out"]
