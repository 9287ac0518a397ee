"""A writer that is killed at random points; a part of `benchmarks.recorder`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.recording_writer import check_log, check_npy, killed

LONGEST_S = 0.4
"""From a writer's first entry until it is killed."""


def kills(folder: Path, quick: bool) -> dict[str, float]:
    """`*_lost`: kills after which something that was acknowledged was not there, or could not be
    read; `*_torn`: after which the file ended with a part of a record."""
    log = _kills(folder, "log", check_log, 5 if quick else 100)
    npy = _kills(folder, "npy", check_npy, 2 if quick else 20)
    return {**log, **npy}


def _kills(
    folder: Path, layout: str, check: Callable[[Path, list[int]], int], count: int
) -> dict[str, float]:
    times = np.random.default_rng(0)
    lost = torn = acknowledged = 0
    for number in range(count):
        root = folder / f"{layout}-{number}"
        told = killed(root, layout, number, float(times.uniform(0, LONGEST_S)))
        acknowledged += len(told)
        path = root / "s" if layout == "log" else root / "predictions" / "s"
        try:
            torn += check(path, told) > 0
        except Exception as error:
            lost += 1
            print(f"{layout}, kill {number}: {type(error).__name__}: {error}")
        shutil.rmtree(root)
    counts = {"kills": count, "acknowledged": acknowledged, "torn": torn, "lost": lost}
    return {f"{layout}_{name}": value for name, value in counts.items()}
