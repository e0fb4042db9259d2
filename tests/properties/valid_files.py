"""Small valid files of every kind that the package writes, and readers that use their content."""

import itertools
import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ipvae_snn import IPVAE, IPVAENeuron, data, export, fit
from ipvae_snn.runs.folder import RunConfig, describe, read_recipe
from ipvae_snn.training.checkpoint import read_checkpoint
from tests.formats import make as formats

PIXELS, NEURONS = 6, 5


def _model() -> IPVAE:
    torch.manual_seed(0)
    return IPVAE(PIXELS, NEURONS, init_std=0.3).eval()


def _images() -> torch.Tensor:
    return torch.rand(3, PIXELS, generator=torch.Generator().manual_seed(1))


def make_model(path: Path) -> None:
    _model().save(path)


def read_model(path: Path) -> None:
    """Load and infer; spikes and reconstruction of a valid file are finite."""
    model = IPVAE.load(path)
    out = model.run(torch.zeros(2, model.in_features, dtype=model.weight.dtype), 2, seed=0)
    require_numbers(out.spk, out.mem, out.nll, out.kl)
    require_numbers(model.decode(out.state.spk))


def make_checkpoint(path: Path) -> None:
    """A checkpoint of an interrupted training."""
    with suppress(KeyboardInterrupt):
        fit(formats.model(), formats.Interrupted(), formats.CONFIG, checkpoint=path)


def use_checkpoint(path: Path) -> None:
    """Resume from it; a valid checkpoint gives a valid one at the end of training."""
    try:
        fit(formats.model(), formats.inputs(), formats.CONFIG, checkpoint=path)
    except FloatingPointError as error:  # finite values from which training diverges
        raise ValueError(error) from error
    content = read_checkpoint(path)
    assert content["iteration"] == formats.CONFIG.iterations
    require_numbers(*content["weights"].values())


def make_config(path: Path) -> None:
    images = data.Dataset(_images(), _images(), (2, 3), "samples", "three images")
    chosen = RunConfig(data={"source": "images.npy"}, model={"latents": NEURONS})
    path.write_text(json.dumps(describe(chosen, images), indent=2))


def use_config(path: Path) -> None:
    with tempfile.TemporaryDirectory() as run:
        shutil.copy(path, Path(run) / "config.json")
        read_recipe(run)


def make_exact_nir(path: Path) -> None:
    export.write(path, export.to_nir(_model()))


def make_portable_nir(path: Path) -> None:
    model = _model()
    portable = export.calibrate(model, _images(), reset="subtract")
    export.write(path, export.to_nir(model, form="portable", portable=portable))


def make_network_nir(path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(PIXELS, NEURONS), IPVAENeuron(NEURONS), nn.Linear(NEURONS, 2))
    export.write(path, export.to_nir(net, input_shape=(PIXELS,)))


def make_foreign_nir(path: Path) -> None:
    """A graph of another program: time constants in seconds, and names that HDF5 cannot hold."""
    import nir

    tau, one, shape = np.full(PIXELS, 2e-3), np.ones(PIXELS), np.array([PIXELS])
    inner = [nir.Input(shape), nir.LIF(tau, one, 0 * one, one), nir.Output(shape)]
    inner = nir.NIRGraph(
        dict(zip(("", "pop", "."), inner, strict=True)), [("", "pop"), ("pop", ".")]
    )
    nodes = {"in": nir.Input(shape), "a/b": nir.CubaLI(tau, tau, one, 0 * one), "a.b": inner}
    nodes["out"] = nir.Output(shape)
    export.write(path, nir.NIRGraph(nodes, list(itertools.pairwise(nodes))))


def read_foreign_nir(path: Path) -> None:
    """Read the graph and run it, a millisecond per timestep."""
    network = export.from_nir(path, dt=1e-3)
    if np.prod(network.input_shape, dtype=float) < 1e6:
        for timestep in network.unroll(torch.zeros(2, *network.input_shape), 2):
            require_numbers(*timestep)


def read_nir(path: Path) -> None:
    """Read the graph and run it, as the original model if it has one, and deterministically."""
    graph = export.read(path)
    original, deterministic = (export.from_nir(graph, stochastic=s) for s in (None, False))
    if isinstance(original, IPVAE):
        require_numbers(original.run(torch.zeros(2, original.in_features), 2, seed=0).mem)
    size = np.ravel(next(iter(graph.input_type.values()))).tolist()
    if np.prod(size, dtype=float) < 1e6:
        for timestep in deterministic.unroll(torch.zeros(2, *map(int, size)), 2):
            require_numbers(*timestep)


def make_fixed_point(path: Path) -> None:
    export.to_fixed_point(_model(), weight_bits=8, state_bits=12).save(path)


def read_fixed_point(path: Path) -> None:
    """Load and infer; counts and membranes stay within their bits."""
    fixed = export.FixedPoint.load(path)
    spk, mem = fixed.run(torch.zeros(2, len(fixed.input_weight)), 2)
    assert spk.min() >= 0
    assert spk.max() < 2**fixed.spike_bits
    assert np.abs(mem.astype(np.int64)).max() <= 2 ** (fixed.state_bits - 1)
    require_numbers(fixed.decode(torch.from_numpy(spk[-1]).float()))


def make_xylo(path: Path) -> None:
    export.to_xylo(_model(), _images()).save(path)


def read_xylo(path: Path) -> None:
    """Load and infer."""
    network = export.XyloNetwork.load(path)
    x = torch.zeros(2, len(network.weight))
    spk = list(network.unroll(x, 2))[-1]
    require_numbers(spk, network.decode(spk))


def require_numbers(*tensors: torch.Tensor) -> None:
    for tensor in tensors:
        assert torch.isfinite(tensor).all(), "the output holds NaN or infinity"
