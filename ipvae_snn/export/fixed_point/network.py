"""A fixed-point network: integer weights, membranes and tables, for chips with graded spikes."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from ipvae_snn._utils.checks import require_float, require_integer, require_seed
from ipvae_snn._utils.npz_files import read_npz, write_npz
from ipvae_snn.export.constants import samples
from ipvae_snn.export.fixed_point.arithmetic import (
    CLAMP_CELLS,
    LOG_CELLS,
    ExactProduct,
    Ints,
    Words,
    dither,
    exp_cell,
    interpolate,
    log_table,
    poisson,
    shift,
    soft_clamp,
)

FORMAT, VERSION = "ipvae_snn.FixedPoint", 1
Emission = Literal["rounded", "poisson"]
EMISSIONS = get_args(Emission)


@dataclass(frozen=True, eq=False, repr=False)
class FixedPoint:
    """A model in integers, made by :func:`~ipvae_snn.export.fixed_point.convert.to_fixed_point`.

    A timestep uses no floats: membranes, weights, spikes, tables and random words are integers, and
    numpy computes the same ones as a chip. :meth:`save` documents the fields.

    Raises:
        TypeError, ValueError: fields that do not fit together, or integers that could overflow.

    >>> from ipvae_snn import IPVAE
    >>> from ipvae_snn.export.fixed_point.convert import to_fixed_point
    >>> fixed = to_fixed_point(IPVAE(16, 32), weight_bits=8, state_bits=16)
    >>> spk, mem = fixed.run(torch.randn(5, 16), num_steps=10)
    >>> spk.shape, spk.dtype
    ((10, 5, 32), dtype('int32'))
    >>> fixed.decode(torch.from_numpy(spk[-1]).float()).shape
    torch.Size([5, 16])
    """

    emission: str
    weight_bits: Annotated[int, 2, 16]
    state_bits: Annotated[int, 8, 16]
    input_bits: Annotated[int, 2, 16]
    spike_bits: Annotated[int, 1, 15]
    input_fraction: Annotated[int, -32, 32]
    mem_fraction: Annotated[int, 1, 12]
    acc_fraction: Annotated[int, 5, 19]
    rate_fraction: Annotated[int, 16, 20]
    lateral_shift: Annotated[int, 0, 31]
    leak: Annotated[int, 0, 2**14]
    leak_shift: Annotated[int, -31, 31]
    decoder_fraction: Annotated[int, -64, 64]
    input_weight: Annotated[Ints, "int16", "MK"]
    input_shift: Annotated[Ints, "int8", "K"]
    lateral: Annotated[Ints, "int16", "KK"]
    reset: Annotated[Ints, "int32", "K"]
    bias: Annotated[Ints, "int32", "K"]
    mem_init: Annotated[Ints, "int32", "K"]
    decoder: Annotated[Ints, "int16", "MK"]
    clamp_table: Annotated[Ints, "int32", "C"]
    exp_table: Annotated[Ints, "int32", "E"]
    log_table: Annotated[Ints, "int32", "L"]
    notes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.emission not in EMISSIONS:
            raise ValueError(f"emission must be one of {EMISSIONS}, got {self.emission!r}")
        for name in declared(int):
            require_declared(getattr(self, name), name)
        sizes = {
            "C": len(self.clamp_table) >> CLAMP_CELLS << CLAMP_CELLS | 1,
            "E": (1 << (self.state_bits - exp_cell(self.mem_fraction))) + 1,
            "L": 2**LOG_CELLS + 1,
        }
        for name, (dtype, axes) in declared(str).items():
            values = getattr(self, name)
            shape = tuple(map(sizes.setdefault, axes, values.shape))
            if values.dtype != dtype or values.shape != shape or not values.size:
                got = f"{values.dtype} of shape {values.shape}"
                raise ValueError(f"{name} must be {dtype} of shape {shape}, got {got}")
        self._require_no_overflow()

    def _require_no_overflow(self) -> None:
        """Raise ``ValueError`` unless all integers fit their bits for every possible input."""
        feed, lateral, reset, bias, mem_init, shifts = (
            getattr(self, name).astype(np.int64)
            for name in ("input_weight", "lateral", "reset", "bias", "mem_init", "input_shift")
        )
        dropped, top = self.acc_fraction - self.mem_fraction, 1 << (self.state_bits - 1)
        max_weight = max(np.abs(feed).max(), np.abs(lateral).max())
        drive = np.abs(feed).sum(0) << (self.input_bits - 1)
        inhibition = (np.abs(lateral).sum(0) << self.lateral_shift) + np.abs(reset)
        acc = shift(drive, shifts) + (inhibition << self.spike_bits) + np.abs(bias)
        acc += shift(top * self.leak, self.leak_shift) + (2 * top << max(dropped, 0))
        # Tables must not decrease, the slope of the clamp's is at most 1, and the products that
        # interpolate rates must fit.
        clamps, rates = (np.diff(t.astype(np.int64)) for t in (self.clamp_table, self.exp_table))
        fits = {
            "tables": len(clamps) > 0
            and min(self.clamp_table[0], self.exp_table[0], clamps.min(), rates.min()) >= 0
            and clamps.max() <= (1 << (self.acc_fraction - CLAMP_CELLS)) + 1
            and int(rates.max()) << exp_cell(self.mem_fraction) < 2**31
            and np.array_equal(self.log_table, log_table(self.rate_fraction)),
            "lateral weights of a neuron on itself": not np.diag(lateral).any(),
            "weights": max_weight < 1 << (self.weight_bits - 1),
            "membranes": -top <= mem_init.min() and mem_init.max() < top and dropped > 0,
            "sums": max(2 * drive.max(), acc.max()) < 2**31 and np.abs(shifts).max() <= 31,
        }
        for name, fit in fits.items():
            if not fit:
                raise ValueError(f"{name} do not fit the bits that are declared for them")

    @property
    def label(self) -> str:
        """Short name in tables."""
        return f"fixed point, {self.weight_bits}-bit weights, {self.emission}"

    def unroll(self, x: Tensor, num_steps: int, seed: int = 0) -> Iterator[Tensor]:
        """Spike counts, float32 of shape (B, K), one timestep after the other; see :meth:`run`."""
        return (torch.from_numpy(spk).float() for spk, _ in self._timesteps(x, num_steps, seed))

    def run(self, x: Tensor, num_steps: int, seed: int = 0) -> tuple[Ints, Ints]:
        """Infer x, (B, M), shown at every timestep.

        Args:
            x: rounded to integers of ``input_bits`` bits; values outside their range saturate.
            num_steps: T ≥ 1.
            seed: of the random words of ``emission="poisson"``.

        Returns:
            (spk, mem), int32 of shape (T, B, K): counts, and membranes with ``mem_fraction``
            fraction bits.

        Raises:
            TypeError: x is not a floating-point tensor.
            ValueError: x of another shape, or with NaN or infinity.
        """
        timesteps = list(self._timesteps(x, num_steps, seed))
        spk, mem = (np.stack(values) for values in zip(*timesteps, strict=True))
        return spk, mem

    def decode(self, spk: Tensor) -> Tensor:
        """Reconstruction Φz of counts, or mean counts, of shape (..., K); float32 (..., M)."""
        require_float(spk, "spk")
        weight = torch.from_numpy(self.decoder).float() * 2.0**-self.decoder_fraction
        if spk.shape[-1:] != weight.shape[1:]:
            raise ValueError(f"spk must have shape (..., {len(weight.T)}), got {tuple(spk.shape)}")
        return spk.cpu().float() @ weight.mT

    def _timesteps(self, x: Tensor, num_steps: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
        """(spk, mem) of each timestep; validates the arguments now, not at the first timestep."""
        top = 2 ** (self.input_bits - 1)
        scaled = samples(x, len(self.input_weight), "x") * 2.0**self.input_fraction
        quantised = np.clip(np.rint(scaled), -top, top - 1).astype(np.int32)
        return self._infer(quantised, require_integer(num_steps, "num_steps"), require_seed(seed))

    def _infer(self, x: Ints, num_steps: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
        inhibit, words = ExactProduct(self.lateral), Words(seed, len(x) * len(self.bias))
        drive = shift(ExactProduct(self.input_weight)(x), self.input_shift)
        current = (drive - self.bias).astype(np.int32)
        low, dropped = -(1 << (self.state_bits - 1)), self.acc_fraction - self.mem_fraction
        mem, spk = np.broadcast_to(self.mem_init, current.shape), np.zeros_like(current)
        # Rates of all possible membranes, computed once; a chip interpolates those it needs.
        table, states = self.exp_table.astype(np.int64), np.arange(-2 * low)
        rates = interpolate(table, states, exp_cell(self.mem_fraction)).astype(np.int32)
        max_count = 2**self.spike_bits - 1
        counts = np.minimum(shift(rates, -self.rate_fraction), max_count).astype(np.int32)
        for timestep in range(num_steps):
            acc = current - (inhibit(spk) << self.lateral_shift) - spk * self.reset
            if self.leak:
                acc -= shift(mem * self.leak, self.leak_shift).astype(np.int32)
            acc = (mem << dropped) + soft_clamp(acc, self.clamp_table, self.acc_fraction)
            acc = soft_clamp(acc, self.clamp_table, self.acc_fraction)
            mem = (acc + dither(timestep, len(self.bias), dropped)) >> dropped
            mem = np.clip(mem, low, -low - 1)
            if self.emission == "rounded":
                spk = counts[mem - low]
            else:
                rate = rates[mem - low].ravel()
                spk = poisson(rate, timestep, words, self.log_table, max_count).reshape(mem.shape)
            yield spk, mem

    def save(self, path: str | Path) -> None:
        """Write all numbers and tables to one ``.npz`` file, atomically.

        Strings ``format``, ``emission``, ``notes`` (n,), and integers (0-d): ``version`` (1) and

        ==================  ======================================================================
        weight_bits         w: |weights| ≤ 2^(w−1) − 1
        state_bits          s: membranes are signed s-bit integers
        input_bits          i: inputs are signed i-bit integers, −2^(i−1) to 2^(i−1) − 1
        spike_bits          p: counts are at most 2ᵖ − 1
        input_fraction      fraction bits of inputs: x is shown as round(x · 2^input_fraction), ties
                            to even
        mem_fraction        F: fraction bits of membranes, in nats
        acc_fraction        A: fraction bits of the accumulator, in nats; 32 bits suffice for it
        rate_fraction       R: fraction bits of rates, in spikes per timestep
        lateral_shift       left shift of lateral sums to A fraction bits
        leak, leak_shift    pull of the membrane to 0: mem · leak · 2^leak_shift
        decoder_fraction    fraction bits of the decoder
        ==================  ======================================================================

        and arrays, for M inputs and K neurons:

        ==================  ======  ======  ======================================================
        input_weight        int16   (M, K)  from input m to neuron k
        input_shift         int8    (K,)    left shift of weighted inputs to A bits, or −right shift
        lateral             int16   (K, K)  inhibition of neuron k by spikes of i; diagonal 0
        reset               int32   (K,)    inhibition of a neuron by its own spikes, A bits
        bias                int32   (K,)    α · (tonic inhibition − leak · mem_init), A bits
        mem_init            int32   (K,)    membrane before the first timestep, F bits
        decoder             int16   (M, K)  readout: x̂ = Σ_k decoder · spk · 2^−decoder_fraction
        clamp_table         int32   (C,)    A bits, 16 cells per nat from −8 on
        exp_table           int32   (E,)    R bits, rates; 2^max(F − 6, 0) membranes per cell
        log_table           int32   (257,)  R bits, −log(m/2), 256 cells for m from 1 to 2
        ==================  ======  ======  ======================================================

        One timestep t = 0, 1, …; ``>>`` rounds down, ``shift(v, n)`` is v << n, or, for n < 0,
        (v + 2^(−n−1)) >> −n; ``read(table, v, f)`` = table[v >> f] + (((table[(v >> f) + 1] −
        table[v >> f]) · (v mod 2ᶠ)) >> f)::

            drive[k] = shift(Σ_m x[m] · input_weight[m, k], input_shift[k]) − bias[k]   # once

            clamp(v) = p − 8·2ᴬ − read(clamp_table, p, A − 4)
                       with p = v + 8·2ᴬ, kept within 0 … (C − 1)·2^(A−4) − 1
            acc = drive[k] − ((Σ_i spk[i] · lateral[i, k]) << lateral_shift) − spk[k] · reset[k]
                  − shift(mem[k] · leak, leak_shift)
            acc = clamp((mem[k] << (A − F)) + clamp(acc))
            dither = ((t · 0xC13FA9A9 + k · 0x91E10DA5) mod 2³²) >> (32 − (A − F))
            mem[k] = (acc + dither) >> (A − F), kept within −2^(s−1) … 2^(s−1) − 1
            rate = read(exp_table, mem[k] + 2^(s−1), max(F − 6, 0))

        ``rounded``: spk[k] = min((rate + 2^(R−1)) >> R, 2ᵖ − 1). ``poisson``, for sample b::

            mix(w): w ^= w >> 16; w *= 0x85EBCA6B; w ^= w >> 13; w *= 0xC2B2AE35; w ^= w >> 16
            key = mix(mix(seed mod 2³² + 1) + seed div 2³²)      # all modulo 2³²
            n = 0
            while n < 2ᵖ − 1:
                word = mix(mix(1 + k + K·b) ^ mix(mix(key + t) ^ mix(n + 1))), lowest bit set to 1
                zeros = leading zeros of word; m = lowest 31 bits of (word << zeros)
                rate −= zeros · log_table[0] + read(log_table, m >> 7, 16)
                if rate ≤ 0: stop
                n = n + 1
            spk[k] = n

        Spikes start at 0. All sums and products fit signed 32 bits.
        """
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        write_npz(path, FORMAT, VERSION, content)

    @classmethod
    def load(cls, path: str | Path) -> "FixedPoint":
        """Read a file of :meth:`save`; runs no code from it.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, damaged, or written by a newer version.
        """
        content = read_npz(path, FORMAT, VERSION)
        try:
            notes = tuple(content.pop("notes").tolist())
            values = {name: v if v.ndim else v.item() for name, v in content.items()}
            return cls(**values, notes=notes)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold a valid fixed-point model: {error}") from error


def require_declared(value: Any, name: str) -> int:
    """``value``, if it is an integer within the bounds of the field ``name``."""
    low, high = declared(int)[name]
    if require_integer(value, name, low) > high:
        raise ValueError(f"{name} must be between {low} and {high}, got {value}")
    return int(value)


def declared(kind: type) -> dict[str, tuple[Any, Any]]:
    """Annotated fields of a :class:`FixedPoint`.

    Args:
        kind: ``int`` for the bounds of each integer; ``str`` for dtype and axes of each array, of
            which equal letters are equal sizes.
    """
    hints = get_type_hints(FixedPoint, include_extras=True).items()
    declarations = {
        name: hint.__metadata__ for name, hint in hints if hasattr(hint, "__metadata__")
    }
    return {name: d for name, d in declarations.items() if isinstance(d[0], kind)}
