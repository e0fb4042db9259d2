"""The Python snippets of the README and of the pages run; files and commands they name exist."""

import re
from pathlib import Path

import pytest
import torch

from ipvae_snn import IPVAE, TrainConfig, cli, fit
from ipvae_snn.cli.commands import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
TEXT = "\n".join(PAGES.values())
SNIPPETS = [
    (f"{name} {number}", code)
    for name, text in sorted(PAGES.items())
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
]


@pytest.mark.parametrize(("name", "code"), SNIPPETS, ids=[name for name, _ in SNIPPETS])
def test_python_snippets_run(name, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {})


def test_the_likelihood_fits_and_is_saved(tmp_path):
    names = {}
    exec(next(code for _, code in SNIPPETS if "HeavyTailed" in code), names)
    model = IPVAE(16, 4, likelihood=names["HeavyTailed"]())
    fit(model, torch.randn(8, 16), TrainConfig(iterations=2, batch=4, steps=2, progress=False))
    model.save(tmp_path / "model.pt")
    loaded = IPVAE.load(tmp_path / "model.pt")
    assert type(loaded.decoded.likelihood) is names["HeavyTailed"]


def test_named_files_exist():
    for name in re.findall(r"(?:examples|tests)/[\w/]+\.py", TEXT):
        assert (ROOT / name).is_file(), name


def test_commands_parse():
    pattern = rf"^ipvae-snn ({'|'.join(COMMANDS)})(.*?)(?:#.*)?$"
    commands = re.findall(pattern, TEXT, flags=re.M)
    assert commands
    for name, rest in commands:
        cli.parser().parse_args([name, *rest.split()])


def test_links_lead_somewhere():
    for name, text in PAGES.items():
        folder = ROOT if name == "README.md" else ROOT / "docs"
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (folder / target).exists(), f"{name}: {target}"


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 180
