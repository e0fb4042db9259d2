"""The folder list tells the architecture: who may import whom, and what an import loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ipvae_snn

PACKAGE = Path(ipvae_snn.__file__).parent

# A room may import the rooms named here, and nothing else of ours.
ALLOWED = {
    "version": set(),
    "checks": set(),
    "extras": set(),
    "files": set(),
    "safe_arrays": set(),
    "functional": {"checks"},
    "seeding": {"checks"},
    "kernels": {"files", "functional"},
    "surrogate": {"checks", "kernels"},
    "metrics": {"checks", "extras", "model", "neurons", "seeding", "states"},
    "plotting": {"files"},
    "samples": {"checks"},
    "data": {"checks", "extras", "safe_arrays", "samples"},
    "storage": {"checks", "files"},
    "states": {"checks"},
    "base": {"checks", "kernels"},
    "records": {"base", "checks"},
    "lateral": {"checks", "functional"},
    "neurons": {"base", "checks", "functional", "lateral", "surrogate"},
    "recorder": {"base", "checks"},
    "currents": {"checks", "neurons"},
    "unroll": {
        "base", "checks", "functional", "kernels", "neurons", "seeding", "surrogate",
    },
    "model": {
        "base", "checks", "functional", "kernels", "lateral", "neurons", "records", "seeding",
        "storage", "surrogate", "unroll",
    },
    "baselines": {"base", "checks", "functional", "records", "seeding", "surrogate"},
    "streaming": {
        "base", "checks", "functional", "kernels", "lateral", "model", "neurons", "surrogate",
        "unroll",
    },
    "training": {
        "baselines", "checks", "files", "functional", "kernels", "metrics", "model", "samples",
        "seeding", "storage", "surrogate", "unroll", "version",
    },
    "evaluation": {"baselines", "checks", "metrics", "model", "records", "samples"},
    "sound": {"checks", "files"},
    "diagnostics": {"checks", "metrics", "model"},
    "report": {"checks", "diagnostics", "files", "metrics", "model", "version"},
    "figures": {"evaluation", "model", "plotting"},
    "runs": {
        "checks", "data", "evaluation", "figures", "files", "model", "seeding", "surrogate",
        "samples", "training", "version",
    },
    "export": {
        "base", "checks", "extras", "files", "functional", "metrics", "model", "neurons",
        "safe_arrays", "seeding", "states", "surrogate", "version",
    },
    "bench": {
        "checks", "files", "functional", "kernels", "model", "neurons", "plotting", "streaming",
        "version",
    },
    "cli": {
        "bench", "checks", "data", "diagnostics", "export", "files", "functional", "kernels",
        "model", "neurons", "report", "runs", "surrogate", "training", "version",
    },
    "__init__": {
        "evaluation", "functional", "model", "neurons", "recorder", "states", "streaming",
        "surrogate", "training", "version",
    },
}  # fmt: skip
HEAVY = ("matplotlib", "sklearn", "skimage", "nir", "norse", "sinabs", "pandas", "scipy")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(path: Path) -> set[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ipvae_snn"):
            whole = [f"ipvae_snn.{a.name}" for a in node.names]
            names += whole if node.module == "ipvae_snn" else [node.module]
        elif isinstance(node, ast.Import):
            names += [a.name for a in node.names if a.name.startswith("ipvae_snn.")]
    return {name.split(".")[1] for name in names} - {room_of(path)}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path):
    assert imported_rooms(path) <= ALLOWED[room_of(path)]


def test_the_allowed_imports_have_no_circle():
    def below(room, seen=()):
        assert room not in seen, f"circle through {room}"
        for other in ALLOWED[room]:
            below(other, (*seen, room))

    for room in ALLOWED:
        below(room)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_short(path):
    assert len(path.read_text().splitlines()) <= 300


def test_import_loads_nothing_heavy():
    code = f"import sys; import ipvae_snn;print([m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
