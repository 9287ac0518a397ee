"""What each detector costs: time a frame and memory of the process, side by side.

    python -m benchmarks.detectors [--quick] [--json FILE] [--frames 60] [--rounds 3]

The phantom's frames, 480 x 640, each on its way from the uploaded picture to K = 16 rows; each
detector alone in a process of its own, round after round. `yolo_nms` is the demo YOLO's structure
with the head of YOLOv8 and random weights, so that nothing but the suppression differs much.
`dfine_public` is what a user of transformers writes: its image processor, the model,
`post_process_object_detection`. `ratio` is to `yolo`, of `cpu_ms_p50`: the processor time of a
frame, which another busy process disturbs less than the clock. `rss_mb` is what the process grew
by, the libraries that the detector imports included; `weights_mb` its parameters and buffers.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import torch
from torch import nn

from benchmarks.report import parser, print_table, write_json
from stages.records import Frame
from stages.sources.phantom_scene import PhantomScene

KINDS: Final = ("yolo", "yolo_nms", "dfine", "dfine_public", "boxes", "none")
WARM_UP: Final = 5
Step = Callable[[Frame], object]


def build(kind: str, folder: Path, device: torch.device) -> tuple[Step, object]:
    """The step and what holds its weights."""
    if kind == "dfine_public":
        return public_dfine(device)
    from pipeline.build import DETECTORS

    settings: dict[str, Any] = {"kind": kind}
    if kind == "yolo_nms":
        settings = {"kind": "yolo", "weights": str(one_to_many(folder)), "input_size": (192, 256)}
    section = DETECTORS.config_class(settings["kind"]).model_validate(settings)
    detector = DETECTORS.create(section, device)
    return detector.detect, detector


def one_to_many(folder: Path) -> Path:
    """A checkpoint as ultralytics writes it: the demo's structure without its end-to-end head."""
    import yaml

    from stages.detectors.yolo import DEMO_WEIGHTS
    from stages.detectors.yolo_network import import_ultralytics

    structure = yaml.safe_load(DEMO_WEIGHTS.with_suffix(".yaml").read_text())
    tasks = import_ultralytics().nn.tasks
    model = tasks.DetectionModel({**structure, "end2end": False, "reg_max": 16}, verbose=False)
    model.names = {0: "lumen", 1: "lesion", 2: "needle"}
    path = folder / "one_to_many.pt"
    torch.save({"model": model.half(), "ema": None, "train_args": {"imgsz": 256}}, path)
    return path


def public_dfine(device: torch.device) -> tuple[Step, object]:
    from stages.detectors.dfine import DEMO_FOLDER
    from stages.detectors.dfine_network import import_transformers

    library = import_transformers()
    processor = library.AutoImageProcessor.from_pretrained(DEMO_FOLDER)
    network = library.DFineForObjectDetection.from_pretrained(DEMO_FOLDER).eval().to(device)

    def step(frame: Frame) -> object:
        with torch.inference_mode():
            given = processor(images=frame.rgb, return_tensors="pt").to(device)
            return processor.post_process_object_detection(network(**given), 0.35, [frame.size_hw])

    return step, network


def weights_bytes(held: object) -> int:
    network = held if isinstance(held, nn.Module) else getattr(held, "_network", None)
    if network is None:
        return 0
    tensors = {value.data_ptr(): value for value in network.state_dict().values()}
    return sum(value.nbytes for value in tensors.values())


def measure(kind: str, count: int, folder: Path) -> dict[str, float]:
    """In a process of its own: times of `count` frames, memory."""
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    scene = PhantomScene(10_000)
    boxes = np.array([[10, 10, 60, 60, 0.9, 0]] * 4, np.float32) if kind == "boxes" else None
    shown = [torch.from_numpy(scene.render(10 * index)).to(device) for index in range(8)]
    gc.collect()
    before = psutil.Process().memory_info().rss
    step, held = build(kind, folder, device)
    times, cpu_times = [], []
    for number in range(WARM_UP + count):
        rgb = shown[number % len(shown)].expand(3, -1, -1)
        frame = Frame(rgb, "phantom", 0, number, 0, 0, boxes=boxes)
        begin, cpu_begin = time.perf_counter(), time.process_time()
        step(frame)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) * 1e3)
        cpu_times.append((time.process_time() - cpu_begin) * 1e3)
    grown = psutil.Process().memory_info().rss - before
    found = {"rss_mb": grown / 1e6, "weights_mb": weights_bytes(held) / 1e6}
    if device.type == "cuda":
        found["device_mb"] = torch.cuda.max_memory_allocated() / 1e6
    p50, p95 = np.percentile(times[WARM_UP:], [50, 95])
    cpu = float(np.median(cpu_times[WARM_UP:]))
    return {"ms_p50": float(p50), "ms_p95": float(p95), "cpu_ms_p50": cpu, **found}


def measured_alone(kind: str, count: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.detectors", "--one", kind, "--frames", str(count)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--frames", type=int, default=60)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--one", choices=KINDS, help="measure only this, in this process")
    options = arguments.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.one, options.frames, Path(folder))))
        return
    frames, rounds = (10, 1) if options.quick else (options.frames, options.rounds)
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            runs[kind].append(measured_alone(kind, frames))
    results: dict[str, dict[str, float]] = {}
    for kind, found in runs.items():
        middle = {
            name: round(statistics.median(run[name] for run in found), 3) for name in found[0]
        }
        results[kind] = middle
    for kind in KINDS:
        own, base = (results[name]["cpu_ms_p50"] for name in (kind, "yolo"))
        results[kind]["ratio"] = round(own / base, 3)
    names = list(results["yolo"])
    table = [[kind, *(results[kind][name] for name in names)] for kind in KINDS]
    print_table(f"{frames} frames of 480 x 640, {rounds} rounds", ["", *names], table)
    write_json(options.json, "detectors", results)


if __name__ == "__main__":
    main()
