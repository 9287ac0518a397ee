"""A run past frame 99 999; a part of `benchmarks.recorder`."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from stages.recording.entries import Logits, VideoLogits
from stages.recording.entry import Stamp
from stages.recording.reading import open_recording
from stages.recording.writing import create_log, create_npy
from stages.window import whole
from tests.recordings import ANY_SPACE, NpyOptions, log_options, manifest

FRAMES = 100_001


def order(folder: Path, quick: bool) -> dict[str, float]:
    """`*_out_of_order`: frames whose place or content is not that of their number. Of tiny frames,
    the last 2000 of them where it is to be quick."""
    numbers = range(FRAMES - 2000 if quick else 0, FRAMES)
    log = create_log(folder, manifest(), log_options(32 << 20))
    npy = create_npy(folder, manifest("npy"), NpyOptions(sync_s=1e9, space=ANY_SPACE))
    ids = np.array([1])
    for number in numbers:
        values = np.full((1, 1, 1), number, np.float32)
        log.append(Logits(Stamp(0, number), ids, values, whole((1, 1))).entry())
        npy.append(VideoLogits(Stamp(0, number), ids, values[:, None]))
    log.close()
    npy.close()
    found: dict[str, float] = {"frames": len(numbers)}
    for layout, path in {"log": folder / "s", "npy": folder / "predictions" / "s"}.items():
        began = time.monotonic()
        with open_recording(path) as recording:
            there = recording.frames()
            read = recording.logits_at if layout == "log" else recording.video_logits_at
            wrong = sum(
                number != frame_id or read(frame_id, epoch).values.item() != number
                for number, (epoch, frame_id) in zip(numbers, there, strict=True)
            )
        found |= {f"{layout}_out_of_order": wrong, f"{layout}_read_s": time.monotonic() - began}
    return found
