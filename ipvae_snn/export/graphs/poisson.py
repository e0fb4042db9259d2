"""Poisson neurons in a NIR graph: exact but for the Poisson draw, or as integrate-and-fire."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ipvae_snn._utils.checks import require_integer, require_number
from ipvae_snn.export.constants import NeuronSettings
from ipvae_snn.export.graphs.competition import Competition, unit_of
from ipvae_snn.export.graphs.graph_fragment import Fragment, array, nir_module

Form = Literal["exact", "portable"]
Reset = Literal["zero", "subtract"]
FORMS, RESETS = get_args(Form), get_args(Reset)
LEVELS = 16
"""Thresholds per neuron in the exact form: the largest count of a timestep."""

MAX_LEVELS = 4096
"""Each level is a node of the graph."""


@dataclass(frozen=True)
class Portable:
    """Settings of the portable form: an iP-VAE neuron as an integrate-and-fire neuron.

    v' = v + α (gain · (d − b) − zG + (self_return + 1) · diag(G) z), where z are the spikes of v at
    threshold θ = α · threshold · diag(G), which reset v. With subtract reset, ``self_return =
    threshold − 1`` makes a spike cost exactly diag(G), and the fixed point is that of the original.
    Zero reset also discards what exceeds the threshold: ``self_return`` has to return this too,
    about another diag(G).

    :func:`~ipvae_snn.export.calibrate` chooses the settings on data.

    Attributes:
        reset: ``"subtract"``, integer spikes as in sinabs, or ``"zero"``, as NIR specifies.
        gain: factor on the input, and so on the spike counts; the decoder divides by it.
        threshold: in units of diag(G). Neurons act all at once: if features overlap much, low
            thresholds let them overshoot together and run away.
        self_return: what a spike returns to its own neuron, in units of diag(G).
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
    def default(cls, reset: str, competition: Competition) -> "Portable":
        """Settings for a Gram matrix, without data.

        With subtract reset, the threshold is half the largest eigenvalue of G normalised to a unit
        diagonal, which cannot run away (the bound of Jacobi's iteration). With zero reset, a neuron
        emits at most one spike per timestep.
        """
        if require_reset(reset) == "zero":
            return cls("zero", 0.35, 1.0, 2.0)
        threshold = max(2.0, 0.5 * competition.largest())
        return cls(reset, 1.0, threshold, threshold - 1)


def require_reset(reset: str) -> str:
    """``reset``; ``ValueError`` unless a toolchain has such a reset."""
    if reset not in RESETS:
        raise ValueError(f"reset must be one of {RESETS}, got {reset!r}")
    return reset


@dataclass(frozen=True)
class GraphOptions:
    """How a network is translated to a graph.

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


def poisson_fragment(
    constants: NeuronSettings, competition: Competition, options: GraphOptions
) -> Fragment:
    """Poisson neurons in the form that the options say."""
    if options.form == "exact":
        return _exact(constants, competition, options.levels)
    return _portable(constants, competition, options.portable or options.reset)


def _exact(c: NeuronSettings, competition: Competition, levels: int) -> Fragment:
    """I → Thresholds → Linear(−αG) → I: the recursion of u, with round(e^u) for a draw.

    v = u − u_0 starts from 0. Threshold n lies at log(n − ½) − u_0 and adds the n-th spike, so
    that their sum is round(e^u) up to ``levels``. Nothing resets: the diagonal of G subtracts. A
    leaky membrane is LI with τ = 1 / leak timesteps.
    """
    nir, features = nir_module(), c.bias.shape
    tau = array(1 / c.leak, features) if c.leak else None
    mem = nir.I(array(1, features)) if tau is None else nir.LI(tau, tau, array(0, features))
    nodes = {"2_mem": mem}
    counts = tuple(f"3_count{n:02d}" for n in range(1, levels + 1))
    for n, name in enumerate(counts, 1):
        nodes[name] = nir.Threshold(array(math.log(n - 0.5) - c.mem_init))
    lateral = competition.wiring("4_lateral", c.step)
    nodes |= lateral.nodes
    edges = [("2_mem", name) for name in counts]
    edges += [(name, entry) for name in counts for entry in lateral.entries]
    edges += [*lateral.edges, *((last, "2_mem") for last in lateral.exits)]
    clamp_loss = math.log1p(math.exp(-c.clamp))  # v − clamp(v) at v = 0
    return Fragment(
        nodes,
        entries=("2_mem",),
        exits=counts,
        shape=features,
        edges=edges,
        gain=c.step,
        bias=array(-c.step * c.bias - clamp_loss),
        notes=(
            f"emission: round(e^u), at most {levels}, in place of a Poisson draw",
            "clamps: left out, except what the clamp of the increment takes at rest, "
            f"{clamp_loss:.2g} nats per timestep, which is in the bias",
            *_state_quant_note(c),
        ),
    )


def _portable(c: NeuronSettings, competition: Competition, setting: Portable | str) -> Fragment:
    """IF or LIF with a lateral Affine, as most toolchains import; see :class:`Portable`.

    Args:
        c, competition: the neurons.
        setting: a reset stands for its default setting.

    Raises:
        ValueError: diag(G) is 0, so that no threshold can be set.
    """
    nir, features, diagonal = nir_module(), c.bias.shape, competition.diagonal
    if not diagonal.max() > 0:
        raise ValueError(
            "the portable form takes thresholds from the diagonal of lateral_scale · G, which is "
            "0 here: train the model first, or use form='exact'"
        )
    unit = unit_of(diagonal)
    if isinstance(setting, str):
        setting = Portable.default(setting, competition)
    threshold = array(c.step * setting.threshold * unit)
    if c.leak:
        tau = 1 / c.leak
        spike = nir.LIF(array(tau, features), array(1, features), array(0, features), threshold)
    else:
        tau, spike = 1.0, nir.IF(array(1, features), threshold)
    returned = diagonal + setting.self_return * unit
    lateral = competition.wiring("3_lateral", tau * c.step, returned)
    return Fragment(
        {"2_spike": spike, **lateral.nodes},
        entries=("2_spike",),
        exits=("2_spike",),
        shape=features,
        edges=[
            *(("2_spike", entry) for entry in lateral.entries),
            *lateral.edges,
            *((last, "2_spike") for last in lateral.exits),
        ],
        gain=tau * c.step * setting.gain,
        bias=array(-tau * c.step * setting.gain * c.bias),
        out_scale=setting.decode / setting.gain,
        notes=(
            f"neuron: integrate-and-fire with {setting.reset} reset in place of e^u and a draw",
            f"input gain {setting.gain:.3g}, thresholds {setting.threshold:.3g} and self-return "
            f"{setting.self_return:.3g} times diag(G), decoder times {setting.decode:.3g}",
            "clamps and the initial membrane: left out",
            *_state_quant_note(c),
        ),
    )


def _state_quant_note(c: NeuronSettings) -> tuple[str, ...]:
    return ("state_quant: left out",) if c.state_quant else ()
