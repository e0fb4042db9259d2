"""What is printed while something runs: a bar on a terminal, a few whole lines in a log."""

import io
import subprocess
import sys

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, evaluate, export, fit
from ipvae_snn._utils import progress
from ipvae_snn.cli import main

with torch.random.fork_rng():
    torch.manual_seed(0)
    MODEL, X = IPVAE(16, 8, init_std=0.3), torch.rand(12, 16)


def train():
    fit(IPVAE(16, 8), X, TrainConfig(iterations=60, batch=4, steps=2, log_every=1))


LONG = {
    "fit": train,
    "evaluate": lambda: evaluate(MODEL, X, num_steps=60, batch=1, chunk=1, progress=True),
    "calibrate": lambda: export.calibrate(MODEL, X, num_steps=8, progress=True),
    "report": lambda: export.report(MODEL, MODEL, X, num_steps=60, window=4, progress=True),
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.filterwarnings("ignore:no gain and threshold")
@pytest.mark.filterwarnings("ignore:.*R²")
@pytest.mark.parametrize("run", LONG.values(), ids=LONG)
def test_a_log_gets_a_line_at_the_start_and_at_the_end(run, capsys):
    run()
    written = capsys.readouterr().err
    assert "\r" not in written
    assert written.endswith("\n")
    assert 1 <= len(written.splitlines()) <= 3
    assert all(line == line.strip() != "" for line in written.splitlines())


def test_the_last_line_of_a_training_has_the_figures_of_its_last_iteration(capsys):
    train()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("training: 60/60, loss=")
    assert "batch R²=" in last
    assert "zeros=" in last
    assert "00:00 left" in last


def test_a_log_shows_the_r2_of_validation_samples(capsys):
    fit(IPVAE(16, 8), X, TrainConfig(iterations=6, batch=4, steps=2, log_every=1), validation=X)
    assert ", R²=" in capsys.readouterr().err.splitlines()[-1]


def test_a_log_gets_lines_between_at_intervals(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.05)
    bar = progress.progress_bar(1000, "working", shown=True)
    with bar:
        for tenth in range(10):
            bar.start_t -= 1  # time passes
            bar.last_print_t -= 0.06 if tenth % 3 == 0 else 0
            for _ in range(100):
                bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 8


def test_a_terminal_gets_a_bar_that_is_redrawn_in_place(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    train()
    written = sys.stderr.getvalue()
    assert written.count("\r") > 1
    assert written.count("\n") == 1


def test_a_process_without_a_console_trains(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    train()


class FullDisk(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


def test_a_log_on_a_full_disk_ends_no_training(monkeypatch):
    monkeypatch.setattr(sys, "stderr", FullDisk())
    train()


@pytest.mark.parametrize("name", ["red\x1b[31m", "back\b", "a\u202egnp", "a\r", "x\x85y"])
def test_control_characters_in_names_reach_no_terminal(name, capsys):
    assert main(["report", name]) == 1
    said = capsys.readouterr().err
    assert said.removesuffix("\n").isprintable()


def test_a_very_long_message_is_shortened(capsys):
    assert main(["report", "a" * 10_000]) == 1
    assert len(capsys.readouterr().err) < 2100


@pytest.mark.parametrize("quiet", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_command_whose_output_goes_to_a_file_writes_few_lines(quiet, tmp_path):
    command = [
        sys.executable, "-m", "ipvae_snn.cli", "train", "--data", "digits", "--out",
        str(tmp_path / "run"), "--latents", "12", "--steps", "4", "--iterations", "120", "--batch",
        "10", "--log-every", "1", "--samples", "20", "--eval-steps", "200",
    ]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        subprocess.run(command + ["--quiet"] * quiet, stdout=log, stderr=log, check=True)
    lines = (tmp_path / "log").read_bytes().decode().split("\n")
    bars = [line for line in lines if line.startswith(("training", "evaluating"))]
    assert len(bars) == 0 if quiet else 2 <= len(bars) <= 6
    assert len(lines) < 20
    assert not any("\r" in line for line in lines)
