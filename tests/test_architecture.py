"""The architecture: which room may import which, and what an import of the package loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ipvae_snn

PACKAGE = Path(ipvae_snn.__file__).parent

# The rooms that each room may import.
ALLOWED = {
    "version": set(),
    "_utils": set(),
    "kernels": {"_utils"},
    "functional": {"_utils", "kernels"},
    "surrogate": {"_utils", "kernels"},
    "neurons": {"_utils", "functional", "kernels", "surrogate"},
    "models": {"_utils", "functional", "kernels", "neurons", "surrogate"},
    "baselines": {"_utils", "functional", "kernels", "models", "neurons", "surrogate"},
    "data": {"_utils"},
    "metrics": {"_utils", "data", "models", "neurons"},
    "plotting": {"_utils"},
    "training": {
        "_utils",
        "data",
        "functional",
        "kernels",
        "metrics",
        "models",
        "neurons",
        "version",
    },
    "recipes": {"_utils", "models", "training"},
    "diagnostics": {"_utils", "metrics", "models"},
    "export": {"_utils", "functional", "metrics", "models", "neurons", "surrogate", "version"},
    "runs": {
        "_utils",
        "data",
        "diagnostics",
        "metrics",
        "models",
        "plotting",
        "training",
        "version",
    },
    "bench": {
        "_utils",
        "functional",
        "kernels",
        "metrics",
        "models",
        "neurons",
        "plotting",
        "version",
    },
    "cli": {
        "_utils",
        "bench",
        "data",
        "diagnostics",
        "export",
        "kernels",
        "models",
        "neurons",
        "recipes",
        "runs",
        "surrogate",
        "training",
        "version",
    },
    "__init__": {
        "_utils",
        "baselines",
        "functional",
        "metrics",
        "models",
        "neurons",
        "recipes",
        "surrogate",
        "training",
        "version",
    },
}
HEAVY = ("matplotlib", "sklearn", "skimage", "nir", "norse", "sinabs", "pandas", "scipy")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path: Path) -> set[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ipvae_snn"):
            modules = [f"ipvae_snn.{a.name}" for a in node.names]
            names += modules if node.module == "ipvae_snn" else [node.module]
        elif isinstance(node, ast.Import):
            names += [a.name for a in node.names if a.name.startswith("ipvae_snn.")]
    return {name.split(".")[1] for name in names} - {room_of(path)}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_allowed_rooms(path):
    assert imported_rooms(path) <= ALLOWED[room_of(path)]


def test_the_allowed_imports_have_no_cycle():
    def visit(room, path=()):
        assert room not in path, f"cycle through {room}"
        for other in ALLOWED[room]:
            visit(other, (*path, room))

    for room in ALLOWED:
        visit(room)


def test_import_loads_nothing_heavy():
    code = f"import sys; import ipvae_snn;print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
