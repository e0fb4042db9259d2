"""Every example runs in its quick mode, from another folder, and writes its figure."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
NEEDS = {"nest_poisson": "nest", "lightning_classifier": "lightning"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path, tmp_path):
    if path.stem in NEEDS and find_spec(NEEDS[path.stem]) is None:
        pytest.skip(f"{path.name} needs {NEEDS[path.stem]}, which is not installed")
    picture = tmp_path / "picture.png"
    result = subprocess.run(
        [sys.executable, str(path), "--quick", "--out", str(picture)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "picture:" in result.stdout
