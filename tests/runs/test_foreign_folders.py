"""Run folders of somebody else: links, paths and sizes in them are refused before they are used."""

import json
import os
import shutil

import numpy as np
import pytest

from ipvae_snn.cli import main
from ipvae_snn.runs import folder, origin
from ipvae_snn.training import loop
from tests.properties.common import little_memory
from tests.runs.test_resume import QUICK, listing, raise_signal_at

SHORT = ["--steps", "80", "--samples", "10", "--quiet"]
SECRET = b"\x89PNG\r\n\x1a\nnobody is to see this"


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """The folder of this user's key; that of the user who made the runs is another."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "my images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, images, state):
    """A complete run and a stopped one, on data that are named by a path."""
    top = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state))
        command = ["train", *QUICK, "--data", str(images), "--out"]
        assert main([*command, str(top / "complete")]) == 0
        raise_signal_at(patch, 3)
        assert main([*command, str(top / "stopped")]) == 130
    return top


@pytest.fixture
def runs(made, tmp_path, monkeypatch, state):
    """Copies of both."""
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(SECRET)
    return path


def change_config(run, change):
    path = run / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(command, capsys, *says):
    """The command ends in one line that says these words."""
    capsys.readouterr()
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in says:
        assert words in error


# -- links -----------------------------------------------------------------------------------


def put_link(path, target):
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("through", ["file", "folder", "relative"])
def test_a_figure_that_is_a_link_out_of_the_run_goes_into_no_report(through, runs, secret, capsys):
    run = runs / "complete"
    if through == "folder":
        outside = secret.parent / "pictures"
        outside.mkdir()
        shutil.copy(secret, outside / "raster.png")
        put_link(run / "figures", outside)
    else:
        target = "../../../secret.png" if through == "relative" else secret
        put_link(run / "figures" / "raster.png", target)
    refused(["report", str(run), *SHORT], capsys, "a link out of", "figures")
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("content", ["text", "large", "link to config"])
def test_a_figure_that_is_no_picture_goes_into_no_report(content, runs, capsys, monkeypatch):
    monkeypatch.setattr("ipvae_snn.runs.report.page.MAX_FIGURE", 10**6)
    figure = runs / "complete/figures/raster.png"
    if content == "text":
        figure.write_text("root:x:0:0")
    elif content == "large":
        os.truncate(figure, 2 * 10**6)
    else:
        put_link(figure, "../config.json")
    refused(["report", str(runs / "complete"), *SHORT], capsys, "raster.png is no PNG file")


def test_links_within_a_run_and_to_a_run_are_followed(runs):
    run = runs / "complete"
    (run / "figures/raster.png").rename(run / "figures/spikes.png")
    (run / "figures/raster.png").symlink_to("spikes.png")
    (runs / "name").symlink_to(run)
    assert main(["report", str(runs / "name"), *SHORT]) == 0
    assert (run / "report.html").is_file()


@pytest.mark.parametrize("name", ["config.json", "model.pt", "metrics.json", "evaluations"])
@pytest.mark.parametrize("command", ["report", "check", "evaluate", "export"])
def test_files_of_a_complete_run_that_are_links_out_of_it_are_refused(
    name, command, runs, images, tmp_path, capsys
):
    run, kept = runs / "complete", tmp_path / "kept"
    if (run / name).exists():
        (run / name).rename(kept)
    put_link(run / name, kept)
    options = {
        "evaluate": ["--data", str(images), "--steps", "4", "--quiet"],
        "export": ["--to", "nir", "--out", str(tmp_path / "m.nir"), "--quiet"],
    }.get(command, SHORT)
    refused([command, str(run), *options], capsys, f"{name} is a link out of")
    assert not (tmp_path / "m.nir").exists()


@pytest.mark.parametrize("name", ["config.json", "checkpoint.pt", "figures", ".lock"])
def test_files_of_a_stopped_run_that_are_links_are_refused(name, runs, tmp_path, capsys):
    run, kept = runs / "stopped", tmp_path / "kept"
    kept.write_text("mine")
    put_link(run / name, kept)
    refused(["train", "--resume", str(run), "--quiet"], capsys, f"{name} is a link")
    assert kept.read_text() == "mine"


def test_a_lock_that_is_a_link_is_refused_in_a_complete_run_too(runs, tmp_path, capsys):
    (tmp_path / "kept").write_text("mine")
    put_link(runs / "complete/.lock", tmp_path / "kept")
    refused(["train", "--resume", str(runs / "complete")], capsys, ".lock is a link")
    assert (tmp_path / "kept").read_text() == "mine"


# -- paths -----------------------------------------------------------------------------------


def commands(runs, tmp_path):
    return {
        "report": ["report", str(runs / "complete"), *SHORT],
        "check": ["check", str(runs / "complete"), *SHORT],
        "export": ["export", str(runs / "complete"), "--to", "nir", "--steps", "9",
                   "--out", str(tmp_path / "m.nir"), "--samples", "10", "--quiet"],
        "resume": ["train", "--resume", str(runs / "stopped"), "--quiet"],
    }  # fmt: skip


COMMANDS = ["report", "check", "export", "resume"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_data_of_runs_of_ones_own_are_found_again(command, runs, tmp_path, capsys):
    status = main(commands(runs, tmp_path)[command])
    assert status == 0 or command == "check"  # which finds that so short a training learned little
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "foreign"),
    [*((name, "another user") for name in COMMANDS), ("report", "no seal"), ("report", "moved"),
     ("report", "no key can be kept"), ("report", "not text"), ("resume", "moved")],
)  # fmt: skip
def test_paths_in_the_runs_of_others_are_read_only_when_named(
    command, foreign, runs, images, tmp_path, capsys, monkeypatch
):
    given = commands(runs, tmp_path)[command]
    secrets = tmp_path / "../my secrets.npy"
    for run in (runs / "complete", runs / "stopped"):
        if foreign in ("no seal", "not text"):
            change_config(run, lambda c: c.update(seal=["\ud800"] if "not" in foreign else ""))
        elif foreign == "moved":
            change_config(run, lambda c: c["data"].update(source=str(secrets)))
    if foreign == "another user":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    elif foreign == "no key can be kept":
        monkeypatch.setenv("XDG_STATE_HOME", "/proc")

    def read(*arguments, **options):
        raise AssertionError("the data were read")

    with monkeypatch.context() as patch:
        patch.setattr("ipvae_snn.data.load", read)
        named = str(secrets if foreign == "moved" else images)
        refused(given, capsys, "somebody else's", f"--data '{named}'")
    assert not (runs / "complete/report.html").exists()
    assert not (tmp_path / "m.nir").exists()
    assert listing(runs / "stopped") == ["checkpoint.pt", "config.json"]
    assert main([*given, "--data", str(images)]) == 0 or command == "check"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("source", ["a\n/b", "\x1b[31m", "\u202egnp", "\ud800"])
def test_a_path_that_cannot_be_printed_stands_in_the_refusal_as_escapes(source, tmp_path):
    with pytest.raises(ValueError, match="say --data and their path") as error:
        origin.recorded_data(tmp_path, {"data": {"source": source}, "seal": ""})
    assert str(error.value).isprintable()
    assert repr(source) in str(error.value)


def test_the_folder_of_mnist_is_a_path_too(runs, capsys, tmp_path):
    run = runs / "stopped"
    change_config(run, lambda c: c["data"].update(source="mnist", data_dir=str(tmp_path)))
    refused(["train", "--resume", str(run), "--quiet"], capsys, f"--data-dir {tmp_path}")
    again = ["train", "--resume", str(run), "--quiet", "--data-dir", str(tmp_path)]
    refused(again, capsys, "no MNIST in")


def test_data_from_packages_need_no_seal(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert main(["train", *QUICK, "--out", str(tmp_path / "run")]) == 0
    assert "seal" not in folder.read_config(tmp_path / "run")
    assert not (tmp_path / "state").exists()
    assert main(["report", str(tmp_path / "run"), *SHORT]) == 0


def test_one_key_is_made_and_only_its_user_can_read_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    seals = {origin.seal({"source": "/a"}) for _ in range(3)}
    assert len(seals) == 1
    key = tmp_path / "ipvae_snn/key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_bytes(b"short")
    assert origin.seal({"source": "/a"}) not in seals


# -- sizes -----------------------------------------------------------------------------------


@pytest.fixture
def _little_memory():
    with little_memory(2**29):
        yield


@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("model", {"latents": 20_000_000}), ("model", {"latents": 2**60}),
        ("model", {"in_features": 20_000_000}),
        ("model", {"name": "poisson-vae", "spike_grad": None, "width": 100_000}),
        ("model", {"decoder": {"name": "linear", "latents": 12, "in_features": 50_000_000}}),
        ("model", {"likelihood": {"name": "gaussian", "in_features": 900_000_000}}),
        ("training", {"steps": 10**9}), ("training", {"batch": 2**20, "steps": 10**6}),
        ("training", {"batch": 10**12}), ("training", {"iterations": 10**15}),
        ("eval_steps", 10**12), ("eval_samples", 10**12),
    ],
    ids=str,
)  # fmt: skip
def test_sizes_in_a_configuration_are_compared_before_memory_is_taken(
    part, change, runs, capsys, monkeypatch
):
    def train(*arguments, **options):
        raise AssertionError("it trained")

    monkeypatch.setattr(loop.Loop, "run", train)
    run = runs / "stopped"

    def put(content):
        options = content[part]
        content[part] = {**options, **change} if isinstance(options, dict) else change
        if change.get("name") if isinstance(change, dict) else False:
            content[part] = {"latents": 12, **change}

    change_config(run, put)
    before = (run / "checkpoint.pt").read_bytes()
    refused(["train", "--resume", str(run), "--quiet"], capsys, "ipvae-snn: ")
    assert (run / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
def test_a_file_of_text_of_absurd_length_is_not_read(name, runs, capsys):
    os.truncate(runs / "complete" / name, 2**40)
    refused(["report", str(runs / "complete"), *SHORT], capsys, name, "is damaged", "bytes")
