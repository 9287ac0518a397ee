"""How far a figure of a run would move by chance: a block bootstrap.

Frames that follow one another resemble one another (a busy second slows many), so blocks of
consecutive values are drawn, with replacement, instead of single ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from kpi.frame_columns import Floats

RESAMPLES = 4000
CONFIDENCE = 0.999
"""A comparison has dozens of figures: at 95 % some of them would always seem to have changed."""
BLOCK_ROWS = 30
_FEWEST_BLOCKS, _MOST_BLOCKS = 8, 25
_TAIL_ROWS = 5
"""So many values must lie above a percentile for it to mean anything."""
_LEVELS, _TAIL_LEVELS, _TAIL = 384, 128, 0.98


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """A figure of a run and what the bootstrap made of it."""

    value: float
    resampled: Floats | None
    """None: too few values to tell how far it moves."""


def quantile(values: Floats, share: float, random: np.random.Generator) -> Estimate | None:
    """The percentile at `share` (0..1) of consecutive `values` without NaN; None without any."""
    if not len(values):
        return None
    ordered = np.sort(values)
    point = float(ordered[max(1, math.ceil(share * len(values))) - 1])
    blocks = block_count(len(values))
    if blocks is None or len(values) * (1 - share) < _TAIL_ROWS:
        return Estimate(point, None)
    levels = _levels(ordered)
    counts = np.zeros((blocks, len(levels)), dtype=np.float32)
    block = np.arange(len(values)) * blocks // len(values)
    np.add.at(counts, (block, np.searchsorted(levels, values)), 1)
    drawn = np.cumsum(_weights(blocks, random).astype(np.float32) @ counts, axis=1)
    place = np.argmax(drawn >= np.ceil(share * drawn[:, -1:]), axis=1)
    return Estimate(point, _widened(levels[place], point, blocks))


def ratio(
    above: Floats, below: Floats, random: np.random.Generator, block_rows: int = BLOCK_ROWS
) -> Estimate | None:
    """The sum of `above` over that of `below`, rows in the order of time; None where `below` has
    nothing. With ones in `below` it is the mean."""
    whole = float(np.sum(below))
    if not whole > 0:
        return None
    value = float(np.sum(above)) / whole
    blocks = block_count(len(above), block_rows)
    if blocks is None:
        return Estimate(value, None)
    edges = np.arange(blocks) * len(above) // blocks
    weights = _weights(blocks, random)
    upper = weights @ np.add.reduceat(above.astype(np.float64), edges)
    lower = weights @ np.add.reduceat(below.astype(np.float64), edges)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Estimate(value, _widened(np.where(lower > 0, upper / lower, value), value, blocks))


def block_count(rows: int, block_rows: int = BLOCK_ROWS) -> int | None:
    """Into how many blocks so many rows are cut, of at least `block_rows` each; None where they
    are too few."""
    blocks = min(rows // block_rows, _MOST_BLOCKS)
    return blocks if blocks >= _FEWEST_BLOCKS else None


def _weights(blocks: int, random: np.random.Generator) -> NDArray[np.int64]:
    """How often each resample draws each block."""
    return random.multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)


def _widened(resampled: Floats, value: float, blocks: int) -> Floats:
    """Few blocks hide how far they spread: away from `value` by what Student's t has over the
    normal distribution at `CONFIDENCE` (its expansion, within 3 % from 8 blocks on)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    free = blocks - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return value + (resampled.astype(np.float64) - value) * (t / z) * math.sqrt(blocks / free)


def _levels(ordered: Floats) -> Floats:
    """Values to which others are rounded up: all where they are few, else by rank, finer in the
    tail, where ranks are far apart."""
    unique = np.unique(ordered)
    if len(unique) <= _LEVELS + _TAIL_LEVELS:
        return unique
    shares = np.concatenate(
        [np.linspace(0, _TAIL, _LEVELS), np.linspace(_TAIL, 1, _TAIL_LEVELS + 1)]
    )
    return np.unique(ordered[(shares * (len(ordered) - 1)).astype(np.int64)])
