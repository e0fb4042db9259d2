"""Inside a model of patches: its features, its lateral weights, and one patch being inferred.

Left: features by orientation. Middle: one neuron and the neurons that its spikes inhibit or excite
most. Right: all lateral weights, neurons in the same order. Also writes a film (.gif) of inference
on one patch.

    python examples/look_inside.py                    # trains on photographs first
    python examples/look_inside.py --run runs/demo    # or uses the model of a run
"""

import argparse
from pathlib import Path

import torch
from hubel_wiesel import patch_model
from matplotlib.figure import Figure

from ipvae_snn import IPVAE, Recorder, data, metrics, plotting


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run folder of a model of square patches")
    parser.add_argument("--steps", type=int, default=60, help="timesteps of the film")
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("look_inside.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps = 8
    return arguments


def main() -> None:
    arguments = parse()
    model, side = patch_model(arguments)
    x = data.load("natural", patches=(0, 40), patch_size=side).test
    draw(arguments.out, model, side)

    with torch.no_grad(), Recorder(model) as recorder:
        model.run(x, arguments.steps, record=(), seed=0)
    spk, mem = recorder.spk, recorder.mem
    busiest = int(spk.sum((0, 2)).argmax())  # the patch with most spikes
    path = plotting.animate(
        arguments.out.with_suffix(".gif"), spk[:, busiest], mem[:, busiest],
        model.decode(spk[:, busiest]).detach(), (side, side), x=x[busiest], every=2, dark=True,
        dpi=80,
    )  # fmt: skip
    print(f"film: {path}, {path.stat().st_size / 1e6:.1f} MB")


def draw(path: Path, model: IPVAE, side: int) -> None:
    gram, shape = model.neuron.gram().detach(), (side, side)
    angle, _, oriented = metrics.feature_tuning(model.weight, shape)
    selective = torch.nonzero(oriented > oriented.median())[:, 0]
    order = selective[angle[selective].argsort()]
    strength = (gram - gram.diagonal().diag()).abs().topk(8).values.mean(1)
    energy = model.weight.detach().square().T.reshape(-1, side, side)
    middle = slice(side // 4, side - side // 4)
    central = energy[:, middle, middle].sum((1, 2)) / energy.sum((1, 2))
    neuron = int((strength * (central > central.quantile(0.9))).argmax())  # not cut off at an edge
    figure = Figure(figsize=(13, 4.7), layout="constrained")
    features, graph, weights = figure.subplots(1, 3, width_ratios=(1, 1, 1.15))
    plotting.dictionary(model.weight, shape, order=order[:256], columns=16, ax=features)
    features.set_title("features of 256 neurons, by orientation", fontsize="medium")
    plotting.competition(gram, neuron, weight=model.weight, shape=shape, neighbours=8, ax=graph)
    graph.set_title(f"neuron {neuron}: nats per spike to its competitors", fontsize="medium")
    plotting.gram(gram, order=order, ax=weights)
    weights.set_title("lateral weights, by orientation", fontsize="medium")
    figure.savefig(path, dpi=120)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
