"""The stochastic neuron in NEST: a trained model, simulated there and in this package, compared.

NEST's ``pp_psc_delta`` fires at the rate c₂ exp(c₃ V). With c₂ = 1000/s, c₃ = 1, timesteps of 1 ms,
no dead time and no reset it sends Poisson(e^V) spikes per timestep: its V is the membrane u, in
nats. Lateral synapses, autapses included, have the weights −α G and a delay of one timestep; the
input current is α (d − b). NEST has no soft clamp, so the model is also run here without one (its
floor of −8 nats stays). ``--run`` takes a run folder of ``ipvae-snn train``; the default is a small
model trained on digits.

    pip install nest-simulator==3.10.0
    python examples/nest_poisson.py
"""

import argparse
import copy
import math
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ipvae_snn import IPVAE, TrainConfig, data, fit, metrics, plotting
from ipvae_snn.neurons.base import State
from ipvae_snn.neurons.poisson import CLAMP_MAX
from ipvae_snn.runs import read_config, recorded_data

COLOURS = {"as trained": "#808080", "without clamps": "#0072B2", "NEST": "#D55E00"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder of ipvae-snn train")
    parser.add_argument("--steps", type=int, default=256, help="timesteps")
    parser.add_argument("--images", type=int, default=32, help="held-out images")
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("nest_poisson.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.images = 20, 2
    return arguments


def trained(arguments: argparse.Namespace) -> tuple[IPVAE, data.Dataset]:
    """The model of a run with held-out data, or a small model that is trained on digits now."""
    if arguments.run is not None:
        run = read_config(arguments.run)
        sizes, seed = (0, arguments.images), run["training"]["seed"]
        images = data.load(**recorded_data(arguments.run, run), patches=sizes, seed=seed)
        return IPVAE.load(arguments.run / "model.pt"), images
    images, iterations = data.load("digits"), 10 if arguments.quick else 400
    torch.manual_seed(0)
    model = IPVAE(64, 64)
    config = TrainConfig(iterations=iterations, lr=5e-3, beta=16.0, grad_clip=3e3, progress=False)
    fit(model, images.train, config)
    return model, images


def in_torch(model: IPVAE, x: Tensor, steps: int, seed: int = 0) -> State:
    out = model.run(x, steps, record=("spk", "mem"), seed=seed)
    return State(out.spk.double(), out.mem.double())


def currents(model: IPVAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """α (d − b) of every image, (B, K), in nats per timestep, and α G, (K, K), in nats per spike.

    b has the variance term of the exact form.
    """
    neuron = model.neuron
    step, gram = neuron.log_step.exp().double(), neuron.gram()
    drive = neuron.drive(x) - neuron.tonic(gram)
    return step * drive.double(), step * neuron.lateral_scale * gram.double()


def in_nest(nest: ModuleType, model: IPVAE, x: Tensor, steps: int) -> State:
    """Counts and membranes, shape (T, B, K), of one population of K neurons per image."""
    nest.ResetKernel()
    nest.verbosity = nest.VerbosityLevel.ERROR
    nest.resolution = 1.0
    drive, gram = currents(model, x)
    intensity = {"c_1": 0.0, "c_2": 1000.0, "c_3": 1.0, "dead_time": 0.0, "with_reset": False}
    # With a time constant of 1e9 ms, V leaks by 1e-9 of itself per timestep.
    passive = {"C_m": 1.0, "tau_m": 1e9, "V_m": model.neuron.mem_init.tolist()}
    synapses = {"synapse_model": "static_synapse", "weight": -gram.mT.numpy(), "delay": 1.0}
    neurons = nest.Create("pp_psc_delta", drive.numel(), params=intensity)
    for image, current in enumerate(drive.tolist()):
        population = neurons[image * len(gram) : (image + 1) * len(gram)]
        population.set({**passive, "I_e": current})
        nest.Connect(population, population, "all_to_all", synapses)
    counter = nest.Create("spike_recorder")
    meter = nest.Create("multimeter", params={"record_from": ["V_m"], "interval": 1.0})
    nest.Connect(neurons, counter)
    nest.Connect(meter, neurons)
    nest.Simulate(steps + 1.0)  # values recorded at t are available after t + 1

    def index(events: dict) -> tuple[np.ndarray, np.ndarray]:
        return events["times"].round().astype(int) - 1, events["senders"] - neurons[0].global_id

    spk, mem = np.zeros((2, steps + 1, drive.numel()))
    # Each spike is one event, also several of one neuron in one timestep: sum them to counts.
    np.add.at(spk, index(counter.events), 1)
    mem[index(meter.events)] = meter.events["V_m"]
    return State(*(torch.as_tensor(a[:steps].reshape(steps, *drive.shape)) for a in (spk, mem)))


def recursion_error(model: IPVAE, x: Tensor, course: State) -> float:
    """Largest deviation, in nats, of the membranes from u_t = u_{t−1} + α (d − b − z_{t−1} G)."""
    drive, gram = currents(model, x)
    before = torch.cat([torch.zeros_like(course.spk[:1]), course.spk[:-1]])
    mem = model.neuron.mem_init + (drive - before @ gram).cumsum(0)
    return (mem - course.mem).abs().max().item()


def count_table(course: State) -> list[tuple[str, float, float]]:
    """Observed frequency of each count, and the one expected for Poisson(e^u)."""
    rows, left = [], [float(course.spk.numel())] * 2
    while left[1] > 10 and len(rows) < 13:
        count = len(rows)
        log_p = count * course.mem - course.mem.exp() - math.lgamma(count + 1)
        rows.append((str(count), (course.spk == count).sum().item(), log_p.exp().sum().item()))
        left = [left[0] - rows[-1][1], left[1] - rows[-1][2]]
    _, seen, expected = rows.pop()  # the last row also holds all larger counts
    return [*rows, (f"≥ {len(rows)}", seen + left[0], expected + left[1])]


def main() -> None:
    arguments = parse()
    os.environ["PYNEST_QUIET"] = "1"
    try:
        import nest
    except ImportError:
        sys.exit("this needs NEST, some 300 MB: pip install nest-simulator==3.10.0")
    model, images = trained(arguments)
    model.requires_grad_(False)
    if model.neuron.leak:
        sys.exit(
            f"this needs a model without leak, and the leak of this one is {model.neuron.leak}"
        )
    x, steps = images.test[: arguments.images], arguments.steps
    free = copy.deepcopy(model)
    free.neuron.clamp = CLAMP_MAX  # lowers a membrane below 6 by less than 1e-4 nats
    start = time.perf_counter()
    courses = {"NEST": in_nest(nest, model, x, steps)}
    speed = f"{steps} timesteps in NEST {nest.__version__} took {time.perf_counter() - start:.1f} s"
    print(f"{images.description}\n{len(x)} images, K = {model.latents}: {speed}\n")
    courses |= {"without clamps": in_torch(free, x, steps), "as trained": in_torch(model, x, steps)}

    spans = list(pairwise([0, *(t for t in (4, 16, 64, 256) if t < steps), steps]))
    titles = "".join(f"{f'{start + 1}–{stop}':>9}" for start, stop in spans)
    print(f"{'mean R² at timesteps':<28}{titles}")
    curves = {}
    for code in ("rates", "spikes"):
        for name, course in courses.items():
            values = course.mem.exp() if code == "rates" else course.spk
            curve = [metrics.r2(x, model.decode(z)).item() for z in values.float()]
            means = "".join(f"{np.mean(curve[start:stop]):>9.3f}" for start, stop in spans)
            print(f"{f'{code}, {name}':<28}{means}")
            curves[code, name] = curve

    late = {name: course.spk[steps // 2 :].mean(0) for name, course in courses.items()}
    late["another seed"] = in_torch(free, x, steps, seed=1).spk[steps // 2 :].mean(0)
    reference = late["without clamps"]
    print(f"\nmean count in the second half: {reference.mean():.4f} without clamps, and")
    for name in ("NEST", "another seed", "as trained"):
        r = torch.corrcoef(torch.stack([reference.flatten(), late[name].flatten()]))[0, 1]
        print(f"{name:<28}{late[name].mean():9.4f}, correlation by neuron and image {r:.4f}")

    error = recursion_error(model, x, courses["NEST"])
    print(f"\nNEST's membranes against the recursion on its spikes: at most {error:.1e} nats apart")
    rows = count_table(courses["NEST"])
    print(f"{'count in NEST':>14}{'seen':>12}{'of Poisson(e^V)':>18}")
    for count, seen, expected in rows:
        print(f"{count:>14}{seen:>12,.0f}{expected:>18,.1f}")
    chi_square = sum((seen - expected) ** 2 / expected for _, seen, expected in rows)
    print(f"χ² = {chi_square:.1f} over {len(rows)} rows")

    draw(arguments.out, model, images, curves, late)
    print(f"picture: {arguments.out}")


def draw(
    path: Path,
    model: IPVAE,
    images: data.Dataset,
    curves: dict[tuple[str, str], list[float]],
    late: dict[str, Tensor],
) -> None:
    """R² over time, mean counts compared, and reconstructions."""
    reference = late["without clamps"]
    x = images.test[: min(6, len(reference))]
    figure = Figure(figsize=(11.5, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.2, 1, 0.55])
    for (code, name), curve in reversed(curves.items()):
        style = {"lw": 1.4, "label": name} if code == "rates" else {"lw": 0.5, "alpha": 0.7}
        left.plot(range(1, len(curve) + 1), curve, color=COLOURS[name], **style)
    left.set(title="R² of rates (thick) and of spikes (thin)", xlabel="timestep", ylim=(0, 1))
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter("{x:.0f}")
    left.legend(frameon=False, loc="lower right")
    middle.axline((0, 0), slope=1, color="#808080", lw=1)
    middle.plot(reference.flatten(), late["NEST"].flatten(), ".", ms=4, color=COLOURS["NEST"])
    middle.set(title="Mean count, by neuron and image", xlabel="without clamps", ylabel="NEST")
    left.grid(alpha=0.25)
    middle.grid(alpha=0.25)
    decoded = {"here": model.decode(reference.float())[:6]}
    decoded["NEST"] = model.decode(late["NEST"].float())[:6]
    scale = "unit" if images.kind == "samples" else "each"
    plotting.reconstructions(x, decoded, images.shape, scale=scale, ax=right)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
