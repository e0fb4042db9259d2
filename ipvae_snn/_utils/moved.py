"""Aliases for modules that have moved: their old names stay importable.

``import ipvae_snn.model`` gives the module ``ipvae_snn.models.ipvae`` itself, not a copy.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

MOVED = {
    "base": "neurons.base",
    "bench.clock": "bench.timing",
    "checks": "_utils.checks",
    "currents": "neurons.currents",
    "data.pictures": "data.images",
    "evaluation": "metrics.evaluation",
    "export.graphs.pieces": "export.graphs.graph_fragment",
    "export.graphs.reading": "export.graphs.node_steps",
    "extras": "_utils.extras",
    "figures": "runs.figures",
    "files": "_utils.files",
    "kernels.events": "kernels.stepper",
    "kernels.graphs": "kernels.cuda_graphs",
    "kernels.job": "kernels.spec",
    "lateral": "neurons.lateral",
    "model": "models.ipvae",
    "recorder": "neurons.recorder",
    "records": "models.run_output",
    "report": "runs.report",
    "safe_arrays": "_utils.untrusted",
    "samples": "data.sources",
    "seeding": "_utils.seeding",
    "sound": "plotting.sound",
    "states": "neurons.states",
    "storage": "_utils.storage",
    "streaming": "models.streaming",
    "training.checkpoints": "training.checkpoint",
    "training.interrupts": "training.signals",
    "training.keeper": "training.checkpointer",
    "training.processes": "training.distributed",
    "training.randomness": "training.random_state",
    "unroll": "kernels.unroll",
}
"""Old names and new ones, both relative to ``ipvae_snn``."""
PACKAGE = "ipvae_snn"


def _new_name(name: str) -> str:
    """The new name of an old module, or of one within an old package; empty for others."""
    old = next((old for old in MOVED if name == old or name.startswith(f"{old}.")), None)
    return "" if old is None else MOVED[old] + name.removeprefix(old)


def import_moved(name: str) -> ModuleType:
    """Import the module whose old name is ``ipvae_snn.<name>``; else ``AttributeError``."""
    if name not in MOVED:
        raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
    return importlib.import_module(f"{PACKAGE}.{name}")


class _Finder(MetaPathFinder, Loader):
    """Import hook that answers an old name with the module of the new name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return spec_from_loader(fullname, self) if package == PACKAGE and _new_name(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"{PACKAGE}.{_new_name(spec.name.partition('.')[2])}")
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has replaced it by that of the old name


def install() -> None:
    """Add the import hook for the old names."""
    sys.meta_path.insert(0, _Finder())  # else modules of a moved package are found by its path
