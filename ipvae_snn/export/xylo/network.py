"""A network on the Xylo chip: input encoding, decoding, and files."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.checks import require_float, require_integer, require_number
from ipvae_snn._utils.npz_files import read_npz, write_npz
from ipvae_snn.export.constants import Floats, samples
from ipvae_snn.export.xylo.chip import HIGH, LOW, MAX_INPUT_SPIKES, Ints, XyloChip, XyloState
from ipvae_snn.export.xylo.simulator import simulate

FORMAT, FORMAT_VERSION = "ipvae_snn.XyloNetwork", 1


@dataclass(frozen=True, eq=False)
class XyloNetwork:
    """A network for the Xylo chip, with the encoder and decoder that run on its host.

    Made by :func:`~ipvae_snn.export.xylo.convert.to_xylo` or :meth:`load`.

    Attributes:
        chip: configuration of the chip.
        weight: decoder, (M, K): a spike of neuron k adds column k to the reconstruction.
        drive: (M, K), in LSB of the membrane per timestep and unit of input.
        spikes_per_unit: input spikes per timestep and unit of input; 0 for input as bias.
        notes: what was approximated, and by how much.

    Raises:
        ValueError: inconsistent shapes, or values that are not finite.
    """

    chip: XyloChip
    weight: NDArray[np.floating[Any]]
    drive: Floats
    spikes_per_unit: float
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pixels, features = len(self.weight), len(self.chip.threshold)
        if not self.weight.shape == self.drive.shape == (pixels, features):
            raise ValueError(
                f"weight and drive must have shape (M, {features}), got {self.weight.shape} and "
                f"{self.drive.shape}"
            )
        for name in ("weight", "drive"):
            values = getattr(self, name)
            if values.dtype.kind != "f" or not np.isfinite(values).all():
                raise ValueError(f"{name} must hold finite numbers")
        require_number(self.spikes_per_unit, "spikes_per_unit", least=0)
        channels = (pixels, 2 * pixels) if self.spikes_per_unit else (0,)
        if len(self.chip.weights_in) not in channels:
            raise ValueError(
                f"{pixels} values need {' or '.join(map(str, channels))} input channels, the chip "
                f"is configured for {len(self.chip.weights_in)}"
            )

    @property
    def label(self) -> str:
        """Short name in tables."""
        how = "spikes" if self.spikes_per_unit else "bias"
        return f"Xylo, 8-bit weights, input as {how}"

    def encode(self, x: Tensor, num_steps: int) -> Ints:
        """Input spikes (T, B, channels), 0 to 15, whose running sum follows the input.

        Error diffusion: n_t = ⌊(t + 1) a + ½⌋ − ⌊t a + ½⌋ with a = min(|x| · spikes_per_unit, 15),
        so that t timesteps carry t · a spikes, to half a spike. With signed input, channels 2m and
        2m + 1 carry the positive and the negative part of x_m.

        Args:
            x: (B, M).
            num_steps: T ≥ 1.

        Raises:
            TypeError, ValueError: x is not a finite floating-point tensor of that shape, or is
                negative in a network for non-negative input.
        """
        return np.stack(list(self._encoded(x, num_steps)))

    def bias(self, x: Tensor) -> Ints:
        """Bias per sample and neuron, (B, K): the chip's own if the input is spikes."""
        values = samples(x, len(self.weight), "x")
        if self.spikes_per_unit:
            return np.broadcast_to(self.chip.bias, (len(values), len(self.chip.bias)))
        return np.rint(self.chip.bias + values @ self.drive).clip(LOW, HIGH).astype(np.int16)

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts of each timestep, (B, K), float32.

        Args:
            x: (B, M), shown at every timestep.
            num_steps: T ≥ 1.
            seed: not used; the network is deterministic.
        """
        states = self.chip.steps(self._encoded(x, num_steps), self.bias(x))
        return (torch.from_numpy(state.spk.astype(np.float32)) for state in states)

    def run(self, x: Tensor, num_steps: int) -> XyloState:
        """All states and spikes of all timesteps, integers of shape (T, B, ·)."""
        return self.chip.run(self.encode(x, num_steps), self.bias(x))

    def simulate(self, x: Tensor, num_steps: int) -> XyloState:
        """:meth:`run` in xylosim, SynSense's simulator: the same integers, sample by sample.

        Raises:
            ImportError: xylosim is not installed; the message names the extra.
        """
        return simulate(self.chip, self.encode(x, num_steps), self.bias(x))

    def decode(self, spk: Tensor) -> Tensor:
        """Reconstruction (..., M) of spike counts, or mean counts, (..., K)."""
        require_float(spk, "spk")
        if spk.shape[-1:] != (self.weight.shape[1],):
            raise ValueError(
                f"spk must have shape (..., {self.weight.shape[1]}), got {tuple(spk.shape)}"
            )
        return spk @ torch.from_numpy(self.weight).to(spk).T

    def save(self, path: str | Path) -> None:
        """Write to one ``.npz`` file, atomically."""
        content = asdict(self)
        content |= content.pop("chip")
        content["notes"] = np.array(self.notes, dtype=np.str_)
        write_npz(path, FORMAT, FORMAT_VERSION, content)

    @classmethod
    def load(cls, path: str | Path) -> "XyloNetwork":
        """Read a file of :meth:`save`; runs no code from it.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, damaged, or written by a newer version.
        """
        content = read_npz(path, FORMAT, FORMAT_VERSION)
        try:
            return cls(
                XyloChip(**{field.name: content[field.name] for field in fields(XyloChip)}),
                content["weight"],
                content["drive"],
                float(content["spikes_per_unit"]),
                tuple(map(str, content["notes"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold a valid network: {error}") from error

    def _encoded(self, x: Tensor, num_steps: int) -> Iterator[Ints]:
        """Input spikes (B, channels) of each timestep; validates the arguments now."""
        rate = self._input_rate(x)
        steps = range(require_integer(num_steps, "num_steps"))
        return (
            (np.floor((t + 1) * rate + 0.5) - np.floor(t * rate + 0.5)).astype(np.uint8)
            for t in steps
        )

    def _input_rate(self, x: Tensor) -> Floats:
        """Mean spikes per timestep of each channel, (B, channels)."""
        values = samples(x, len(self.weight), "x")
        channels = len(self.chip.weights_in)
        if not channels:
            return values[:, :0]
        if channels == 2 * values.shape[1]:
            values = np.stack([values, -values], axis=2).reshape(len(values), channels).clip(min=0)
        elif values.min() < 0:
            raise ValueError(
                f"x goes down to {values.min():g}, but the network was made from data without "
                "negative values: give to_xylo data that has them"
            )
        return np.minimum(values * self.spikes_per_unit, MAX_INPUT_SPIKES)
