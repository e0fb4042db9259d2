"""Interrupted runs: resuming from the command line, the run folder, and error messages."""

import json
import math
import signal

import numpy as np
import pytest
import torch

from ipvae_snn._utils.files import exclusive_lock
from ipvae_snn.cli import main
from ipvae_snn.runs import read_config
from ipvae_snn.runs.folder import staged_results
from ipvae_snn.training import checkpointer, loop

QUICK = [
    "--data", "digits", "--latents", "12", "--steps", "4", "--iterations", "6", "--batch", "10",
    "--samples", "20", "--eval-steps", "10", "--checkpoint-every", "2", "--quiet",
]  # fmt: skip
RESULTS = ["config.json", "figures", "history.csv", "metrics.json", "model.pt"]


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def complete_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["train", *QUICK, "--out", str(run)]) == 0
    return run


def raise_signal_at(monkeypatch, iteration, number=signal.SIGINT):
    """Raise a signal during an iteration."""
    step = loop.train_step

    def signalling(*arguments, **options):
        if options["iteration"] == iteration:
            signal.raise_signal(number)
        return step(*arguments, **options)

    monkeypatch.setattr(loop, "train_step", signalling)


@pytest.fixture
def stopped_run(tmp_path, monkeypatch, capsys):
    """A run that was stopped by SIGINT after its third iteration."""
    with monkeypatch.context() as patch:
        raise_signal_at(patch, 3)
        assert main(["train", *QUICK, "--out", str(tmp_path / "run")]) == 130
    error = capsys.readouterr().err
    assert "stopped by SIGINT after iteration 3" in error
    assert f"resume with: ipvae-snn train --resume {tmp_path / 'run'}" in error
    assert listing(tmp_path / "run") == ["checkpoint.pt", "config.json"]
    return tmp_path / "run"


def test_a_resumed_run_equals_an_uninterrupted_one(stopped_run, complete_run):
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 0
    assert listing(stopped_run) == RESULTS
    for name in ("config.json", "history.csv", "metrics.json"):
        assert (stopped_run / name).read_bytes() == (complete_run / name).read_bytes(), name
    a, b = (torch.load(run / "model.pt", weights_only=True) for run in (stopped_run, complete_run))
    assert all(torch.equal(value, b["weights"][name]) for name, value in a["weights"].items())
    assert listing(stopped_run / "figures") == listing(complete_run / "figures")


def test_a_run_from_before_recipes_had_names_resumes(stopped_run, complete_run):
    config = json.loads((stopped_run / "config.json").read_text())
    older = {name: value for name, value in config.items() if name not in ("recipe", "budget")}
    (stopped_run / "config.json").write_text(json.dumps(older))
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 0
    assert (stopped_run / "history.csv").read_bytes() == (complete_run / "history.csv").read_bytes()
    assert json.loads((stopped_run / "config.json").read_text()) == older


def test_sigterm_has_its_own_exit_status(tmp_path, monkeypatch, capsys):
    raise_signal_at(monkeypatch, 2, signal.SIGTERM)
    assert main(["train", *QUICK, "--out", str(tmp_path / "run")]) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in capsys.readouterr().err


def test_commands_on_an_incomplete_run_say_how_to_complete_it(stopped_run, capsys):
    before = listing(stopped_run)
    for command in (
        ["evaluate", str(stopped_run), "--data", "digits"],
        ["check", str(stopped_run)],
    ):
        assert main([*command, "--quiet"]) == 1
        assert f"not complete.*{stopped_run}".split(".*")[0] in capsys.readouterr().err
    assert main(["train", *QUICK, "--out", str(stopped_run)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert listing(stopped_run) == before


def test_an_interrupted_evaluation_is_repeated(stopped_run, complete_run, monkeypatch, capsys):
    from ipvae_snn.runs import train

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_figures", interrupted)
        assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 130
    assert f"resume with: ipvae-snn train --resume {stopped_run}" in capsys.readouterr().err
    assert listing(stopped_run) == ["checkpoint.pt", "config.json"]
    # The state after a kill while the results are moved in:
    (stopped_run / "figures").mkdir()
    (stopped_run / "figures" / "half.png").write_bytes(b"")
    (stopped_run / ".results.part").mkdir()
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 0
    assert listing(stopped_run) == RESULTS
    assert listing(stopped_run / "figures") == listing(complete_run / "figures")
    assert (stopped_run / "metrics.json").read_bytes() == (
        complete_run / "metrics.json"
    ).read_bytes()


def test_a_run_killed_before_its_first_checkpoint_restarts(stopped_run, complete_run):
    (stopped_run / "checkpoint.pt").unlink()
    (stopped_run / ".checkpoint.pt.x1.part").write_bytes(b"half")
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 0
    assert listing(stopped_run) == RESULTS
    assert (stopped_run / "history.csv").read_bytes() == (complete_run / "history.csv").read_bytes()


def test_resuming_a_complete_run_does_nothing(complete_run, capsys):
    before = listing(complete_run)
    assert main(["train", "--resume", str(complete_run), "--quiet"]) == 0
    assert "is complete: there is nothing to resume" in capsys.readouterr().out
    assert listing(complete_run) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--beta", "3"], "--beta cannot be given with --resume"),
        (["--latents", "512"], "--latents cannot be given with --resume"),
        (["--budget", "5min"], "--budget cannot be given with --resume"),
        (["--recipe", "fast"], "--recipe cannot be given with --resume"),
        (["--checkpoint-every", "0"], "checkpoint_every must be at least 1"),
        (["--data", "{tmp}/other.npy"], "was trained on samples of 8×8 values"),
        (["--data", "{tmp}/same.npy"], "of a training on other data"),
        (["--data", "nowhere"], "does not exist"),
        (["--lr", "nan"], "lr must be"),
        (["--workers", "-1"], "--workers must be at least 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_refused_options_leave_the_checkpoint_unchanged(
    options, says, stopped_run, tmp_path, capsys
):
    np.save(tmp_path / "other.npy", np.zeros((20, 9, 9)))
    np.save(tmp_path / "same.npy", np.zeros((20, 8, 8)))
    before = (stopped_run / "checkpoint.pt").read_bytes()
    given = [option.format(tmp=tmp_path) for option in options]
    assert main(["train", "--resume", str(stopped_run), "--quiet", *given]) == 1
    assert says in capsys.readouterr().err
    assert (stopped_run / "checkpoint.pt").read_bytes() == before
    assert listing(stopped_run) == ["checkpoint.pt", "config.json"]


def test_these_options_may_change_on_resume(stopped_run):
    options = ["--lr", "1e-3", "--checkpoint-every", "1", "--data-dir", "."]
    assert main(["train", "--resume", str(stopped_run), "--quiet", *options]) == 0
    assert listing(stopped_run) == RESULTS


@pytest.mark.parametrize("damage", ["{", "{}", '{"training": 3}', "config"])
def test_a_damaged_configuration_is_refused(damage, stopped_run, capsys):
    config = json.loads((stopped_run / "config.json").read_text())
    config["training"]["batch"] = -1
    text = json.dumps(config) if damage == "config" else damage
    (stopped_run / "config.json").write_text(text)
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 1
    assert "config.json is damaged" in capsys.readouterr().err
    assert listing(stopped_run) == ["checkpoint.pt", "config.json"]


def test_a_locked_run_is_refused(stopped_run, capsys):
    with exclusive_lock(stopped_run):
        assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 1
    assert f"another process is working on {stopped_run}" in capsys.readouterr().err
    assert listing(stopped_run) == ["checkpoint.pt", "config.json"]


def test_a_full_disk_is_reported_and_the_last_checkpoint_kept(stopped_run, monkeypatch, capsys):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    before = (stopped_run / "checkpoint.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(checkpointer, "write_checkpoint", full)
        assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "cannot write the checkpoint of iteration 4, No space left on device" in error
    assert "that of iteration 3 is kept" in error
    assert (stopped_run / "checkpoint.pt").read_bytes() == before
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 0


def test_a_diverging_training_keeps_its_last_good_checkpoint(tmp_path, monkeypatch, capsys):
    step = loop.train_step

    def diverging(model, *arguments, **options):
        if options["iteration"] == 5:
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


def test_streamed_samples_train_like_those_in_memory(tmp_path):
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


def test_an_option_changed_on_resume_is_kept_for_the_next_resume(stopped_run, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        raise_signal_at(patch, 5)
        assert main(["train", "--resume", str(stopped_run), "--quiet", "--lr", "1e-3"]) == 130
    assert read_config(stopped_run, complete=False)["training"]["lr"] == 1e-3
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 0
    last = (stopped_run / "history.csv").read_text().splitlines()
    assert float(last[1].split(",")[last[0].split(",").index("lr")]) < 1e-3


def test_the_second_of_two_simultaneous_starts_is_refused(tmp_path, monkeypatch, capsys):
    from ipvae_snn.runs import train

    run = tmp_path / "run"

    def slow(path):
        """Another process takes the lock after this one found the folder free."""
        monkeypatch.setattr(train, "exclusive_lock", original)
        assert main(["train", *QUICK, "--out", str(run), "--seed", "1"]) == 0
        return original(path)

    original = train.exclusive_lock
    monkeypatch.setattr(train, "exclusive_lock", slow)
    assert main(["train", *QUICK, "--out", str(run), "--seed", "2"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert read_config(run)["training"]["seed"] == 1
    assert listing(run) == RESULTS


def test_left_over_files_of_a_killed_run_are_removed(tmp_path, complete_run):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / ".config.json.abc.part").write_text("{")
    assert main(["train", *QUICK, "--out", str(run)]) == 0
    assert (run / "history.csv").read_bytes() == (complete_run / "history.csv").read_bytes()
    (run / ".results.part").mkdir()
    (run / "checkpoint.pt").touch()
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert listing(run) == RESULTS


def test_a_failed_write_of_the_results_keeps_the_training(stopped_run, monkeypatch, capsys):
    from ipvae_snn.runs import train

    def full(path, rows):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_csv", full)
        assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "cannot write the results, No space left on device; the checkpoint is kept" in error
    assert listing(stopped_run) == ["checkpoint.pt", "config.json"]
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {}), ("model", {"latents": 10**30, "spike_grad": {"name": "midpoint"}}),
        ("model", {"latents": 12, "odd": 1, "spike_grad": {"name": "midpoint"}}),
        ("sample_shape", []), ("sample_shape", [8]), ("sample_shape", [1, 8, 8]),
        ("eval_samples", -1), ("data", {"source": 3}),
        ("data", {"source": "digits", "data_dir": 3}), ("training", {"steps": 1, "seed": 2**63}),
        ("training", {"steps": 1, "seed": 0, "a": 1}), ("model", {"clamp": math.nan}),
        ("training", {"steps": 1, "seed": 10**4000}),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_an_invalid_configuration_is_refused_in_one_line(part, value, stopped_run, capsys):
    config = json.loads((stopped_run / "config.json").read_text())
    (stopped_run / "config.json").write_text(json.dumps({**config, part: value}))
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("ipvae-snn: ")
    assert "config.json is damaged" in error or "no model can be made" in error
    assert listing(stopped_run) == ["checkpoint.pt", "config.json"]


def test_a_deeply_nested_configuration_is_refused(stopped_run, capsys):
    (stopped_run / "config.json").write_text("[" * 100_000)
    assert main(["train", "--resume", str(stopped_run), "--quiet"]) == 1
    assert "config.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["file", "link", "folder"])
@pytest.mark.parametrize("name", [".results.part", "figures", "history.csv"])
def test_what_lies_where_results_go_is_replaced_and_no_link_is_followed(name, what, tmp_path):
    run, kept = tmp_path / "run", tmp_path / "kept"
    run.mkdir()
    kept.mkdir()
    (kept / "mine").write_text("mine")
    if what == "file":
        (run / name).write_text("old")
    elif what == "link":
        (run / name).symlink_to(kept)
    else:
        (run / name / "old").mkdir(parents=True)
    with staged_results(run) as folder:
        (folder / "history.csv").write_text("new")
        (folder / "figures").mkdir()
        (folder / "figures/a.png").write_text("new")
    assert listing(run) == ["figures", "history.csv"]
    assert listing(run / "figures") == ["a.png"]
    assert (run / "history.csv").read_text() == "new"
    assert (kept / "mine").read_text() == "mine"
    assert listing(kept) == ["mine"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_run_that_fails_at_the_start_leaves_no_files(exists, tmp_path, monkeypatch, capsys):
    from ipvae_snn.runs import train

    run = tmp_path / "above" / "run"
    if exists:
        run.mkdir(parents=True)

    def failing(*arguments, **options):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(train, "fit", failing)
    assert main(["train", *QUICK, "--out", str(run)]) == 1
    assert "Input/output error" in capsys.readouterr().err
    assert listing(tmp_path) == (["above"] if exists else [])
    assert not exists or not listing(run)


def test_atomic_folder_keeps_a_folder_that_another_process_made(tmp_path):
    from ipvae_snn._utils.files import atomic_folder

    out = tmp_path / "above" / "out"

    def create_concurrently():
        with atomic_folder(out):
            out.mkdir(parents=True)
            (out / "theirs").write_text("mine")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_concurrently()
    assert (out / "theirs").read_text() == "mine"
    assert listing(tmp_path / "above") == ["out"]
