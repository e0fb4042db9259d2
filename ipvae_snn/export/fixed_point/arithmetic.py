"""Integer arithmetic of a chip: shifts, interpolated tables, random words, Poisson counts.

All results are exact 32-bit integers (``int32``, random words ``uint32``), computed by numpy for
whole populations. Fixed point: an integer n with f fraction bits stands for n · 2⁻ᶠ.
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
"""2³²/ρ and 2³²/ρ² for the plastic number ρ: increments per timestep and neuron of Roberts'
low-discrepancy R₂ sequence; odd, so that its period is 2³²."""


def shift(values: Any, by: Any) -> Any:
    """values · 2ᵇʸ, rounded to the nearest integer, ties upwards.

    >>> shift(np.array([5, -5, 6]), np.array([1, -1, -2])).tolist()
    [10, -2, 2]
    """
    by = np.asarray(by, dtype=np.int64)
    right = np.maximum(-by, 0)
    return ((values << np.maximum(by, 0)) + ((1 << right) >> 1)) >> right


def interpolate(table: Ints, position: Ints, fraction: int) -> Ints:
    """Linear interpolation in a table, at positions in cells with ``fraction`` fraction bits.

    >>> interpolate(np.array([0, 8, 24]), np.array([0, 1, 2, 3]), fraction=1).tolist()
    [0, 4, 8, 16]
    """
    cell, rest = position >> fraction, position & ((1 << fraction) - 1)
    start = table[cell]
    values: Ints = start + (((table[cell + 1] - start) * rest) >> fraction)
    return values


def clamp_table(clamp: float, fraction: int) -> Ints:
    """The correction log(1 + exp(v − clamp)) of a soft clamp at v = −8, −8 + 1/16, … ≥ clamp + 8.

    c − softplus(c − v) = v − log(1 + exp(v − c)). Beyond the table, the result is within e⁻⁸ nats
    of c.
    """
    cells = (math.ceil(clamp) + 16) << CLAMP_CELLS
    nats = MEM_FLOOR + np.arange(cells + 1) / 2**CLAMP_CELLS
    return fixed(np.logaddexp(0, nats - clamp), fraction)


def soft_clamp(nats: Ints, table: Ints, fraction: int) -> Ints:
    """:func:`ipvae_snn.functional.soft_clamp` with ``fraction`` bits, by a :func:`clamp_table`."""
    cell, floor = fraction - CLAMP_CELLS, int(MEM_FLOOR) << fraction
    position = np.clip(nats - floor, 0, ((len(table) - 1) << cell) - 1)
    clamped: Ints = position + floor - interpolate(table, position, cell)
    return clamped


def exp_table(mem_fraction: int, state_bits: int, clamp: float, fraction: int) -> Ints:
    """Rates min(eᵘ, e^clamp) over the whole range of the membrane."""
    cells = 1 << (state_bits - exp_cell(mem_fraction))
    nats = (np.arange(cells + 1) - cells / 2) * 2.0 ** (exp_cell(mem_fraction) - mem_fraction)
    return fixed(np.exp(np.minimum(nats, clamp)), fraction)


def exp_cell(mem_fraction: int) -> int:
    """log₂ of the number of membrane values per cell of :func:`exp_table`."""
    return max(mem_fraction - EXP_CELLS, 0)


def log_table(fraction: int) -> Ints:
    """−log(m/2) at m = 1, 1 + 1/256, … 2: from log 2 down to 0."""
    mantissa = 1 + np.arange(2**LOG_CELLS + 1) / 2**LOG_CELLS
    return fixed(-np.log(mantissa / 2), fraction)


def fixed(values: NDArray[np.float64], fraction: int) -> Ints:
    """The nearest integers with ``fraction`` fraction bits."""
    return np.rint(values * 2.0**fraction).astype(np.int32)


def dither(timestep: int, neurons: int, bits: int) -> Ints:
    """Dither to add before ``bits`` bits are dropped, (K,), evenly spread over time.

    Increments below one unit are neither lost nor always rounded up: after any number of
    timesteps, the sum of the rounded increments is right within a few units, without any memory
    per neuron.

    >>> sum(((5 + dither(t, 1, bits=4)) >> 4).item() for t in range(1600))  # 1600 · 5/16 = 500
    499
    """
    phase = np.arange(neurons, dtype=np.uint32) * np.uint32(PLASTIC[1])
    return ((phase + np.uint32(timestep * PLASTIC[0] % 2**32)) >> (32 - bits)).astype(np.int32)


def mix(word: Ints) -> Ints:
    """A bijective hash of 32-bit words (MurmurHash3's finaliser)."""
    word = (word ^ (word >> 16)) * np.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * np.uint32(0xC2B2AE35)
    word = word ^ (word >> 16)
    return word


class Words:
    """Counter-based random 32-bit words: a function of seed, neuron, timestep and draw, no state.

    word = mix(mix(neuron) ^ mix(mix(key + timestep) ^ mix(draw))), neuron = 1 + k + K · sample,
    draw = 1, 2, …, key = mix(mix(seed mod 2³² + 1) + seed div 2³²), all modulo 2³².
    """

    def __init__(self, seed: int, neurons: int) -> None:
        low, high = np.array([[seed % 2**32], [seed >> 32]], dtype=np.uint32)
        self._key = mix(mix(low + np.uint32(1)) + high)
        self._neurons = mix(np.arange(1, neurons + 1, dtype=np.uint32))

    def draw(self, timestep: int, draw: int, neurons: Any) -> Ints:
        """One word per neuron, for an index of neurons."""
        time, number = np.array([[timestep % 2**32], [draw]], dtype=np.uint32)
        return mix(self._neurons[neurons] ^ mix(mix(self._key + time) ^ mix(number)))


def exponential(word: Ints, table: Ints) -> Ints:
    """−log u, in the fraction bits of :func:`log_table`, for u = (word | 1) / 2³².

    u = m · 2^−(zeros + 1) with 1 ≤ m < 2: leading zeros of the word count halvings, the table has
    −log(m/2).
    """
    # numpy cannot count leading zeros, but the exponent bits of the word as float64 can: integers
    # below 2⁵³ are exact.
    bits = (word | np.uint32(1)).astype(np.float64).view(np.int64)
    zeros = (31 + 1023 - (bits >> 52)).astype(np.int32)
    mantissa = ((bits >> 28) & 0xFFFFFF).astype(np.int32)
    time: Ints = zeros * table[0] + interpolate(table, mantissa, 24 - LOG_CELLS)
    return time


def poisson(rate: Ints, timestep: int, words: Words, table: Ints, max_count: int) -> Ints:
    """Poisson counts (N,): the number of unit-rate exponential arrivals before time ``rate``.

    Args:
        rate: (N,), with the fraction bits of ``table``.
        timestep: index of the timestep.
        words: source of random words.
        table: a :func:`log_table`.
        max_count: larger counts saturate.
    """
    counts = np.zeros_like(rate)
    time_left, active = rate, np.arange(len(rate))
    for draw in range(1, max_count + 1):
        time_left = time_left - exponential(words.draw(timestep, draw, active), table)
        within = time_left > 0
        time_left, active = time_left[within], active[within]
        if not len(active):
            break
        counts[active] = draw
    return counts


class ExactProduct:
    """Integer rows times an integer matrix by floating-point matrix products.

    Sums of integers are exact in any order while they fit the mantissa: below 2²⁴ in float32 and
    2⁵³ in float64, which includes all 32-bit sums.
    """

    def __init__(self, matrix: Ints) -> None:
        self._column_sum = int(np.abs(matrix.astype(np.int64)).sum(0).max())
        self._matrix: dict[type, Ints] = {t: matrix.astype(t) for t in (np.float32, np.float64)}

    def __call__(self, rows: Ints) -> Ints:
        bound = int(np.abs(rows).max()) * self._column_sum
        dtype = np.float32 if bound < 2**24 else np.float64
        sums: Ints = (rows.astype(dtype) @ self._matrix[dtype]).astype(np.int32)
        return sums
