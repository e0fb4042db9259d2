"""Write one small file of every format with its expected results, for later releases to read.

    python -m tests.formats.make

Run it when a format gets a new version and commit the new files; files of older versions stay.
"""

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

from ipvae_snn import IPVAE, TrainConfig, export, fit
from ipvae_snn.data.sources import InMemory, Samples
from ipvae_snn.export.fixed_point import network as fixed_point
from ipvae_snn.export.graphs import encode
from ipvae_snn.export.xylo import network as xylo
from ipvae_snn.models import base as models
from ipvae_snn.training import checkpoint as checkpoints

FOLDER = Path(__file__).parent
STEPS = 12
CONFIG = TrainConfig(iterations=6, batch=4, steps=3, checkpoint_every=3, progress=False)


def inputs():
    """Samples whose values are exact in every precision."""
    return (torch.arange(10 * 6).reshape(10, 6) * 7 % 13 - 6) / 4


BEFORE_FORMS = "checkpoint-1.pt", "checkpoint-2.pt"
"""Of releases that had the published form alone."""


def model(form=None):
    torch.manual_seed(0)
    return IPVAE(6, 5, init_std=0.5, form=form)


def files():
    """Path of the file of each format in its current version."""
    return {
        "model": FOLDER / f"model-{models.FORMAT_VERSION}.pt",
        "checkpoint": FOLDER / f"checkpoint-{checkpoints.FORMAT_VERSION}.pt",
        "graph": FOLDER / f"graph-{encode.FORMAT_VERSION}.nir",
        "fixed-point": FOLDER / f"fixed-point-{fixed_point.VERSION}.npz",
        "xylo": FOLDER / f"xylo-{xylo.FORMAT_VERSION}.npz",
    }


def results(kind, path):
    """Results of using a file, which every later release must reproduce."""
    x = inputs()
    if kind == "model":
        loaded = IPVAE.load(path)
        return {
            "mem": loaded.run(x, 1, record=("mem",)).mem[0].tolist(),  # before the first draw
            "x_hat": loaded.decode(torch.ones(1, 5)).tolist(),
        }
    if kind == "checkpoint":
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(path, folder)
            form = "published" if Path(path).name in BEFORE_FORMS else None
            return {"history": fit(model(form), x, CONFIG, checkpoint=copy)}
    if kind == "graph":
        network = export.GraphNetwork(export.read(path))
        return {"out": [network(x).tolist() for _ in range(STEPS)]}
    if kind == "fixed-point":
        return {"spk": export.FixedPoint.load(path).run(x, STEPS)[0].tolist()}
    return {"spk": export.XyloNetwork.load(path).run(x, STEPS).spk.tolist()}


class Interrupted(Samples):
    """Samples that interrupt a training in its fourth iteration."""

    features = 6

    def __init__(self):
        self.source, self.reads = InMemory(inputs()), 0

    def __len__(self):
        return len(self.source)

    def read(self, rows):
        self.reads += 1
        if self.reads == 4:
            raise KeyboardInterrupt
        return self.source.read(rows)

    def fingerprint(self):
        return self.source.fingerprint()


def main():
    paths = files()
    if not paths["model"].exists():
        model().save(paths["model"])
    if not paths["checkpoint"].exists():
        with suppress(KeyboardInterrupt):
            fit(model(), Interrupted(), CONFIG, checkpoint=paths["checkpoint"])
    if not paths["graph"].exists():
        export.write(paths["graph"], export.to_nir(model(), form="exact", levels=2))
    if not paths["fixed-point"].exists():
        export.to_fixed_point(model(), emission="rounded").save(paths["fixed-point"])
    if not paths["xylo"].exists():
        export.to_xylo(model(), inputs()).save(paths["xylo"])
    for kind, path in paths.items():
        expected = path.with_suffix(".json")
        if not expected.exists():
            expected.write_text(json.dumps(results(kind, path)) + "\n")


if __name__ == "__main__":
    main()
