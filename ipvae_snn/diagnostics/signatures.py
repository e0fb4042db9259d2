"""The signatures: what is measured of each, what is healthy, and what to do otherwise."""

import torch
from torch import Tensor

from ipvae_snn import metrics
from ipvae_snn.diagnostics.observe import Observation
from ipvae_snn.diagnostics.report import Finding

POISSON = (0.9, 1.1)
MIN_COUNTS = 200
"""Expected counts below which their dispersion says nothing: its error is √(2 / counts) or more."""
MAX_GROWTH, MAX_CLAMPED, MAX_DRIFT = 0.5, 0.05, 0.02
MAX_SWING, MAX_SWING_BY_TURNS, BY_TURNS = 0.9, 0.3, -0.7
MAX_ACTIVE, MIN_LIFETIME, MIN_ACTIVE = 0.5, 0.3, 0.002
MAX_SILENT, MAX_TWINS, TWIN = 0.25, 0.05, 0.95
HYPERACTIVE, EVERYWHERE = 8.0, 0.9
MIN_DETAIL, MAX_DETAIL_LOST, MAX_DEAD = 0.4, 0.1, 0.5


def poisson(seen: Observation) -> Finding:
    """Counts scatter about their rates as Poisson counts do."""
    assert seen.dispersion is not None
    low, high = POISSON
    healthy = seen.expected < MIN_COUNTS or low <= seen.dispersion <= high
    return Finding(
        "poisson", healthy, seen.dispersion,
        f"variance of counts about their rates is {seen.dispersion:.2f} of Poisson's "
        f"(healthy: {low:g} to {high:g})",
        "the estimator does not draw Poisson counts: use midpoint() or rate(), or take this as "
        "the price of rounded or binary spikes",
    )  # fmt: skip


def membranes(seen: Observation) -> Finding:
    """The highest membranes stay where they are."""
    assert seen.top is not None
    half, tail = len(seen.top) // 2, max(len(seen.top) // 10, 1)
    growth = float(seen.top[-tail:].mean() - seen.top[half : half + tail].mean())
    return Finding(
        "membranes", growth < MAX_GROWTH, growth,
        f"the highest membrane rose by {growth:.2f} nats over the second half "
        f"(healthy: below {MAX_GROWTH:g})",
        "nothing stops the rates: lateral_scale must be above 0, and features must not vanish, so "
        "that spikes inhibit their own neuron",
    )  # fmt: skip


def clamp(seen: Observation) -> Finding:
    """Membranes stay below the clamp."""
    assert seen.clamped is not None
    return Finding(
        "clamp", seen.clamped < MAX_CLAMPED, seen.clamped,
        f"{seen.clamped:.1%} of the spikes came within one nat of the clamp "
        f"(healthy: below {MAX_CLAMPED:.0%})",
        "rates cannot rise as high as the data asks: raise the model's clamp, or let features "
        "grow (less weight decay)",
    )  # fmt: skip


def free_energy(seen: Observation) -> Finding:
    """The free energy falls, and stays low."""
    curve, tail = seen.free_energy, max(len(seen.free_energy) // 10, 1)
    start, lowest, end = float(curve[0]), float(curve.min()), float(curve[-tail:].mean())
    span = max(start - lowest, 1e-9)
    left = (end - lowest) / span
    return Finding(
        "free energy", end < start and left < 0.5, end - start,
        f"F went from {start:.4g} to {end:.4g} nats, lowest {lowest:.4g} "
        "(healthy: it falls, and stays down)",
        "inference leads away from what the decoder says: was the model trained, with this "
        "lateral_scale? lower step, or train longer",
    )  # fmt: skip


def convergence(seen: Observation) -> Finding:
    """R² of the rates settles."""
    step, end = metrics.convergence_step(seen.r2.tolist()), len(seen.r2)
    late = seen.r2[-end // 4 :]
    drift = float((late[-10:].mean() - late[:10].mean()).abs())
    settled = step is not None and drift < MAX_DRIFT
    where = (
        f"R² of rates settled at step {step}"
        if settled
        else f"R² of rates had not settled after {end} steps"
    )
    return Finding(
        "convergence", settled, float(step if settled and step else end),
        f"{where}, at {float(seen.r2[-10:].mean()):.3f} (healthy: it settles)",
        "inference is slow: run more timesteps, or take larger steps (a larger step, or a model "
        "trained with fewer timesteps)",
    )  # fmt: skip


def oscillation(seen: Observation) -> Finding:
    """Rates stay where they are, but for noise."""
    most = MAX_SWING_BY_TURNS if seen.turning < BY_TURNS else MAX_SWING
    return Finding(
        "oscillation", seen.swing < most, seen.swing,
        f"rates change by {seen.swing:.0%} from one timestep to the next, "
        f"{'by turns' if seen.turning < BY_TURNS else 'not by turns'} (healthy: below {most:.0%})",
        "inference overshoots: lower the step, or bring lateral_scale back to 1",
    )  # fmt: skip


def active_neurons(seen: Observation) -> Finding:
    """A timestep has spikes of a small part of the neurons."""
    return Finding(
        "active neurons", seen.active < MAX_ACTIVE, seen.active,
        f"{seen.active:.1%} of the neurons spike in a timestep (healthy: below {MAX_ACTIVE:.0%})",
        "the code is dense: raise beta or the tonic inhibition (bias), add neurons, or check that "
        "lateral inhibition is on",
    )  # fmt: skip


def lifetime_sparsity(seen: Observation) -> Finding:
    """A neuron answers to some of the samples only."""
    share = seen.counts.sum(0) / seen.counts.sum().clamp(min=1e-12)
    value = float(share @ metrics.selectivity(seen.counts)) if bool(share.any()) else 1.0
    return Finding(
        "lifetime sparsity", value > MIN_LIFETIME, value,
        f"{value:.2f} of the neuron behind a spike, on average (healthy: above {MIN_LIFETIME:g})",
        "neurons answer to everything alike: is the data varied? centre or whiten it, raise beta",
    )  # fmt: skip


def silence(seen: Observation) -> Finding:
    """There are spikes enough to say something."""
    explained = float(metrics.r2(seen.x, seen.x_hat))
    healthy = seen.active >= MIN_ACTIVE or explained > 0.5
    return Finding(
        "silence", healthy, seen.active,
        f"{seen.active:.2%} of the neurons spike in a timestep, and explain "
        f"{max(explained, 0):.0%} of the variance (healthy: {MIN_ACTIVE:.1%} or more, or half "
        "of it)",
        "excessive sparsity: lower beta, beta_start or the tonic inhibition (bias), ramp beta up "
        "more slowly, or start membranes higher",
    )  # fmt: skip


def silent_neurons(seen: Observation) -> Finding:
    """Few neurons hardly ever fire."""
    share = float((~_firing(seen)).float().mean())
    return Finding(
        "silent neurons", share <= MAX_SILENT, share,
        f"{share:.1%} of the neurons give less than a hundredth of the mean neuron's spikes "
        f"(healthy: {MAX_SILENT:.0%} at most)",
        "they carry nothing: fewer neurons would do, or more samples show what they are for; in "
        "training, ramp beta up more slowly",
    )  # fmt: skip


def hyperactive(seen: Observation) -> Finding:
    """No neuron outshouts the others on nearly all samples."""
    mean, firing = seen.counts.mean(0), _firing(seen)
    usual = float(mean[firing].median()) if bool(firing.any()) else 0.0
    everywhere = (seen.counts > 0).float().mean(0) > EVERYWHERE
    loud = everywhere & (mean > HYPERACTIVE * max(usual, 1e-9)) & (mean > 1)
    return Finding(
        "hyperactive", not bool(loud.any()), float(loud.sum()),
        f"{int(loud.sum())} neurons fire on nearly all samples, {HYPERACTIVE:g} times as much as "
        f"the median neuron; the loudest gives {float(mean.max()):.2g} spikes per timestep "
        "(healthy: none)",
        "such a neuron stands for the mean of the data: centre the data, or learn an offset",
    )  # fmt: skip


def duplicates(seen: Observation) -> Finding:
    """Few features are there twice."""
    phi = torch.nn.functional.normalize(seen.weight, dim=0)  # a zero column stays zero
    alike = (phi.T @ phi).fill_diagonal_(0)
    share = float((alike.amax(1) > TWIN).float().mean()) if len(alike) > 1 else 0.0
    return Finding(
        "duplicates", share <= MAX_TWINS, share,
        f"{share:.1%} of the features have a twin (cosine above {TWIN:g}; healthy: "
        f"{MAX_TWINS:.0%} at most)",
        "twins share the spikes of one: fewer neurons would do, or lateral inhibition was off in "
        "training",
    )  # fmt: skip


def smoothing(seen: Observation, shape: tuple[int, int] | None) -> Finding:
    """Reconstructions keep fine detail about as well as coarse."""
    if shape is None or min(shape) < 4:
        return Finding("smoothing", True, 1.0, "not looked at: no image shape was given", "")
    spectra = [metrics.radial_spectrum(images, shape) for images in (seen.x, seen.x_hat)]
    given, kept = (pairs[:, 0] * pairs[:, 1] for pairs in spectra)  # a ring is as long as it is far
    half, total = len(given) // 2, given.sum().clamp(min=1e-12)
    coarse, fine = (
        float(kept[band].sum() / given[band].sum().clamp(min=1e-12))
        for band in (slice(None, half), slice(half, None))
    )
    detail, share = fine / max(coarse, 1e-9), float(given[half:].sum() / total)
    healthy = detail > MIN_DETAIL or share * (1 - fine) < MAX_DETAIL_LOST
    return Finding(
        "smoothing", healthy, detail,
        f"fine detail, {share:.0%} of the power, keeps {fine:.0%} of it, coarse {coarse:.0%} "
        f"(healthy: a ratio above {MIN_DETAIL:g}, or less than {MAX_DETAIL_LOST:.0%} of all "
        "power lost)",
        "reconstructions are over-smoothed: train longer, lower beta, add neurons, or whiten data",
    )  # fmt: skip


def gradient(seen: Observation) -> Finding:
    """Learning reaches the neurons through their spikes."""
    assert seen.gradient is not None
    usable = torch.isfinite(seen.gradient) & (seen.gradient > 0)
    firing = _firing(seen)
    share = float((~usable[firing]).float().mean()) if bool(firing.any()) else 0.0
    return Finding(
        "gradient", share <= MAX_DEAD, share,
        f"no gradient comes through the spikes of {share:.1%} of the neurons that fire (healthy: "
        f"{MAX_DEAD:.0%} at most)",
        "the estimator passes nothing back: use midpoint(), and leave surrogate_disable off",
    )  # fmt: skip


def _firing(seen: Observation) -> Tensor:
    """Which neurons give a hundredth of the mean neuron's spikes or more, shape (K,)."""
    mean = seen.counts.mean(0)
    return (mean > 0) & (mean >= 0.01 * mean.mean())
