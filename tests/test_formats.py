"""Files of earlier releases still load and give the same results."""

import json
import shutil

import pytest
import torch

from ipvae_snn import export
from tests.formats import make

FILES = sorted(path for path in make.FOLDER.iterdir() if path.suffix in (".pt", ".npz", ".nir"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_old_files_keep_loading(path, tmp_path):
    kind = path.stem.rpartition("-")[0]
    if kind == "graph":
        pytest.importorskip("nir", reason="graphs need the extra nir")
    results = make.results(kind, shutil.copy(path, tmp_path))
    expected = json.loads(path.with_suffix(".json").read_text())
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        if name == "history":
            for row, expected_row in zip(results[name], value, strict=True):
                for key in ("iteration", "loss", "nll", "lr"):  # spikes may differ
                    assert row[key] == pytest.approx(expected_row[key], rel=0.1), key
        else:
            assert torch.allclose(torch.tensor(results[name]), torch.tensor(value), atol=1e-5), name


def test_every_current_format_has_a_file():
    assert {path.name for path in make.files().values()} <= {path.name for path in FILES}
    stochastic = make.FOLDER / "graph-1.nir"
    pytest.importorskip("nir", reason="graphs need the extra nir")
    model = make.model()
    assert torch.equal(export.from_nir(stochastic).weight, model.weight)
