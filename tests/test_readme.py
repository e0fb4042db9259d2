"""The Python snippets of the README run, and the files and commands it names exist."""

import re
from pathlib import Path

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, cli, fit

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_python_snippets_run(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), {})


def test_the_likelihood_fits_and_is_saved(tmp_path):
    names = {}
    exec(next(snippet for snippet in SNIPPETS if "HeavyTailed" in snippet), names)
    model = IPVAE(16, 4, likelihood=names["HeavyTailed"]())
    fit(model, torch.randn(8, 16), TrainConfig(iterations=2, batch=4, steps=2, progress=False))
    model.save(tmp_path / "model.pt")
    loaded = IPVAE.load(tmp_path / "model.pt")
    assert type(loaded.decoded.likelihood) is names["HeavyTailed"]


def test_named_files_exist():
    for name in re.findall(r"(?:examples|tests)/[\w/]+\.py", README):
        assert (ROOT / name).is_file(), name


def test_commands_parse():
    pattern = r"^ipvae-snn (train|tune|evaluate|demo|export)(.*?)(?:#.*)?$"
    commands = re.findall(pattern, README, flags=re.M)
    assert commands
    for name, rest in commands:
        cli.parser().parse_args([name, *rest.split()])
