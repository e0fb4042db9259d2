"""A network on the Xylo chip with its host: what goes in, what comes out, and files."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ipvae_snn._utils.checks import require_finite, require_float, require_integer, require_number
from ipvae_snn.export.npz_files import read_npz, write_npz
from ipvae_snn.export.xylo.chip import HIGH, LOW, MAX_INPUT_SPIKES, XyloChip, XyloState
from ipvae_snn.export.xylo.simulator import simulate

FORMAT, FORMAT_VERSION = "ipvae_snn.XyloNetwork", 1


@dataclass(frozen=True, eq=False)
class XyloNetwork:
    """A network for the Xylo chip, and what its host does before and after.

    Made by :func:`~ipvae_snn.export.xylo.convert.to_xylo` or :meth:`load`.

    Attributes:
        chip: what the chip is configured with.
        weight: (M, K), a spike of neuron k adds column k to the reconstruction.
        drive: (M, K), LSB of the membrane per timestep and unit of input.
        spikes_per_unit: input spikes per timestep and unit of input; 0 for input as bias.
        notes: what was approximated, and by how much.

    Raises:
        ValueError: shapes that do not fit one another.
    """

    chip: XyloChip
    weight: NDArray
    drive: NDArray
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
        """Short name for table rows."""
        how = "spikes" if self.spikes_per_unit else "bias"
        return f"Xylo, 8-bit weights, input as {how}"

    def encode(self, x: Tensor, num_steps: int) -> NDArray:
        """Input spikes (T, B, channels), 0 to 15, that add up to the input at every timestep.

        Error diffusion: n_t = ⌊(t + 1) a + ½⌋ − ⌊t a + ½⌋ with a = min(|x| · spikes_per_unit, 15),
        so that t timesteps carry t · a spikes, to half a spike. Where the network takes signed
        input, channels 2m and 2m + 1 carry the positive and the negative part of x_m.

        Args:
            x: (B, M).
            num_steps: T ≥ 1.

        Raises:
            TypeError, ValueError: x is no finite floating-point tensor of that shape, or negative
                in a network for non-negative input.
        """
        amount = self._amount(x)
        return np.stack(
            [_spikes_at(amount, t) for t in range(require_integer(num_steps, "num_steps"))]
        )

    def bias(self, x: Tensor) -> NDArray:
        """The bias of each neuron for each input, (B, K): the chip's own, where input is spikes."""
        values = checked_inputs(x, len(self.weight), "x")
        if self.spikes_per_unit:
            return np.broadcast_to(self.chip.bias, (len(values), len(self.chip.bias)))
        return np.rint(self.chip.bias + values @ self.drive).clip(LOW, HIGH).astype(np.int16)

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts of each timestep, (B, K), float32.

        Args:
            x: (B, M), shown at every timestep.
            num_steps: T ≥ 1.
            seed: changes nothing; the network is deterministic.
        """
        amount = self._amount(x)
        counts = (_spikes_at(amount, t) for t in range(require_integer(num_steps, "num_steps")))
        states = self.chip.steps(counts, self.bias(x))
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
        """Reconstruction (..., M) of spike counts, or mean counts, (..., K); on the host."""
        require_float(spk, "spk")
        if spk.shape[-1:] != (self.weight.shape[1],):
            raise ValueError(
                f"spk must have shape (..., {self.weight.shape[1]}), got {tuple(spk.shape)}"
            )
        return spk @ torch.from_numpy(self.weight).to(spk).T

    def save(self, path: str | Path) -> None:
        """Write to one .npz file, whole or not at all."""
        content = asdict(self)
        content |= content.pop("chip")
        content["notes"] = np.array(self.notes, dtype=np.str_)
        write_npz(path, FORMAT, FORMAT_VERSION, content)

    @classmethod
    def load(cls, path: str | Path) -> "XyloNetwork":
        """Read a file of :meth:`save`; never runs code from it.

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

    def _amount(self, x: Tensor) -> NDArray:
        """Spikes per timestep of each channel, (B, channels), not yet whole ones."""
        values = checked_inputs(x, len(self.weight), "x")
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


def checked_inputs(x: Tensor, pixels: int, name: str) -> NDArray:
    """Inputs (B, M) in double precision, or an error that names them."""
    require_float(x, name)
    if x.ndim != 2 or x.shape[1] != pixels or not len(x):
        raise ValueError(
            f"{name} must have shape (B, {pixels}) and not be empty, got {tuple(x.shape)}"
        )
    require_finite(x, name)
    return x.detach().cpu().double().numpy()


def _spikes_at(amount: NDArray, t: int) -> NDArray:
    return (np.floor((t + 1) * amount + 0.5) - np.floor(t * amount + 0.5)).astype(np.uint8)
