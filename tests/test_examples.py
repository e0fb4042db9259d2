"""Every example runs in its quick mode, from another folder, and writes its figure."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = [(path.name, ()) for path in sorted(FOLDER.glob("*.py"))] + [
    *((f"asking/{path.name}", ()) for path in sorted((FOLDER / "asking").glob("*.py"))),
    *((f"decoders/{path.name}", ()) for path in sorted((FOLDER / "decoders").glob("*.py"))),
    *(("decoders/compare.py", ("--task", task)) for task in ("binary", "colour", "events")),
    ("hidden_layers/gradients.py", ()),
    ("speed/maps.py", ()),
    ("whole_images/compare.py", ()),
    ("whole_images/film.py", ()),
    ("whole_images/fill_in.py", ()),
    ("whole_images/photograph.py", ()),
    ("hidden_layers/plain_swap.py", ()),
    *(
        ("hidden_layers/compare.py", ("--task", task))
        for task in ("classifier", "convolutional", "recurrent", "autoencoder")
    ),
]
NEEDS = {"nest_poisson": "nest", "lightning_classifier": "lightning"}


@pytest.mark.parametrize(("name", "options"), EXAMPLES, ids=str)
def test_example(name, options, tmp_path):
    path = FOLDER / name
    if path.stem in NEEDS and find_spec(NEEDS[path.stem]) is None:
        pytest.skip(f"{path.name} needs {NEEDS[path.stem]}, which is not installed")
    picture = tmp_path / "picture.png"
    result = subprocess.run(
        [sys.executable, str(path), *options, "--quick", "--out", str(picture)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "picture:" in result.stdout
