"""A photograph as spikes: coded as a whole, decoded over time, and cleaned of noise.

Trains a convolutional iP-VAE on photographs, or loads one; codes a photograph that it has not
learned from; and denoises some, beside total variation and wavelets of scikit-image. Each of the
three has one strength, chosen on another noisy photograph. The noise of a photograph is whitened
along with it: the model takes its variance as part of σ², times the strength.

    python examples/whole_images/photograph.py                  # photographs of scikit-image
    python examples/whole_images/photograph.py --data path/to/photos --budget 40min
    python examples/whole_images/photograph.py --data path/to/photos --run runs/photos
"""

import argparse
import copy
import json
import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.fft import dctn, idctn
from skimage.restoration import denoise_tv_chambolle, denoise_wavelet
from torch import Tensor

from ipvae_snn import data, metrics, plotting
from ipvae_snn.cli import main as ipvae_snn
from ipvae_snn.functional import LOG_SCALE_BOUND
from ipvae_snn.models import ConvIPVAE, ImageCode, decode_image, encode_image, load_model

NOISE = 0.1
"""Standard deviation, of pixels in [0, 1]."""
SHOWN = (1, 4, 16, 64)
MOST = 192
"""Rows and columns that are denoised, at most."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="natural", help="photographs (default: scikit-image's)")
    parser.add_argument("--run", type=Path, help="run folder of train --decoder conv, or a model")
    parser.add_argument("--budget", default="6min", help="time to train for (default: 6min)")
    parser.add_argument("--photographs", type=int, default=8, help="how many are denoised")
    parser.add_argument("--quick", action="store_true", help="smoke test, takes seconds")
    parser.add_argument("--out", type=Path, default=Path("whole_image.png"))
    return parser.parse_args()


def model_of(arguments: argparse.Namespace, folder: Path) -> ConvIPVAE:
    """That of the run, or a new one."""
    run = arguments.run
    if run is None:
        run = folder / "run"
        length = ["--budget", arguments.budget]
        if arguments.quick:
            length = ["--iterations", "20", "--latents", "8", "--eval-steps", "9", "--samples", "2"]
        command = ["train", "--data", str(arguments.data), "--decoder", "conv", "--out", str(run)]
        if ipvae_snn([*command, *length]):
            raise SystemExit("the training failed")
    model = load_model(run if run.is_file() else run / "model.pt")
    assert isinstance(model, ConvIPVAE)
    assert model.whitening is not None
    return model


def photographs(arguments: argparse.Namespace) -> tuple[Tensor, list[Tensor]]:
    """One to choose strengths on, from those to learn from, and those that are held out."""
    dataset = data.load(arguments.data, treat="images", patches=(0, 2))
    assert isinstance(dataset.train, data.Crops)
    assert isinstance(dataset.test, data.Crops)
    return dataset.train.images[0], dataset.test.images[: arguments.photographs]


# -- denoising ----------------------------------------------------------------------------------


def by_spikes(model: ConvIPVAE, noisy: Tensor, strength: float, steps: int) -> Tensor:
    """What spikes explain, and of the rest what is not noise.

    The model says x = Φz + e with e of variance σ². To the whitened photograph noise was added,
    with variance N(f) at each frequency. So inference takes σ² + strength · mean N for σ², and of
    the rest r = x − Φz, as an estimate of e, σ² / (σ² + N(f)) is kept.
    """
    whitening, model = model.whitening, copy.deepcopy(model)
    assert whitening is not None
    assert model.raw_log_scale is not None
    assert model.log_scale is not None
    height, width = noisy.shape[1:]
    spectrum = (NOISE * whitening.config()["matrix"][0][0] * whitening.gain(height, width)) ** 2
    variance = float(model.log_scale.detach().exp().square())
    log_scale = 0.5 * math.log(variance + strength * float(spectrum.mean()))
    model.raw_log_scale.data.fill_(LOG_SCALE_BOUND * math.atanh(log_scale / LOG_SCALE_BOUND))
    x = whitening(noisy)
    with torch.no_grad():
        started = model.run(x[None], steps, record=(), seed=0).state
        spk = model.run(x[None], steps, record=("spk",), state=started, seed=1).spk
        explained = model.decode(spk.mean(0), (height, width))[0]
    rest = dctn((x - explained)[0].numpy(), norm="ortho")
    rest = idctn(rest * (variance / (variance + spectrum)).numpy(), norm="ortho")
    return whitening.inverse(explained + torch.from_numpy(rest).float())


def by_variation(noisy: Tensor, strength: float) -> Tensor:
    return torch.from_numpy(denoise_tv_chambolle(noisy[0].numpy(), weight=strength))[None]


def by_wavelets(noisy: Tensor, strength: float) -> Tensor:
    found = denoise_wavelet(noisy[0].numpy(), sigma=strength * NOISE, rescale_sigma=True)
    return torch.from_numpy(np.asarray(found, np.float32))[None]


def denoised(
    model: ConvIPVAE, first: Tensor, others: list[Tensor], steps: int
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """PSNR of each photograph by each method, and the pictures of the first."""
    ways: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
        "iP-VAE": (lambda x, s: by_spikes(model, x, s, steps), (0.06, 0.12, 0.25, 0.5, 1.0)),
        "total variation": (by_variation, (0.05, 0.08, 0.12, 0.18)),
    }
    if find_spec("pywt") is None:
        print("wavelets are left out: pip install PyWavelets")
    else:
        ways["wavelets"] = (by_wavelets, (0.5, 0.75, 1.0, 1.5))
    generator = torch.Generator().manual_seed(0)
    pairs = [(x, x + NOISE * torch.randn(x.shape, generator=generator)) for x in (first, *others)]
    found = {"noisy": [metrics.psnr(x, noisy) for x, noisy in pairs[1:]]}
    shown = {"original": pairs[1][0], "noisy": pairs[1][1]}
    for name, (way, strengths) in ways.items():
        clean, noisy = pairs[0]
        strength = max(strengths, key=lambda s: metrics.psnr(clean, way(noisy, s)))
        results = [way(noisy, strength).float() for _, noisy in pairs[1:]]
        found[name] = [metrics.psnr(x, y) for (x, _), y in zip(pairs[1:], results, strict=True)]
        shown[name] = results[0]
        print(f"{name}: {np.mean(found[name]):.2f} dB, strength {strength}")
    return found, shown


def within(image: Tensor) -> Tensor:
    """The middle of a large photograph."""
    height, width = (min(side, MOST) for side in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return image[:, top : top + height, left : left + width]


# -- picture ------------------------------------------------------------------------------------


def draw(
    path: Path, model: ConvIPVAE, image: Tensor, found: dict[str, list[float]],
    shown: dict[str, Tensor],
) -> None:  # fmt: skip
    code = encode_image(model, image, SHOWN, seed=0)
    decoded, spk = decode_image(model, code), code.spk[-1].float()
    size = (model.kernel_size[0], model.kernel_size[1])
    order = metrics.by_tuning(model.weight.detach(), size)
    angles, frequencies, _ = metrics.feature_tuning(model.weight.detach(), size)
    phases = metrics.feature_phase(model.weight.detach(), size)
    figure = Figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplots(3, 5)
    titled: list[tuple[str, Callable[[Axes], object]]] = [
        ("a photograph", lambda ax: plotting.photograph(image, ax=ax)),
        *(
            (f"step {step}: {metrics.psnr(image, x_hat):.1f} dB", partial(_photograph, x_hat))
            for step, x_hat in zip(code.steps, decoded, strict=True)
        ),
        ("features by orientation", lambda ax: plotting.dictionary(
            model.weight.detach(), size, order=order, ax=ax)),
        ("spikes at each place", lambda ax: plotting.activity(spk, ax=ax)),
        ("their orientation", lambda ax: plotting.orientations(spk, angles, ax=ax)),
        ("cost", partial(_draw_costs, image, code, decoded)),
        ("its features", lambda ax: plotting.tiling(angles, frequencies, phases, ax=ax)),
        *(
            (f"{name}" + (f": {found[name][0]:.1f} dB" if name in found else ""),
             partial(_photograph, picture))
            for name, picture in shown.items()
        ),
    ]  # fmt: skip
    for ax in axes.flat[len(titled) :]:
        ax.set_axis_off()
    for ax, (title, draw_in) in zip(axes.flat, titled, strict=False):
        draw_in(ax)
        ax.set_title(title, fontsize=9)
    figure.savefig(path, dpi=130)
    print(f"picture: {path}")


def _photograph(image: Tensor, ax: Axes) -> None:
    plotting.photograph(image, ax=ax)


def _draw_costs(image: Tensor, code: ImageCode, decoded: Tensor, ax: Axes) -> None:
    pixels = image[0].numel()
    bits = [float(metrics.entropy(spk.float(), 0)) / pixels for spk in code.spk]
    active = [float((spk > 0).sum()) / pixels for spk in code.spk]
    ax.semilogx(code.steps, bits, "o-", color=plotting.BLUE, label="bits per pixel")
    ax.semilogx(code.steps, active, "o-", color=plotting.ORANGE, label="active neurons per pixel")
    ax.set_xlabel("timestep")
    ax.set_ylim(0, 1.25 * max(bits))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=7)


def main() -> None:
    arguments = parse()
    with TemporaryDirectory() as folder:
        model = model_of(arguments, Path(folder))
    first, others = photographs(arguments)
    if arguments.quick:
        others = others[:1]
    steps = 4 if arguments.quick else 64
    found, shown = denoised(model, within(first), [within(x) for x in others], steps)
    draw(arguments.out, model, others[0], found, shown)
    arguments.out.with_suffix(".json").write_text(
        json.dumps({"noise": NOISE, "psnr": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
