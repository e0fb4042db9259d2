"""What a chip does in integers: shifts, interpolated tables, random words, Poisson counts.

Everything here is exact integer arithmetic on 32-bit numbers (``int32``, words ``uint32``); numpy
runs it over whole populations. Fixed point: an integer n with f fraction bits stands for n · 2⁻ᶠ.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipvae_snn.functional import MEM_FLOOR

Ints = NDArray[Any]

CLAMP_CELLS, EXP_CELLS = 4, 6
"""log₂ of the cells per nat of :func:`clamp_table` and :func:`exp_table`."""

LOG_CELLS = 8
"""log₂ of the cells of :func:`log_table`."""

PLASTIC = 0xC13FA9A9, 0x91E10DA5
"""2³²/ρ and 2³²/ρ² for the plastic number ρ: steps that fill the square of time and neuron evenly,
odd, so that none of the 2³² values is left out (Roberts' R₂ sequence)."""


def shift(values: Any, by: Any) -> Any:
    """values · 2ᵇʸ, rounded to the nearest integer, ties upwards.

    >>> shift(np.array([5, -5, 6]), np.array([1, -1, -2])).tolist()
    [10, -2, 2]
    """
    by = np.asarray(by, dtype=np.int64)
    right = np.maximum(-by, 0)
    return ((values << np.maximum(by, 0)) + ((1 << right) >> 1)) >> right


def interpolate(table: Ints, position: Ints, fraction: int) -> Ints:
    """Read a table between its entries: position counts cells, with ``fraction`` fraction bits.

    >>> interpolate(np.array([0, 8, 24]), np.array([0, 1, 2, 3]), fraction=1).tolist()
    [0, 4, 8, 16]
    """
    cell, rest = position >> fraction, position & ((1 << fraction) - 1)
    start = table[cell]
    return start + (((table[cell + 1] - start) * rest) >> fraction)


def clamp_table(clamp: float, fraction: int) -> Ints:
    """What a soft clamp takes away, log(1 + exp(v − clamp)), at v = −8, −8 + 1/16, … ≥ clamp + 8.

    c − softplus(c − v) = v − log(1 + exp(v − c)); beyond the table, the clamp has its limit c
    within e⁻⁸ nats.
    """
    cells = (math.ceil(clamp) + 16) << CLAMP_CELLS
    nats = MEM_FLOOR + np.arange(cells + 1) / 2**CLAMP_CELLS
    return fixed(np.logaddexp(0, nats - clamp), fraction)


def soft_clamp(nats: Ints, table: Ints, fraction: int) -> Ints:
    """:func:`ipvae_snn.functional.soft_clamp` by :func:`clamp_table`, ``fraction`` bits."""
    cell, floor = fraction - CLAMP_CELLS, int(MEM_FLOOR) << fraction
    position = np.clip(nats - floor, 0, ((len(table) - 1) << cell) - 1)
    return position + floor - interpolate(table, position, cell)


def exp_table(mem_fraction: int, state_bits: int, clamp: float, fraction: int) -> Ints:
    """Rates eᵘ over the whole range of the membrane, not above e^clamp."""
    cells = 1 << (state_bits - exp_cell(mem_fraction))
    nats = (np.arange(cells + 1) - cells / 2) * 2.0 ** (exp_cell(mem_fraction) - mem_fraction)
    return fixed(np.exp(np.minimum(nats, clamp)), fraction)


def exp_cell(mem_fraction: int) -> int:
    """log₂ of the membrane's values per cell of :func:`exp_table`."""
    return max(mem_fraction - EXP_CELLS, 0)


def log_table(fraction: int) -> Ints:
    """−log(m/2) at m = 1, 1 + 1/256, … 2: from log 2 down to 0."""
    return fixed(-np.log((1 + np.arange(2**LOG_CELLS + 1) / 2**LOG_CELLS) / 2), fraction)


def fixed(values: NDArray[np.float64], fraction: int) -> Ints:
    """The nearest integers with ``fraction`` fraction bits."""
    return np.rint(values * 2.0**fraction).astype(np.int32)


def dither(timestep: int, neurons: int, bits: int) -> Ints:
    """What is added before ``bits`` bits are dropped, shape (K,): evenly spread over time.

    Increments below one unit are then neither lost nor rounded up always: after n timesteps, the
    sum of what was kept is right within some units, whatever n, at no memory per neuron.

    >>> sum(((5 + dither(t, 1, bits=4)) >> 4).item() for t in range(1600))  # 1600 · 5/16 = 500
    499
    """
    phase = np.arange(neurons, dtype=np.uint32) * np.uint32(PLASTIC[1])
    return ((phase + np.uint32(timestep * PLASTIC[0] % 2**32)) >> (32 - bits)).astype(np.int32)


def mix(word: Ints) -> Ints:
    """A one-to-one map of 32-bit words that scatters every bit (MurmurHash3's finaliser)."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


class Words:
    """Random 32-bit words that depend on seed, neuron, timestep and draw alone; no state.

    word = mix(mix(neuron) ^ mix(mix(key + timestep) ^ mix(draw))), neuron = 1 + k + K · sample,
    draw = 1, 2, …, key = mix(mix(seed mod 2³² + 1) + seed div 2³²), all modulo 2³².
    """

    def __init__(self, seed: int, neurons: int) -> None:
        low, high = np.array([[seed % 2**32], [seed >> 32]], dtype=np.uint32)
        self._key = mix(mix(low + np.uint32(1)) + high)
        self._neurons = mix(np.arange(1, neurons + 1, dtype=np.uint32))

    def draw(self, timestep: int, draw: int, neurons: Any) -> Ints:
        """One word for each of ``neurons`` (an index)."""
        time, number = np.array([[timestep % 2**32], [draw]], dtype=np.uint32)
        return mix(self._neurons[neurons] ^ mix(mix(self._key + time) ^ mix(number)))


def exponential(word: Ints, table: Ints) -> Ints:
    """−log u, in the fraction bits of :func:`log_table`, for u = (word | 1) / 2³².

    u = m · 2^−(zeros + 1) with 1 ≤ m < 2: leading zeros count halvings, the table has −log(m/2).
    """
    # A whole number below 2⁵³ is exact in float64, whose bits are the position of its leading one
    # and what follows: numpy has no instruction that counts leading zeros.
    bits = (word | np.uint32(1)).astype(np.float64).view(np.int64)
    zeros = (31 + 1023 - (bits >> 52)).astype(np.int32)
    mantissa = ((bits >> 28) & 0xFFFFFF).astype(np.int32)
    return zeros * table[0] + interpolate(table, mantissa, 24 - LOG_CELLS)


def poisson(rate: Ints, timestep: int, words: Words, table: Ints, most: int) -> Ints:
    """Poisson counts of ``rate``, shape (N,): how many exponential arrivals lie before it.

    Args:
        rate: in the fraction bits of ``table``, see :func:`log_table`.
        most: largest count.
    """
    counts = np.zeros_like(rate)
    left, alive = rate, np.arange(len(rate))
    for draw in range(1, most + 1):
        left = left - exponential(words.draw(timestep, draw, alive), table)
        going = left > 0
        left, alive = left[going], alive[going]
        if not len(alive):
            break
        counts[alive] = draw
    return counts


class ExactProduct:
    """Integer rows times an integer matrix at the speed of floating point.

    Sums of whole numbers are exact in whatever order as long as none can leave the mantissa: below
    2²⁴ for float32, 2⁵³ for float64, which holds all sums of 32 bits.
    """

    def __init__(self, matrix: Ints) -> None:
        self._gain = int(np.abs(matrix.astype(np.int64)).sum(0).max())
        self._matrix: dict[type, Ints] = {
            kind: matrix.astype(kind) for kind in (np.float32, np.float64)
        }

    def __call__(self, rows: Ints) -> Ints:
        bound = int(np.abs(rows).max()) * self._gain
        kind = np.float32 if bound < 2**24 else np.float64
        sums: Ints = rows.astype(kind) @ self._matrix[kind]
        return sums.astype(np.int32)
