"""Modules that have moved are importable by their old names, and are not copied."""

import importlib

import pytest

from ipvae_snn._utils.moved import MOVED


@pytest.mark.parametrize("old", [*MOVED, "report.page"])
def test_an_old_name_gives_the_module_itself(old):
    found = importlib.import_module(f"ipvae_snn.{old}")
    new = MOVED.get(old, f"runs.{old}")
    assert found is importlib.import_module(f"ipvae_snn.{new}")
    assert found.__name__ == found.__spec__.name == f"ipvae_snn.{new}"


@pytest.mark.parametrize("name", ["training.nothing", "report.nothing", "nothing"])
def test_other_names_are_not_found(name):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"ipvae_snn.{name}")
