"""The Poisson neuron as a piece of a NIR graph: exactly but for the draw, or portably."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipvae_snn._utils.checks import require_integer, require_number
from ipvae_snn.export.graphs.pieces import Piece, array, nir_module
from ipvae_snn.neurons.poisson import IPVAENeuron

FORMS, RESETS = ("exact", "portable"), ("zero", "subtract")
LEVELS = 16
"""Thresholds per neuron in the exact form, that is the largest count it can emit."""

MAX_LEVELS = 4096
"""Each is a node of the graph: a chip has no room for more."""


@dataclass(frozen=True)
class Portable:
    """How an iP-VAE neuron becomes an integrate-and-fire neuron; :func:`calibrate` chooses it.

    v' = v + α (gain · (d − b) − zG + (self_return + 1) · diag(G) z),  z = spikes of v over
    θ = α · threshold · diag(G), which reset v. Under subtract reset ``self_return = threshold − 1``
    makes a spike cost exactly diag(G): the fixed point is that of the original. Under zero reset it
    has to give back what is lost above the threshold, too, about another diag(G).

    Attributes:
        reset: ``"subtract"``, integer spikes as in sinabs, or ``"zero"``, as NIR says.
        gain: on the input. Spikes are so many times as frequent; the decoder divides by it.
        threshold: in units of diag(G). Neurons act all at once: where features overlap much, low
            thresholds let them overshoot together and run away.
        self_return: what a spike gives back to its neuron, in units of diag(G).
        decode: factor on the decoder.
    """

    reset: str = "subtract"
    gain: float = 1.0
    threshold: float = 2.0
    self_return: float = 1.0
    decode: float = 1.0

    def __post_init__(self) -> None:
        require_reset(self.reset)
        least = {"gain": 1e-6, "threshold": 1e-6, "decode": 1e-6, "self_return": -math.inf}
        for name, bound in least.items():  # plain floats, which can be written to files
            number = require_number(getattr(self, name), name, least=bound)
            object.__setattr__(self, name, number)

    @classmethod
    def default(cls, reset: str, gram: NDArray) -> "Portable":
        """What does well where no data is at hand to choose by.

        Under subtract reset thresholds of half the largest eigenvalue of G, with its diagonal
        brought to 1, cannot run away (the bound of Jacobi's iteration); under zero reset a neuron
        gives one spike at most.
        """
        if require_reset(reset) == "zero":
            return cls("zero", 0.35, 1.0, 2.0)
        scale = np.sqrt(np.maximum(np.diag(gram), 1e-12 * np.diag(gram).max()))
        largest = float(np.linalg.eigvalsh(gram / np.outer(scale, scale))[-1])
        threshold = max(2.0, 0.5 * largest)
        return cls(reset, 1.0, threshold, threshold - 1)


def require_reset(reset: str) -> str:
    """``reset``; ``ValueError`` unless it is one of those that toolchains have."""
    if reset not in RESETS:
        raise ValueError(f"reset must be one of {RESETS}, got {reset!r}")
    return reset


@dataclass(frozen=True)
class Style:
    """How a network is to be translated.

    Attributes:
        form: ``"exact"`` or ``"portable"``.
        levels: exact form: thresholds per neuron.
        reset: portable form: the reset of the toolchain.
        portable: portable form: what ``calibrate`` chose; ``None`` for each neuron's default.
    """

    form: str = "exact"
    levels: int = LEVELS
    reset: str = "subtract"
    portable: Portable | None = None

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, got {self.form!r}")
        if require_integer(self.levels, "levels") > MAX_LEVELS:
            raise ValueError(f"levels must be at most {MAX_LEVELS}, got {self.levels}")
        require_reset(self.reset)
        if self.portable is not None and self.form != "portable":
            raise ValueError("portable belongs to form='portable': pass the form, too")
        if self.portable is not None and self.portable.reset != self.reset:
            raise ValueError(
                f"portable was chosen for {self.portable.reset} reset, reset is {self.reset!r}: "
                "leave reset out"
            )


def ipvae_piece(neuron: IPVAENeuron, style: Style) -> Piece:
    """The Poisson neuron in the form asked for."""
    if style.form == "exact":
        return exact_piece(neuron, style.levels)
    return portable_piece(neuron, style.portable or style.reset)


@dataclass(frozen=True)
class Constants:
    """What a neuron is made of, as float64 numpy values.

    Attributes:
        step: α. bias: b. mem_init: u_0. leak: of the membrane per timestep, α · leak.
        gram: lateral_scale · G. clamp_loss: what the soft clamp of the step takes, log(1 + e^−c).
    """

    step: float
    bias: NDArray
    mem_init: NDArray
    leak: float
    gram: NDArray
    clamp_loss: float

    @classmethod
    def of(cls, neuron: IPVAENeuron) -> "Constants":
        step = float(neuron.log_step.detach().double().exp())
        return cls(
            step=step,
            bias=neuron.log_bias.detach().cpu().double().exp().numpy(),
            mem_init=neuron.mem_init.detach().cpu().double().numpy(),
            leak=step * neuron.leak,
            gram=neuron.lateral_scale * neuron.gram().detach().cpu().double().numpy(),
            clamp_loss=math.log1p(math.exp(-neuron.clamp)),
        )


def exact_piece(neuron: IPVAENeuron, levels: int = LEVELS) -> Piece:
    """I → Thresholds → Linear(−G) → I: the recursion of u itself, with rounded counts.

    v = u − u_0 starts from 0. Threshold n lies at log(n − ½) − u_0 and adds the n-th spike, so
    that their sum is round(e^u) up to ``levels``. No reset takes place: the diagonal of G
    subtracts, in every toolchain alike. A leaky membrane is LI with τ = 1 / (α · leak) timesteps.
    """
    nir, c = nir_module(), Constants.of(neuron)
    features = (neuron.features,)
    tau = array(1 / c.leak, features) if c.leak else None
    mem = nir.I(array(1, features)) if tau is None else nir.LI(tau, tau, array(0, features))
    nodes = {"2_mem": mem}
    counts = tuple(f"3_count{n:02d}" for n in range(1, levels + 1))
    for n, name in enumerate(counts, 1):
        nodes[name] = nir.Threshold(array(math.log(n - 0.5) - c.mem_init))
    nodes["4_lateral"] = nir.Linear(array(-c.step * c.gram))
    edges = [("2_mem", name) for name in counts] + [(name, "4_lateral") for name in counts]
    return Piece(
        nodes, ("2_mem",), counts, features,
        edges=[*edges, ("4_lateral", "2_mem")],
        gain=c.step,
        bias=array(-c.step * c.bias - c.clamp_loss),
        notes=(
            f"emission: round(e^u), at most {levels}, in place of a Poisson draw",
            f"clamps: left out, but for what the clamp of the step takes at rest, "
            f"{c.clamp_loss:.2g} nats per timestep, which is in the bias",
            *_dropped(neuron),
        ),
    )  # fmt: skip


def portable_piece(neuron: IPVAENeuron, setting: Portable | str) -> Piece:
    """IF with lateral Affine: what most toolchains import; see :class:`Portable`. In place of a
    setting, a reset stands for its default.

    Raises:
        ValueError: no lateral weights, so that there is nothing to set thresholds by.
    """
    nir, c = nir_module(), Constants.of(neuron)
    features, diagonal = (neuron.features,), np.diag(c.gram).copy()
    if not diagonal.max() > 0:
        raise ValueError(
            "the portable form takes thresholds from the diagonal of lateral_scale · G, which is "
            "0 here: train the model first, or use form='exact'"
        )
    # A neuron without a feature never gets a current; a threshold of 0 would divide by it.
    unit = np.where(diagonal > 1e-6 * diagonal.max(), diagonal, np.median(diagonal[diagonal > 0]))
    if isinstance(setting, str):
        portable = Portable.default(setting, c.gram - np.diag(diagonal - unit))
    else:
        portable = setting
    threshold = array(c.step * portable.threshold * unit)
    tau = 1 / c.leak if c.leak else 1.0
    spike = (
        nir.LIF(array(tau, features), array(1, features), array(0, features), threshold)
        if c.leak
        else nir.IF(array(1, features), threshold)
    )
    lateral = -c.gram + np.diag(diagonal + portable.self_return * unit)
    return Piece(
        {
            "2_spike": spike,
            "3_lateral": nir.Affine(array(tau * c.step * lateral), array(0, features)),
        },
        ("2_spike",), ("2_spike",), features,
        edges=[("2_spike", "3_lateral"), ("3_lateral", "2_spike")],
        gain=tau * c.step * portable.gain,
        bias=array(-tau * c.step * portable.gain * c.bias),
        out_scale=portable.decode / portable.gain,
        notes=(
            f"neuron: integrate-and-fire with {portable.reset} reset in place of e^u and a draw",
            f"input gain {portable.gain:.3g}, thresholds {portable.threshold:.3g} and self-return "
            f"{portable.self_return:.3g} times diag(G), decoder times {portable.decode:.3g}",
            "clamps and the initial membrane: left out",
            *_dropped(neuron),
        ),
    )  # fmt: skip


def _dropped(neuron: IPVAENeuron) -> tuple[str, ...]:
    return ("state_quant: left out",) if neuron.state_quant else ()
