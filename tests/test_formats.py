"""Files that earlier releases wrote: they are read, and mean what they meant."""

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
    found = make.results(kind, shutil.copy(path, tmp_path))
    expected = json.loads(path.with_suffix(".json").read_text())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name == "history":
            for row, known in zip(found[name], value, strict=True):
                for part in ("iteration", "loss", "nll", "lr"):  # draws may be others
                    assert row[part] == pytest.approx(known[part], rel=0.1), part
        else:
            assert torch.allclose(torch.tensor(found[name]), torch.tensor(value), atol=1e-5), name


def test_every_present_format_has_a_file():
    assert {path.name for path in make.files().values()} <= {path.name for path in FILES}
    stochastic = make.FOLDER / "graph-1.nir"
    pytest.importorskip("nir", reason="graphs need the extra nir")
    known = make.model()
    assert torch.equal(export.from_nir(stochastic).weight, known.weight)
