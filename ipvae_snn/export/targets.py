"""Export targets: the forms that ``ipvae-snn export RUN --to NAME`` can write."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from ipvae_snn._utils.registry import Registry
from ipvae_snn.export.fixed_point.convert import to_fixed_point
from ipvae_snn.export.fixed_point.network import Emission, FixedPoint
from ipvae_snn.export.graphs.calibration import calibrate
from ipvae_snn.export.graphs.encode import to_nir
from ipvae_snn.export.graphs.files import read, write
from ipvae_snn.export.graphs.poisson import LEVELS, Form, Reset
from ipvae_snn.export.sources import GraphSource, rounded_source
from ipvae_snn.export.toolchains import InNorse, InSinabs
from ipvae_snn.export.xylo.convert import to_xylo
from ipvae_snn.export.xylo.network import XyloNetwork
from ipvae_snn.models.convolutional import ConvIPVAE


@runtime_checkable
class Target(Protocol):
    """A form that a model can be exported to: a dataclass, registered under a name.

    Its fields are its options, and need defaults. Each becomes a flag of the command, whose help is
    the sentence under ``Attributes:``; the first line of the docstring describes the target. With
    ``takes_maps: ClassVar[bool] = True`` it is given convolutional models as they are, and images
    (N, C, H, W); else their neurons of all places as one layer, and images as rows. A file of your
    own that defines and registers one, and then calls ``ipvae_snn.cli.main()``, is the
    command with this target added::

        @export.TARGETS.register("mine")
        @dataclass
        class Mine:
            \"""Weights in my format.

            Attributes:
                bits: bits of a weight.
            \"""

            bits: int = 8

            def write(self, model, calibration, path, *, progress): ...
    """

    def write(self, model: Any, calibration: Tensor, path: Path, *, progress: bool) -> list[Any]:
        """Export a model to one file.

        Args:
            model: trained; :func:`~ipvae_snn.export.linear_gaussian` returns its constants.
            calibration: samples (N, M) that the model was trained on.
            path: of the file to write: the name of ``--out``, in a temporary folder.
            progress: show progress bars.

        Returns:
            What :func:`~ipvae_snn.export.report` compares with the model; may be empty.
        """
        ...


TARGETS: Registry[Target] = Registry("export target", Target)


@TARGETS.register("nir")
@dataclass
class NIRTarget:
    """A graph of the Neuromorphic Intermediate Representation, in HDF5 (extra nir).

    Attributes:
        form: exact: no neuron resets; portable: integrate-and-fire, as tools import.
        reset: portable: that of the tool, zero for norse, subtract (default) for sinabs.
        levels: exact: largest count of a neuron (default: 16).
    """

    takes_maps: ClassVar[bool] = True
    form: Form = "exact"
    reset: Reset | None = None
    levels: int | None = None

    def __post_init__(self) -> None:
        other, form = ("levels", "exact") if self.form == "portable" else ("reset", "portable")
        if getattr(self, other) is not None:
            raise ValueError(f"--{other} belongs to --form {form}: leave it out")

    def write(self, model: Any, calibration: Tensor, path: Path, *, progress: bool) -> list[Any]:
        shape = tuple(calibration.shape[1:])
        if self.form == "exact":
            levels = LEVELS if self.levels is None else self.levels
            write(path, to_nir(model, levels=levels, input_shape=shape))
            return [GraphSource(read(path))]
        portable = calibrate(model, calibration, self.reset or "subtract", progress=progress)
        graph = to_nir(model, self.form, portable=portable, input_shape=shape)
        write(path, graph)
        source = GraphSource(read(path))
        if isinstance(model, ConvIPVAE):
            source.notes += ("not run in the toolchain itself: recurrent convolutions",)
            return [source]
        try:
            return [source, (InNorse if portable.reset == "zero" else InSinabs)(graph)]
        except ImportError as error:
            source.notes += (f"not run in the toolchain itself: {error}",)
            return [source]


@TARGETS.register("xylo")
@dataclass
class XyloTarget:
    """8-bit weights and integer states for the Xylo chip, in .npz.

    Attributes:
        gain: spikes per spike of the model.
        threshold: in units of the diagonal of G.
        input_as: events on channels, or biases set for each input.
    """

    gain: float = 1.0
    threshold: float = 2.5
    input_as: Literal["spikes", "bias"] = "spikes"

    def write(self, model: Any, calibration: Tensor, path: Path, *, progress: bool) -> list[Any]:
        to_xylo(model, calibration, **asdict(self)).save(path)
        return [XyloNetwork.load(path)]


@TARGETS.register("fixed-point")
@dataclass
class FixedPointTarget:
    """Integer weights, membranes and tables for chips with graded spikes, in .npz.

    Attributes:
        weight_bits: bits of a weight.
        state_bits: bits of a membrane.
        emission: spikes: rounded rates, or pseudo-random Poisson counts.
        input_bits: bits of an input.
        input_range: inputs beyond ± this saturate; a power of two.
    """

    weight_bits: int = 8
    state_bits: int = 16
    emission: Emission = "rounded"
    input_bits: int = 12
    input_range: float = 8.0

    def write(self, model: Any, calibration: Tensor, path: Path, *, progress: bool) -> list[Any]:
        to_fixed_point(model, **asdict(self)).save(path)
        in_floats = [rounded_source(model)] if self.emission == "rounded" else []
        return [*in_floats, FixedPoint.load(path)]
