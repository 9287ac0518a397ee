"""How fast recordings are written; a part of `benchmarks.recorder`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from stages.recording.entries import Logits, VideoLogits
from stages.recording.entry import Stamp
from stages.recording.writing import create_log, create_npy
from stages.window import whole
from tests.recordings import ANY_SPACE, LogOptions, NpyOptions, manifest

_PLANES = 8


def speed(folder: Path, quick: bool) -> dict[str, float]:
    """MB/s (10**6 bytes) of payload; `ratio_*` to `plain`, in the same round."""
    count, rounds = (60, 3) if quick else (250, 7)
    noise = np.random.default_rng(0)
    values = [
        noise.integers(0, 1 << 30, (_PLANES, 256, 256), np.int32).view(np.float32) for _ in range(8)
    ]
    frames = [values[number % 8] for number in range(count)]
    ways: dict[str, Callable[[Path, Sequence[np.ndarray]], int]] = {
        "log": _log,
        "npy": _npy,
        "plain": _plain,
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    dropped = 0
    for number in range(rounds + 1):  # the first warms up
        for name, write in ways.items():
            root = folder / f"{name}-{number}"
            began = time.monotonic()
            dropped += write(root, frames)
            if number:
                took[name].append(time.monotonic() - began)
            shutil.rmtree(root)
    megabytes = sum(each.nbytes for each in frames) / 1e6
    return {
        "mb_per_s": megabytes / median(took["log"]),
        "npy_mb_per_s": megabytes / median(took["npy"]),
        "plain_mb_per_s": megabytes / median(took["plain"]),
        "log_ratio": median(p / t for t, p in zip(took["log"], took["plain"], strict=True)),
        "npy_ratio": median(p / t for t, p in zip(took["npy"], took["plain"], strict=True)),
        "dropped": dropped,
        "megabytes": megabytes,
    }


def _log(root: Path, frames: Sequence[np.ndarray]) -> int:
    log = create_log(root, manifest(), LogOptions(space=ANY_SPACE))
    ids = np.arange(_PLANES)
    for number, values in enumerate(frames):
        log.append(Logits(Stamp(0, number), ids, values, whole((256, 256))).entry())
    return log.close().dropped


def _npy(root: Path, frames: Sequence[np.ndarray]) -> int:
    npy = create_npy(root, manifest("npy"), NpyOptions(space=ANY_SPACE))
    ids = np.arange(_PLANES)
    for number, values in enumerate(frames):
        npy.append(VideoLogits(Stamp(0, number), ids, values[:, None]))
    return npy.close().dropped


def _plain(root: Path, frames: Sequence[np.ndarray]) -> int:
    root.mkdir()
    fd = os.open(root / "plain", os.O_WRONLY | os.O_CREAT, 0o600)
    since = 0
    for values in frames:
        since += os.write(fd, values.data)
        if since >= 64 << 20:
            os.fsync(fd)
            since = 0
    os.fsync(fd)
    os.close(fd)
    return 0
