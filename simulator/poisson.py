"""Counting noise: exact Poisson numbers, fast, from kernels that other kernels may call.

Random words are SplitMix64's, read by place: word ``j`` of a stream is ``mix(position + j * step)``, so nothing is
carried from pixel to pixel. Each Poisson number owns `WORDS` places; a kernel that draws many counts its position on by
``WORDS * step`` for each.

A Poisson number of rate 37.1 is the sum of independent ones of rates 32, 5 and 0.1: the first two come from alias
tables of multiples of 16 and of 1/8, one random word each, and the small rest is nearly always zero. That holds
the distribution exactly (to the rounding of doubles), for a third of the time of rejection, which serves only rates
above the tables.

Sources: Steele, Lea & Flood (2014), OOPSLA, "Fast splittable pseudorandom number generators"; Walker (1977), ACM
Trans. Math. Softw. 3, 253, with Vose's (1991) construction; Hormann (1993), Insurance: Mathematics and Economics 12,
39, algorithm PTRS.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, ndtri, xlogy

#: Steps of the two sets of alias tables. The fine ones fill one coarse step.
COARSE, FINE = 16.0, 0.125
_N_FINE = int(COARSE / FINE)

#: Rate from which on rejection takes over from the tables.
TABLES_END = 4096.0

#: Places of a stream that one Poisson number owns; rejection would need 32 failures in a row to ask for more.
WORDS = 64

_LOG_FACTORIAL = np.asarray(gammaln(np.arange(2048) + 1.0))
_NORMAL_CELLS = 4096
#: Middles of 4096 equally likely cells of the normal distribution, scaled to a variance of exactly one.
_NORMAL = np.asarray(ndtri((np.arange(_NORMAL_CELLS) + 0.5) / _NORMAL_CELLS))
_NORMAL = _NORMAL / _NORMAL.std()


class Stream(NamedTuple):
    """What kernels need to draw numbers; hand them the three parts, since a tuple with an array costs them time.

    Attributes
    ----------
    position, step
        Where the stream begins, and the odd number that separates its words.
    tables
        (n,) alias tables, shared by all streams. First a head of one word per table: where it starts (32 bits), its
        first outcome (24), the logarithm (base 2) of its length (8); first the fine tables (rates 0, 1/8, ... below 16),
        then the coarse ones (16, 32, ...). An entry is Walker's cut-off, as a fraction of 52 bits, and the place of
        the other outcome (12): one load, and half the cache of two numbers.
    """

    position: np.uint64
    step: np.uint64
    tables: NDArray[np.uint64]


def new_stream(rng: np.random.Generator) -> Stream:
    """A new stream of random numbers, its seed drawn from ``rng``.

    Steps with too regular bits are refused, as Steele, Lea & Flood do in their section 5.
    """
    while True:
        position, step = (int(x) for x in rng.integers(0, 2**64, size=2, dtype=np.uint64))
        step |= 1
        if (step ^ (step >> 1)).bit_count() >= 24:
            return Stream(np.uint64(position), np.uint64(step), _tables())


@lru_cache(maxsize=1)
def _tables() -> NDArray[np.uint64]:
    """The tables of a `Stream`; 2 MB, made once."""
    rates = np.concatenate([np.arange(_N_FINE) * FINE, np.arange(COARSE, TABLES_END, COARSE)])
    head, body, start = [], [], rates.size
    for rate in rates:
        # Ten standard deviations: what is left out (1e-18) is below the rounding of the sum.
        low = max(0, math.floor(rate - 10.0 * math.sqrt(rate)))
        high = math.ceil(rate + 10.0 * math.sqrt(rate) + 20.0) if rate > 0 else 0
        k = np.arange(low, high + 1)
        weights = np.exp(xlogy(k, rate) - rate - gammaln(k + 1.0))
        bits = max(1, math.ceil(math.log2(k.size)))
        padded = np.zeros(2**bits)
        padded[: k.size] = weights / weights.sum()
        body.append(_alias_table(padded))
        head.append(start << 32 | low << 8 | bits)
        start += body[-1].size
    return np.concatenate([np.array(head, dtype=np.uint64), *body])


@njit(cache=True)
def _alias_table(probability: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Walker's table (n,) by Vose's construction: cut-off (52 bits) and place of the other outcome (12 bits)."""
    n = probability.size
    scaled = probability * n
    table = np.arange(n).astype(np.uint64)
    small = np.empty(n, dtype=np.int64)
    large = np.empty(n, dtype=np.int64)
    n_small = n_large = 0
    for i in range(n):
        if scaled[i] < 1.0:
            small[n_small] = i
            n_small += 1
        else:
            large[n_large] = i
            n_large += 1
    while n_small > 0 and n_large > 0:
        n_small -= 1
        i, j = small[n_small], large[n_large - 1]
        cut = min(np.uint64(scaled[i] * 4503599627370496.0 + 0.5), np.uint64(4503599627370495))
        table[i] = (cut << np.uint64(12)) | np.uint64(j)
        scaled[j] -= 1.0 - scaled[i]
        if scaled[j] < 1.0:
            n_large -= 1
            small[n_small] = j
            n_small += 1
    # What is left over has a share of one but for rounding, and is its own alias.
    return table


@njit(cache=True, inline="always")
def mix(position: np.uint64) -> np.uint64:
    """The 64 random bits at a place of a stream: SplitMix64's finaliser."""
    z = position
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, inline="always")
def uniform(position: np.uint64) -> float:
    """The number in (0, 1) at a place of a stream: 52 bits, never 0 or 1."""
    return float((np.float64(mix(position) >> np.uint64(12)) + 0.5) * 2.0**-52)


@njit(cache=True, inline="always")
def normal(position: np.uint64) -> float:
    """A standard normal number out of 4096 equally likely ones (up to 3.7): enough for the noise of electronics.

    It is made of the twelve bits that `uniform` leaves at the same place, and is independent of that number.
    """
    return float(_NORMAL[np.int64(mix(position) & np.uint64(_NORMAL_CELLS - 1))])


@njit(cache=True)
def log_factorial(k: np.int64) -> float:
    """``log(k!)``: a table, then Stirling's series, whose first left-out term is below 1e-19 there."""
    if k < 2048:
        return float(_LOG_FACTORIAL[k])
    x = k + 1.0
    r = 1.0 / x
    return (x - 0.5) * math.log(x) - x + 0.9189385332046727 + r * (1.0 / 12.0 - r * r * (1.0 / 360.0))


@njit(cache=True, inline="always")
def _from_table(which: np.int64, word: np.uint64, tables: NDArray[np.uint64]) -> np.int64:
    """A Poisson number from one alias table: the word's upper bits choose the column, the rest the outcome.

    Unsigned all over (no test for negative indices), and without a branch that half of the words would mispredict.
    """
    head = tables[np.uint64(which)]
    bits = head & np.uint64(0xFF)
    low = (head >> np.uint64(8)) & np.uint64(0xFFFFFF)
    column = word >> (np.uint64(64) - bits)
    entry = tables[(head >> np.uint64(32)) + column]
    refused = np.uint64(((word << bits) >> np.uint64(12)) >= (entry >> np.uint64(12)))
    return np.int64(low + column + refused * ((entry & np.uint64(0xFFF)) - column))


@njit(cache=True)
def _invert(rate: float, u: float) -> np.int64:
    """Inversion by sequential search, for a small rate."""
    p = math.exp(-rate)
    k = np.int64(0)
    while u > p and k < 60:
        u -= p
        k += 1
        p *= rate / k
    return k


@njit(cache=True)
def _ptrs_decide(rate: float, k: np.int64, us: float, v: float, a: float, b: float) -> bool:
    """PTRS' exact test, for the draws that its squeeze leaves open: True to take ``k``."""
    if k < 0 or (us < 0.013 and v > us):
        return False
    alpha_inverse = 1.1239 + 1.1328 / (b - 3.4)
    left = math.log(v * alpha_inverse / (a / (us * us) + b))
    return bool(left <= k * math.log(rate) - rate - log_factorial(k))


@njit(cache=True)
def _poisson_large(rate: float, position: np.uint64, step: np.uint64) -> np.int64:
    """Hormann's PTRS: transformed rejection with a squeeze, for rate >= 10. A round in seven or fewer is in vain."""
    b = 0.931 + 2.53 * math.sqrt(rate)
    a = -0.059 + 0.02483 * b
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        u = uniform(position) - 0.5
        v = uniform(position + step)
        position += step + step
        us = 0.5 - abs(u)
        k = np.int64(math.floor((2.0 * a / us + b) * u + rate + 0.43))
        if (us >= 0.07 and v <= v_r) or _ptrs_decide(rate, k, us, v, a, b):
            return k


@njit(cache=True, inline="always")
def poisson(rate: float, position: np.uint64, step: np.uint64, tables: NDArray[np.uint64]) -> np.int64:
    """One Poisson number of a finite ``rate``; 0 where the rate is not positive. For use inside other kernels.

    ``position`` is its place in a `Stream`, of which ``step`` and ``tables`` are parts.
    """
    k = np.int64(0)
    if rate >= TABLES_END:
        k = _poisson_large(rate, position, step)
    elif rate > 0.0:
        coarse = np.int64(rate * (1.0 / COARSE))
        rest = rate - coarse * COARSE
        fine = np.int64(rest * (1.0 / FINE))
        rest -= fine * FINE
        if coarse > 0:
            k += _from_table(_N_FINE - 1 + coarse, mix(position), tables)
        if fine > 0:
            k += _from_table(fine, mix(position + step), tables)
        u = uniform(position + step + step)
        if u > 1.0 - rest:  # 1 - r < exp(-r): below it the answer is zero for certain
            k += _invert(rest, u)
    return k


@njit(cache=True)
def poisson_into(
    expected: NDArray[np.floating],
    out: NDArray[np.integer],
    position: np.uint64,
    step: np.uint64,
    tables: NDArray[np.uint64],
) -> np.uint64:
    """Fill ``out`` (n,) with Poisson numbers of the rates ``expected`` (n,); returns the position after them."""
    jump = step * np.uint64(WORDS)
    for i in range(expected.size):
        out[i] = poisson(np.float64(expected[i]), position, step, tables)
        position += jump
    return position


def poisson_counts(expected: ArrayLike, rng: np.random.Generator) -> NDArray[np.uint32]:
    """Poisson counts, of the shape of ``expected`` (any), which holds rates below 4e9.

    Raises
    ------
    ValueError
        If a rate is negative, not finite or too large.
    """
    rates = np.ascontiguousarray(expected)
    if rates.dtype not in (np.float32, np.float64):
        rates = rates.astype(np.float64)
    if rates.size and not (float(rates.min()) >= 0.0 and float(rates.max()) < 4e9):
        raise ValueError(
            f"Expected counts must be between 0 and 4e9; {float(np.nanmin(rates)):g} to {float(np.nanmax(rates)):g} "
            "(or NaN) came. Check rates and exposure."
        )
    out = np.empty(rates.shape, dtype=np.uint32)
    poisson_into(rates.reshape(-1), out.reshape(-1), *new_stream(rng))
    return out
