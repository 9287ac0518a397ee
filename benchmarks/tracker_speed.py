"""Time a frame takes from pixels to full-resolution masks, our tracker against sam2's own.

    python -m benchmarks.tracker_speed [--quick] [--json FILE] [--execution eager ...]
        [--objects 1 2 4 8 16] [--frames 60]

Same pictures, weights and threads; every object has more than 16 frames of history; the two take
turns frame by frame. `ratio_N`: median of ours over median of the official predictor's, N objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.official import build_official, new_state, scene_pictures
from benchmarks.report import parser, print_table, write_json
from stages.mask_upsampling import upsample
from stages.segmenters.execution import EXECUTIONS, Execution, made_ready
from stages.segmenters.tracker_core import TrackerCore
from tools.phantom_clips import FRAME_HW

HISTORY = 18
CONDITIONING = 4
OBJECTS = (1, 2, 4, 8, 16)


def boxes(count: int) -> Tensor:
    """float32 (count, 4): boxes spread over the frame, frame pixels."""
    height, width = FRAME_HW
    places = torch.arange(count)
    x, y = 60 + (places % 4) * 130.0, 60 + (places // 4) * 90.0
    return torch.stack((x, y, x + 120, y + 80), dim=1).clamp(max=float(max(height, width)))


class Official:
    """The unmodified predictor on `count` objects."""

    def __init__(self, predictor: object, pictures: list[Tensor], count: int) -> None:
        self._predictor, self._state = predictor, new_state(pictures)
        for number, box in enumerate(boxes(count)):
            predictor.add_new_points_or_box(self._state, 0, number, box=box)  # type: ignore[attr-defined]

    def frame(self, number: int) -> Tensor:
        """bool (n, H, W)."""
        found = self._predictor.propagate_in_video(self._state, number, 0)  # type: ignore[attr-defined]
        masks: Tensor = next(found)[2][:, 0] > 0
        return masks


class Ours:
    """The tracker's core on `count` objects, a bucket of the same size."""

    def __init__(self, model: object, pictures: list[Tensor], count: int, how: Execution) -> None:
        self._core = TrackerCore(model, count, CONDITIONING)
        self._units = made_ready(self._core, how)
        self._pictures = pictures
        self._rows = torch.arange(count, device=self._core.device)
        self._live = torch.ones_like(self._rows, dtype=torch.bool)

    def frame(self, number: int) -> Tensor:
        """bool (n, H, W)."""
        core = self._core
        encoded = self._units.encode(self._pictures[number][None].to(core.device))
        if number == 0:
            scale = core.image_size / torch.tensor([FRAME_HW[1], FRAME_HW[0]])
            corners = boxes(len(self._rows)).view(-1, 2, 2) * scale
            labels = torch.tensor([[2, 3]], dtype=torch.int32).expand(len(self._rows), -1)
            tokens = core.head.tokens(corners.to(core.device), labels.to(core.device))
            shown = core.begin(encoded, self._rows, tokens)
        else:
            shown = self._units.track(encoded, self._rows, self._live, 1)
        core.advance()
        return upsample(shown.masks.logits, FRAME_HW) > 0


@dataclass(frozen=True, slots=True)
class Times:
    """Milliseconds a frame."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        return cls(*(float(p) for p in np.percentile(np.array(seconds) * 1e3, (50, 95, 99))))


def _timed(work: Callable[[int], Tensor], number: int) -> float:
    started = time.perf_counter()
    masks = work(number)
    if masks.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


@torch.inference_mode()
def measure(
    model: object, pictures: list[Tensor], count: int, executions: tuple[Execution, ...]
) -> dict[str, Times]:
    """The official predictor and ours in every execution, in turns."""
    runs: dict[str, Official | Ours] = {"official": Official(model, pictures, count)}
    runs |= {how: Ours(model, pictures, count, how) for how in executions}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(len(pictures)):
        for name, run in runs.items():
            taken = _timed(run.frame, number)
            if number > HISTORY:
                seconds[name].append(taken)
    return {name: Times.of(taken) for name, taken in seconds.items()}


def main() -> None:
    """Measure, print, write."""
    made = parser("Our tracker against sam2's own, frame by frame")
    made.add_argument("--frames", type=int, help="measured frames")
    made.add_argument("--objects", type=int, nargs="+", default=OBJECTS)
    made.add_argument("--execution", nargs="+", choices=EXECUTIONS, default=["eager"])
    arguments = made.parse_args()
    frames = arguments.frames or (15 if arguments.quick else 60)
    model = build_official("demo", CONDITIONING)
    pictures = scene_pictures(1 + HISTORY + frames, model.image_size)
    results: dict[str, object] = {}
    rows = []
    for count in arguments.objects:
        found = measure(model, pictures, count, tuple(arguments.execution))
        for name, times in found.items():
            ratio = times.p50 / found["official"].p50
            rows.append((count, name, times.p50, times.p95, times.p99, ratio))
            prefix = "" if name in ("official", "eager") else f"{name}_"
            if name != "official":
                results[f"{prefix}ratio_{count}"] = round(ratio, 4)
            for field in ("p50", "p95", "p99"):
                results[f"{name}_{count}_ms_{field}"] = round(getattr(times, field), 3)
    print_table("time a frame, ms", ("objects", "", "p50", "p95", "p99", "of official p50"), rows)
    write_json(arguments.json, "tracker_speed", {"frames": frames, **results})


if __name__ == "__main__":
    main()
