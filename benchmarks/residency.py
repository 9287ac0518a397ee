"""What staying on the device costs or saves: resident, as_numpy, and the libraries' own calls.

    python -m benchmarks.residency [--quick] [--json FILE] [--objects 3] [--slots 8 16]

The same phantom frames and the same weights in one run, interleaved frame by frame. `public` is
what a user of the two libraries writes: `YOLO.predict`, then `SAM2ImagePredictor.set_image` and
`.predict`. Every mode ends with full-resolution masks: bit-packed on the device (resident), bool
arrays (as_numpy), arrays (public). Only frames on which the detector finds exactly `--objects`
objects are used, so that slots = objects leaves no padding; `resident, n slots` shows what
padding costs. A frame's time ends when the device is done. `sam` is Segment with what turns its
logits into masks. Copies and waits are what the residency guard counts on one frame between the
upload and the result; a public call is guarded as a whole, its own upload included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.public_calls import PublicCalls
from benchmarks.report import parser, print_table, write_json
from pipeline.audit import residency_guard
from pipeline.build import DETECTORS, SEGMENTERS
from pipeline.config import load_config
from stages.as_numpy import AsNumpy
from stages.base import Segmenter
from stages.pack import Pack
from stages.pack_numpy import PackNumpy
from stages.records import Detections, Frame
from stages.segmenters.sam2_image import Sam2ImageConfig
from stages.sources.phantom_scene import PhantomScene

WARM_UP = 5
Step = Callable[[NDArray[np.uint8]], float]
"""One frame, uint8 (H, W), all the way; returns the seconds that its SAM part took."""


@dataclass(slots=True)
class Series:
    """One mode's times in milliseconds."""

    step: Step
    frame_ms: list[float] = field(default_factory=list)
    sam_ms: list[float] = field(default_factory=list)
    copies: int = 0
    syncs: int = 0
    device_bytes: int | None = None

    def measure(self, gray: NDArray[np.uint8]) -> None:
        begin = time.perf_counter()
        sam_s = self.step(gray)
        settle()
        self.frame_ms.append((time.perf_counter() - begin) * 1e3)
        self.sam_ms.append(sam_s * 1e3)

    def audit(self, gray: NDArray[np.uint8]) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.step(gray)
        settle()
        if torch.cuda.is_available():
            self.device_bytes = torch.cuda.max_memory_allocated()
        with residency_guard("count") as report:
            self.step(gray)
        self.copies = report.count("d2h") + report.count("h2d")
        self.syncs = report.count("sync") + report.count("dynamic_shape")

    def results(self) -> dict[str, Any]:
        p50, p95, p99 = np.percentile(self.frame_ms, [50, 95, 99])
        sam50, sam99 = np.percentile(self.sam_ms, [50, 99])
        return {
            "ms_p50": round(float(p50), 3),
            "ms_p95": round(float(p95), 3),
            "ms_p99": round(float(p99), 3),
            "fps": round(1e3 / statistics.fmean(self.frame_ms), 2),
            "hot_path_copies": self.copies,
            "hot_path_syncs": self.syncs,
            "device_memory_bytes": self.device_bytes,
            "sam_ms_p50": round(float(sam50), 3),
            "sam_ms_p99": round(float(sam99), 3),
        }


class Ours:
    """The demo's models with `slots` object slots, each frame afresh as the public calls do it."""

    def __init__(self, slots: int, device: torch.device) -> None:
        config = load_config("demo", ["detector.every=1", f"detector.max_detections={slots}"])
        self._device = device
        self.detector = DETECTORS.create(config.detector, device)
        afresh = Sam2ImageConfig(max_objects=slots)
        self._segmenter: Segmenter = SEGMENTERS.create(afresh, device)
        self._pack = Pack(config.mask_threshold)
        self._as_numpy = AsNumpy(config.mask_threshold)
        self._pack_numpy = PackNumpy()
        self._uploads = 0

    def upload(self, gray: NDArray[np.uint8]) -> Frame:
        """Grab's part; outside the hot path, so outside the guard."""
        from stages.exits import named_exit

        self._uploads += 1
        with named_exit("upload"):
            plane = torch.from_numpy(gray).to(self._device, copy=True)
        return Frame(plane.expand(3, *gray.shape), "bench", 0, self._uploads, 0, 0)

    def found(self, gray: NDArray[np.uint8]) -> int:
        with torch.inference_mode():
            return int(self.detector.detect(self.upload(gray)).valid.sum())

    def resident(self, gray: NDArray[np.uint8]) -> float:
        with torch.inference_mode():
            detections = self._detected(gray)
            begin = time.perf_counter()
            self._pack.pack(self._segmenter.segment(detections))
            settle()
            return time.perf_counter() - begin

    def legacy(self, gray: NDArray[np.uint8]) -> float:
        with torch.inference_mode():
            detections = self._detected(gray)
            begin = time.perf_counter()
            self._pack_numpy.pack(self._as_numpy.exit(self._segmenter.segment(detections)))
            return time.perf_counter() - begin

    def _detected(self, gray: NDArray[np.uint8]) -> Detections:
        detections = self.detector.detect(self.upload(gray))
        settle()
        return detections


def settle() -> None:
    """Wait for the device, so that a clock read next tells the truth; named, so not counted."""
    from stages.exits import named_exit

    if torch.cuda.is_available():
        with named_exit("stopwatch"):
            torch.cuda.synchronize()


def pictures(ours: Ours, objects: int, count: int) -> list[NDArray[np.uint8]]:
    """`count` phantom pictures in which the detector finds exactly `objects` objects."""
    found: list[NDArray[np.uint8]] = []
    for seed in range(10_000, 10_200):
        scene = PhantomScene(seed)
        for index in range(20, 320, 20):
            gray = scene.render(index)
            if ours.found(gray) == objects:
                found.append(gray)
            if len(found) == count:
                return found
    raise SystemExit(f"residency: too few frames with {objects} objects (expected {count})")


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--objects", type=int, default=3, help="objects a frame")
    arguments.add_argument("--slots", type=int, nargs="*", default=[8, 16], help="padded variants")
    arguments.add_argument("--rounds", type=int, default=4, help="times each frame is measured")
    options = arguments.parse_args()
    count, rounds = (12, 2) if options.quick else (40, options.rounds)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    exact = Ours(options.objects, device)
    chosen = pictures(Ours(max(16, options.objects), device), options.objects, count)
    modes = {
        "resident": Series(exact.resident),
        "as_numpy": Series(exact.legacy),
        "public": Series(PublicCalls(device).step),
    }
    for slots in options.slots:
        modes[f"resident, {slots} slots"] = Series(Ours(slots, device).resident)

    for series in modes.values():
        for gray in chosen[:WARM_UP]:
            series.step(gray)
        series.audit(chosen[0])
    for _ in range(rounds):
        for gray in chosen:
            for series in modes.values():
                series.measure(gray)

    results = {name: series.results() for name, series in modes.items()}
    report(results, options.objects, len(chosen) * rounds)
    write_json(options.json, "residency", {**results, **speedups(results)})


def speedups(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Median frame times of the others over the resident one's: above 1 is faster than them."""
    resident = results["resident"]["ms_p50"]
    return {
        "speedup_vs_public": round(results["public"]["ms_p50"] / resident, 3),
        "speedup_vs_as_numpy": round(results["as_numpy"]["ms_p50"] / resident, 3),
    }


def report(results: dict[str, dict[str, Any]], objects: int, samples: int) -> None:
    columns = list(next(iter(results.values())))
    public = results["public"]["ms_p50"]
    rows = [
        [name, *row.values(), round(row["ms_p50"] / public, 3)] for name, row in results.items()
    ]
    title = f"{objects} objects a frame, {samples} frames a mode, interleaved"
    print_table(title, ["mode", *columns, "time / public"], rows)


if __name__ == "__main__":
    main()
