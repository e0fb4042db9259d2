"""Every example runs, in its quick mode, from another folder, and draws its picture."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_example(path, tmp_path):
    picture = tmp_path / "picture.png"
    result = subprocess.run(
        [sys.executable, str(path), "--quick", "--out", str(picture)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "picture:" in result.stdout
