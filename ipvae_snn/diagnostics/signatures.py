"""The failure signatures: how each is measured, what is healthy, and advice."""

import torch
from torch import Tensor

from ipvae_snn import metrics
from ipvae_snn.diagnostics.observe import Observation
from ipvae_snn.diagnostics.report import Finding

MIN_DISPERSION, MAX_DISPERSION = 0.9, 1.1
MIN_COUNTS = 200
"""Expected counts below which their dispersion is too uncertain: by √(2 / counts) or more."""
MAX_GROWTH, MAX_CLAMPED, MAX_DRIFT = 0.5, 0.05, 0.02
MAX_SWING, MAX_ALTERNATING_SWING, ALTERNATING = 0.9, 0.3, -0.7
MAX_ACTIVE, MIN_LIFETIME, MIN_ACTIVE = 0.5, 0.3, 0.002
MAX_SILENT, MAX_DUPLICATES, DUPLICATE_COSINE = 0.25, 0.05, 0.95
HYPERACTIVE, NEARLY_ALL = 8.0, 0.9
MIN_INPUT, MAX_INPUT = 0.005, 20.0
MIN_DETAIL, MAX_DETAIL_LOST, MAX_DEAD = 0.4, 0.1, 0.5


def input_scale(observed: Observation) -> Finding:
    """Inputs are about as large as images in [0, 1], or as patches of unit variance."""
    x = observed.x
    scale, largest = float(x.square().mean().sqrt()), float(x.max())
    bytes_like = largest > 1 and bool((x.round() == x).all() and (x >= 0).all())
    whole = f" and are whole numbers up to {largest:g}" if bytes_like else ""
    return Finding(
        "input scale",
        MIN_INPUT <= scale <= MAX_INPUT and not bytes_like,
        scale,
        f"inputs have a root mean square of {scale:.3g}{whole} (healthy: {MIN_INPUT:g} to "
        f"{MAX_INPUT:g}, not in whole numbers)",
        "inputs are on another scale than the model is made for: images in [0, 1], patches of unit "
        "variance; divide stored pixels by their largest value (255), or let data.load read them, "
        "and train on that",
    )


def poisson(observed: Observation) -> Finding:
    """Spike counts have the variance of Poisson counts."""
    assert observed.dispersion is not None
    in_range = MIN_DISPERSION <= observed.dispersion <= MAX_DISPERSION
    return Finding(
        "poisson",
        in_range or observed.expected < MIN_COUNTS,
        observed.dispersion,
        f"variance of counts about their rates is {observed.dispersion:.2f} of Poisson's "
        f"(healthy: {MIN_DISPERSION:g} to {MAX_DISPERSION:g})",
        "the estimator does not draw Poisson counts: use midpoint() or rate(), or accept this as "
        "the effect of rounded or binary spikes",
    )


def membranes(observed: Observation) -> Finding:
    """Membranes stay bounded."""
    assert observed.top is not None
    half, tail = len(observed.top) // 2, max(len(observed.top) // 10, 1)
    growth = float(observed.top[-tail:].mean() - observed.top[half : half + tail].mean())
    return Finding(
        "membranes",
        growth < MAX_GROWTH,
        growth,
        f"the highest membrane rises by {growth:.2f} nats over the second half of the timesteps "
        f"(healthy: below {MAX_GROWTH:g})",
        "rates are not inhibited enough: lateral_scale must be above 0, and features must not "
        "vanish, since their squared norm is how much a spike inhibits its own neuron",
    )


def clamp(observed: Observation) -> Finding:
    """Membranes rarely reach the clamp."""
    assert observed.clamped is not None
    return Finding(
        "clamp",
        observed.clamped < MAX_CLAMPED,
        observed.clamped,
        f"{observed.clamped:.1%} of the spikes have a membrane within one nat of the clamp "
        f"(healthy: below {MAX_CLAMPED:.0%})",
        "the clamp limits the rates that the data need: raise it, or let features grow (less "
        "weight decay)",
    )


def free_energy(observed: Observation) -> Finding:
    """The free energy falls and stays low."""
    curve, tail = observed.free_energy, max(len(observed.free_energy) // 10, 1)
    start, lowest, end = float(curve[0]), float(curve.min()), float(curve[-tail:].mean())
    rebound = (end - lowest) / max(start - lowest, 1e-9)
    return Finding(
        "free energy",
        end < start and rebound < 0.5,
        end - start,
        f"free energy goes from {start:.4g} to {end:.4g} nats, minimum {lowest:.4g} (healthy: it "
        "falls and stays low)",
        "inference does not minimise the free energy: check that the model was trained, and with "
        "this lateral_scale; lower step, or train longer",
    )


def convergence(observed: Observation) -> Finding:
    """R² of the rates converges."""
    step, end = metrics.convergence_step(observed.r2.tolist()), len(observed.r2)
    late = observed.r2[-end // 4 :]
    drift = float((late[-10:].mean() - late[:10].mean()).abs())
    converged = step is not None and drift < MAX_DRIFT
    when = f"converges at step {step}" if converged else f"has not converged after {end} steps"
    return Finding(
        "convergence",
        converged,
        float(step if converged and step else end),
        f"R² of the rates {when}, at {float(observed.r2[-10:].mean()):.3f} (healthy: it converges)",
        "inference is slow: run more timesteps, or increase the step size (step), or train with "
        "fewer timesteps",
    )


def oscillation(observed: Observation) -> Finding:
    """Rates do not alternate or jump between timesteps."""
    alternating = observed.turning < ALTERNATING
    limit = MAX_ALTERNATING_SWING if alternating else MAX_SWING
    return Finding(
        "oscillation",
        observed.swing < limit,
        observed.swing,
        f"rates change by {observed.swing:.0%} from one timestep to the next, "
        f"{'up and down alternately' if alternating else 'not alternately'} "
        f"(healthy: below {limit:.0%})",
        "inference overshoots: lower the step size (step), or set lateral_scale back to 1",
    )


def active_neurons(observed: Observation) -> Finding:
    """Few neurons spike in a timestep."""
    return Finding(
        "active neurons",
        observed.active < MAX_ACTIVE,
        observed.active,
        f"{observed.active:.1%} of the neurons spike in a timestep "
        f"(healthy: below {MAX_ACTIVE:.0%})",
        "the code is dense: raise beta or the tonic inhibition (bias), add neurons, or check that "
        "lateral inhibition is on",
    )


def lifetime_sparsity(observed: Observation) -> Finding:
    """A neuron responds to some samples only."""
    weights = observed.counts.sum(0) / observed.counts.sum().clamp(min=1e-12)
    value = float(weights @ metrics.selectivity(observed.counts)) if bool(weights.any()) else 1.0
    return Finding(
        "lifetime sparsity",
        value > MIN_LIFETIME,
        value,
        f"lifetime sparsity of the neurons is {value:.2f}, weighted by their spikes "
        f"(healthy: above {MIN_LIFETIME:g})",
        "neurons respond to all samples alike: check that the samples vary, centre or whiten "
        "them, or raise beta",
    )


def silence(observed: Observation) -> Finding:
    """There are enough spikes."""
    explained = float(metrics.r2(observed.x, observed.x_hat))
    return Finding(
        "silence",
        observed.active >= MIN_ACTIVE or explained > 0.5,
        observed.active,
        f"{observed.active:.2%} of the neurons spike in a timestep and explain "
        f"{max(explained, 0):.0%} of the variance (healthy: at least {MIN_ACTIVE:.1%}, or more "
        "than 50% of the variance)",
        "excessive sparsity: lower beta, beta_start or the tonic inhibition (bias), ramp beta up "
        "more slowly, or raise the initial membranes (mem_init)",
    )


def silent_neurons(observed: Observation) -> Finding:
    """Few neurons hardly ever spike."""
    portion = float((~_firing(observed)).float().mean())
    return Finding(
        "silent neurons",
        portion <= MAX_SILENT,
        portion,
        f"{portion:.1%} of the neurons have less than a hundredth of the mean spike count "
        f"(healthy: {MAX_SILENT:.0%} at most)",
        "silent neurons carry no information: use fewer neurons, or check more samples; in "
        "training, ramp beta up more slowly",
    )


def hyperactive(observed: Observation) -> Finding:
    """No neuron spikes much more than the others on nearly all samples."""
    mean, firing = observed.counts.mean(0), _firing(observed)
    median = float(mean[firing].median()) if bool(firing.any()) else 0.0
    on_nearly_all = (observed.counts > 0).float().mean(0) > NEARLY_ALL
    loud = on_nearly_all & (mean > HYPERACTIVE * max(median, 1e-9)) & (mean > 1)
    return Finding(
        "hyperactive",
        not bool(loud.any()),
        float(loud.sum()),
        f"{int(loud.sum())} neurons spike on nearly all samples, more than {HYPERACTIVE:g} times "
        f"as much as the median neuron; the maximum is {float(mean.max()):.2g} spikes per timestep "
        "(healthy: none)",
        "such a neuron encodes the mean of the data: centre the data, or learn an offset",
    )


def duplicates(observed: Observation) -> Finding:
    """Few features are nearly equal."""
    phi = torch.nn.functional.normalize(observed.weight, dim=0)  # a zero column stays zero
    cosines = (phi.T @ phi).fill_diagonal_(0)
    has_duplicate = cosines.amax(1) > DUPLICATE_COSINE
    portion = float(has_duplicate.float().mean()) if len(cosines) > 1 else 0.0
    return Finding(
        "duplicates",
        portion <= MAX_DUPLICATES,
        portion,
        f"{portion:.1%} of the features have a duplicate (cosine above {DUPLICATE_COSINE:g}; "
        f"healthy: {MAX_DUPLICATES:.0%} at most)",
        "duplicates divide the spikes of one feature: use fewer neurons, or check that lateral "
        "inhibition was on in training",
    )


def smoothing(observed: Observation, shape: tuple[int, int] | None) -> Finding:
    """Reconstructions keep fine detail about as well as coarse."""
    if shape is None or min(shape) < 4:
        return Finding("smoothing", True, 1.0, "not measured: needs the image shape", "")
    spectra = [metrics.radial_spectrum(images, shape) for images in (observed.x, observed.x_hat)]
    # Power per ring: the spectrum is a mean over a ring, whose length grows with its radius.
    power, power_hat = (pairs[:, 0] * pairs[:, 1] for pairs in spectra)
    half, total = len(power) // 2, power.sum().clamp(min=1e-12)
    coarse, fine = (
        float(power_hat[band].sum() / power[band].sum().clamp(min=1e-12))
        for band in (slice(None, half), slice(half, None))
    )
    ratio, fine_portion = fine / max(coarse, 1e-9), float(power[half:].sum() / total)
    return Finding(
        "smoothing",
        ratio > MIN_DETAIL or fine_portion * (1 - fine) < MAX_DETAIL_LOST,
        ratio,
        f"reconstructions keep {fine:.0%} of the power of fine detail, which is "
        f"{fine_portion:.0%} of all, and {coarse:.0%} of the coarse (healthy: a ratio above "
        f"{MIN_DETAIL:g}, or less than {MAX_DETAIL_LOST:.0%} of all power lost)",
        "reconstructions are over-smoothed: train longer, lower beta, add neurons, or whiten data",
    )


def gradient(observed: Observation) -> Finding:
    """Gradients reach the neurons through their spikes."""
    assert observed.gradient is not None
    usable = torch.isfinite(observed.gradient) & (observed.gradient > 0)
    firing = _firing(observed)
    portion = float((~usable[firing]).float().mean()) if bool(firing.any()) else 0.0
    return Finding(
        "gradient",
        portion <= MAX_DEAD,
        portion,
        f"{portion:.1%} of the neurons that spike get no gradient through their spikes (healthy: "
        f"{MAX_DEAD:.0%} at most)",
        "the estimator has no gradient: use midpoint(), and do not set surrogate_disable",
    )


def _firing(observed: Observation) -> Tensor:
    """Which neurons have at least a hundredth of the mean spike count, shape (K,)."""
    mean = observed.counts.mean(0)
    return (mean > 0) & (mean >= 0.01 * mean.mean())
