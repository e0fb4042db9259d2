"""Every experiment of examples/paper runs in its quick mode without data, and resumes."""

import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "paper"
SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all, as some models appear in several experiments."""
    return tmp_path_factory.mktemp("cache")


def run(path, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, options)])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_an_experiment_runs_and_resumes(path, tmp_path, cache, monkeypatch, capsys):
    run(path, monkeypatch, "--quick", "--out", tmp_path, "--cache", cache)
    first = capsys.readouterr().out
    assert f"{path.stem}: " in first
    result = json.loads((tmp_path / f"{path.stem}.json").read_text())
    assert result["environment"]["quick"] is True
    figures = sorted(tmp_path.glob("*.png"))
    assert figures
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in figures)

    run(path, monkeypatch, "--quick", "--out", tmp_path, "--cache", cache)
    again = capsys.readouterr().out
    assert f"{path.stem}: " not in again  # every cell was cached
    assert "training " not in again
    assert json.loads((tmp_path / f"{path.stem}.json").read_text()) == result
