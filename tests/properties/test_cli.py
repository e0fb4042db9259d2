"""The command line: any arguments give an exit status and a message, and write only named files."""

import contextlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvae_snn.cli import main
from tests.properties.common import mostly

NONSENSE = st.sampled_from(
    ["", " ", "nan", "inf", "-inf", "1e400", "-0", "0", "-1", "1.5", "1" * 40, "1" * 5000, "0x10",
     "ü", "\n", "a\nb", "a\0b", "\ud800", "--", "-", "None", "True", "1,2", "../x", "x" * 300]
) | st.text(max_size=6)  # fmt: skip


# A command that is not refused trains and draws figures for a second.
fewer_examples = settings(max_examples=max(2, settings().max_examples // 10))


def one_of(*good):
    """Mostly one of these values, sometimes nonsense."""
    return mostly(st.sampled_from([str(g) for g in good]), NONSENSE)


TRAIN = {
    "--latents": one_of(1, 4),
    "--clamp": one_of(1, 5, 16),
    "--steps": one_of(1, 3),
    "--burn-in": one_of(0, 1),
    "--beta": one_of(0, 1, 2.5),
    "--iterations": one_of(1, 2),
    "--batch": one_of(1, 4),
    "--lr": one_of(0.001, 1),
    "--eval-steps": one_of(1, 3),
    "--samples": one_of(2, 3),
    "--seed": one_of(0, 7),
    "--device": one_of("cpu"),
    "--precision": one_of("float32", "bfloat16"),
    "--estimator": one_of("midpoint", "rate", "bernoulli", "rounded", "eat", "gumbel"),
    "--as": one_of("auto", "samples", "patches"),
}
INSPECT = {
    "--steps": one_of(1, 3),
    "--samples": one_of(2, 3),
    "--seed": one_of(0),
    "--device": one_of("cpu"),
    "--data": one_of("DATA"),
    "--as": one_of("auto"),
}
EXPORT = {
    "--to": one_of("nir", "fixed-point", "xylo"),
    "--out": one_of("OUT"),
    "--samples": one_of(2, 3),
    "--steps": one_of(2, 4),
    "--seed": one_of(0, 1),
    "--levels": one_of(2),
    "--weight-bits": one_of(4, 8),
    "--state-bits": one_of(8, 16),
    "--emission": one_of("rounded"),
    "--input-bits": one_of(8),
    "--input-range": one_of(2, 8),
    "--gain": one_of(1),
    "--threshold": one_of(2.5),
    "--form": one_of("exact"),
    "--data": one_of("DATA"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A few small images."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, x=np.random.default_rng(0).random((12, 4, 4), dtype=np.float32))
    return path


@pytest.fixture(scope="module")
def run(data):
    """A run folder of two iterations."""
    out = data.parent / "run"
    words = f"--latents 3 --iterations 2 --steps 3 --eval-steps 3 --samples 3 --out {out} --quiet"
    status, message = run_command(["train", "--data", str(data), *words.split()])
    assert status == 0, message
    return out


def run_command(words):
    """Exit status of a command, and what it printed."""
    printed, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complained):
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
    return status, printed.getvalue() + complained.getvalue()


def tree(folder):
    return {p: p.stat().st_size for p in Path(folder).rglob("*")}


def check(words, folder, out=None):
    """Run the command in an empty folder: if it is refused, it leaves no file behind."""
    before, previous = tree(folder), Path.cwd()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        try:
            status, message = run_command(words)
        finally:
            os.chdir(previous)
        left = list(Path(empty).rglob("*"))
    assert status in (0, 1, 2), (words, status)
    if status:
        assert message.strip()
        assert "Traceback" not in message
        assert "torch gave up" not in message
        assert not left
        if status == 2 or "check" not in words[:1]:
            assert tree(folder) == before
    if status == 0 and out is not None and Path(out).exists():
        assert "nan" not in message.lower().split(), message


def options(known, **always):
    return st.fixed_dictionaries(always, optional=known).map(
        lambda chosen: [f"{name}={value}" for name, value in chosen.items()]
    )


@given(
    words=st.lists(one_of("train", "demo", "check", "--help", "--version", "--data", "--out", "x"))
)
def test_arbitrary_arguments(words):
    if words[:1] == ["demo"] or (words[:1] == ["bench"]):
        words = [*words, "--nonsense"]
    with tempfile.TemporaryDirectory() as folder:
        check(words, folder)


@fewer_examples
@given(chosen=options(TRAIN))
def test_train(chosen, data):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["train", "--iterations=1", "--samples=2", "--eval-steps=2", "--steps=2",
                 "--latents=3", f"--data={data}", f"--out={out}", "--quiet"]  # fmt: skip
        check([*words, *chosen], folder, out)


@fewer_examples
@given(
    source=one_of("DATA", "nowhere"),
    out=one_of("run", "a/b", "."),
    chosen=options({"--data-dir": one_of(".")}),
)
def test_data_and_output_paths(source, out, chosen, data):
    source = str(data) if source == "DATA" else source
    with tempfile.TemporaryDirectory() as folder:
        if ".." in out or out.startswith("/"):
            out = "run"
        words = ["train", "--iterations=1", "--samples=2", "--eval-steps=2", "--steps=2",
                 "--latents=3", "--quiet", f"--data={source}", f"--out={folder}/{out}"]  # fmt: skip
        check([*words, *chosen], folder)


@pytest.mark.parametrize("command", ["check", "report", "evaluate"])
@fewer_examples
@given(chosen=options(INSPECT))
def test_commands_on_a_run(command, chosen, data, run):
    chosen = [word.replace("DATA", str(data)) for word in chosen]
    with tempfile.TemporaryDirectory() as folder:
        words = [command, str(run), "--samples=3", "--quiet"]
        words += ["--steps=8"] if command == "check" else ["--steps=2"]
        if command == "evaluate":
            words += [f"--data={data}", f"--out={folder}/out"]
        check([*words, *chosen], folder)


@fewer_examples
@given(chosen=options(EXPORT))
def test_export(chosen, data, run):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        chosen = [w.replace("DATA", str(data)).replace("=OUT", f"={out}") for w in chosen]
        words = ["export", str(run), "--to=fixed-point", f"--out={out}", "--samples=3", "--steps=3",
                 "--quiet"]  # fmt: skip
        check([*words, *chosen], folder, out)


@given(where=NONSENSE, command=st.sampled_from(["check", "report", "evaluate", "export"]))
def test_missing_run_folders(where, command, data):
    with tempfile.TemporaryDirectory() as folder:
        extra = {"evaluate": [f"--data={data}"], "export": ["--to=nir", f"--out={folder}/o.nir"]}
        words = [command, f"{folder}/{where.replace('..', '')}", *extra.get(command, [])]
        check(words, folder)
