"""A long clip tracked offline: does memory grow, and is it as fast as sam2's own predictor?

    python -m benchmarks.offline [--frames 5000] [--quick] [--json FILE]

A phantom of 320x240 pixels, three objects prompted on its first frame, is encoded as H.264 into a
temporary folder and tracked from end to end with the demo's weights: `rss_growth_mb` is the
process's memory at the end less that at frame 500 (a tenth of the way in a short run),
`held_bytes` what the clip holds of its results, there and at the end. Then the first 300 frames
are tracked once more, in turns with sam2's unmodified predictor on the same pixels: `ratio` is the
median time a frame of ours over its median, from the fifteenth frame on. Ours includes decoding,
uploading and resizing; its pictures lie resized in memory. Exit code 1 where memory grows by more
than 50 MB or the ratio is above 1.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import av
import numpy as np
import psutil
import torch
from torch import Tensor

from benchmarks.clips import OfficialClip
from benchmarks.official import SCENE, build_official
from benchmarks.report import parser, print_table, write_json
from pipeline.clip import Clip, open_clip
from stages.clip.opening import open_frames
from stages.segmenters.tracker_core import TrackerCore
from stages.sources.phantom_scene import PhantomScene
from tools.phantom_clips import mask_boxes

SIZE_HW: Final = (240, 320)
OBJECTS: Final = 3
SETTLED: Final = 500
COMPARED: Final = 300
HISTORY: Final = 15
"""Frames until an object's memory is full."""
MOST_GROWTH_MB: Final = 50.0


def render(path: Path, frames: int) -> list[list[float]]:
    """Write the clip; boxes (x1, y1, x2, y2) of its largest objects on the first frame."""
    seed, first = SCENE
    scene = PhantomScene(seed, size_hw=SIZE_HW)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.height, stream.width = SIZE_HW
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            gray = scene.render(first + number)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="gray")))
        file.mux(stream.encode(None))
    masks = scene.truth(first).masks
    largest = np.argsort(-masks.sum((1, 2)))[:OBJECTS]
    boxes: list[list[float]] = mask_boxes(masks[largest]).tolist()
    return boxes


def prompt(predictor: Clip | OfficialClip, boxes: list[list[float]]) -> None:
    """One box an object, on the first frame."""
    for number, box in enumerate(boxes):
        predictor.add_new_points_or_box(0, number, box=box)


def held_bytes(clip: Clip) -> int:
    """Bytes behind all results that the clip holds."""
    storages = {}
    for target in clip._objects.values():
        for output in (*target.conditioning.values(), *target.tracked.values()):
            parts: list[Tensor | None] = [output.pointer, output.memory]
            if output.masks is not None:
                parts.append(output.masks.logits)
            for part in parts:
                if part is not None:
                    storages[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
    return sum(storages.values())


@dataclass(frozen=True, slots=True)
class Whole:
    """The clip from end to end."""

    growth_mb: float
    held: tuple[int, int]
    """At the first and at the second look."""
    seconds: list[float]
    """Each frame's."""
    nonempty: float
    """Share of masks."""


def track_all(path: Path, boxes: list[list[float]], settled: int) -> Whole:
    """Ours, alone."""
    process = psutil.Process()
    seconds, nonempty = list[float](), list[bool]()
    with open_clip(path) as clip:
        prompt(clip, boxes)
        rss, held = 0, 0
        for number, masks, taken in _timed(clip.propagate_in_video()):
            seconds.append(taken)
            if number % 100 == 0:
                nonempty += (masks > 0).flatten(1).any(dim=1).tolist()
            if number == settled:
                gc.collect()
                rss, held = process.memory_info().rss, held_bytes(clip)
        gc.collect()
        growth = (process.memory_info().rss - rss) / 2**20
        return Whole(growth, (held, held_bytes(clip)), seconds, float(np.mean(nonempty)))


def in_turns(path: Path, boxes: list[list[float]], frames: int) -> tuple[float, float]:
    """Median milliseconds a frame: ours, and the official predictor's on the same pixels."""
    predictor = build_official("demo", -1)
    source = open_frames(path)
    pictures = [source.read(number) for number in range(frames)]
    source.close()
    core = TrackerCore(predictor, slots=1, conditioning=2)
    official = OfficialClip(predictor, pictures, core)
    with open_clip(path, predictor, device="cpu") as clip:
        prompt(clip, boxes)
        prompt(official, boxes)
        ours = _timed(clip.propagate_in_video(0, frames - 1))
        theirs = _timed(official.propagate_in_video(0, frames - 1))
        taken = [(a[2], b[2]) for a, b in zip(ours, theirs, strict=True)]
    mine, its = np.median(np.array(taken[HISTORY:]), axis=0) * 1e3
    return float(mine), float(its)


def _timed(walk: Iterator[tuple[int, list[int], Tensor]]) -> Iterator[tuple[int, Tensor, float]]:
    """Frame, masks and seconds of each step."""
    while True:
        started = time.perf_counter()
        found = next(walk, None)
        if found is None:
            return
        if found[2].is_cuda:
            torch.cuda.synchronize()
        yield found[0], found[2][:, 0], time.perf_counter() - started


def main() -> None:
    """Measure, print, write."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--frames", type=int)
    options = made.parse_args()
    frames = options.frames or (300 if options.quick else 5000)
    settled, compared = min(SETTLED, frames // 10), min(COMPARED, frames // 5)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        boxes = render(path, frames)
        whole = track_all(path, boxes, settled)
        ours, official = in_turns(path, boxes, compared)
    tenth = max(1, frames // 10)
    results = {
        "frames": frames,
        "objects": OBJECTS,
        "rss_growth_mb": round(whole.growth_mb, 2),
        "held_bytes": whole.held[0],
        "held_bytes_at_end": whole.held[1],
        "nonempty_fraction": round(whole.nonempty, 4),
        "frame_ms_p50": round(float(np.median(whole.seconds)) * 1e3, 3),
        "frame_time_ratio": round(
            float(np.median(whole.seconds[-tenth:]) / np.median(whole.seconds[HISTORY:tenth])), 4
        ),
        "compared_frames": compared,
        "ours_ms_p50": round(ours, 3),
        "official_ms_p50": round(official, 3),
        "ratio": round(ours / official, 4),
    }
    print_table(f"offline, {frames} frames", ("", "found"), list(results.items()))
    write_json(options.json, "offline", results)
    sys.exit(0 if whole.growth_mb <= MOST_GROWTH_MB and ours <= official else 1)


if __name__ == "__main__":
    main()
