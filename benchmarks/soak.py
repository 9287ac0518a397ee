"""Does memory grow, do frames get slower? The tracker over many frames, objects coming and going.

    python -m benchmarks.soak [--frames 20000] [--quick] [--json FILE]

The frames are a phantom scene played over and over, its detections found once beforehand.
`tensor_bytes_growth`: bytes of all live tensors at the end minus after warm-up; `rss_growth_mb`
likewise for the process; `frame_time_ratio`: median frame time of the last tenth over the first;
`control_ratio`: the same of encoding one fixed picture, what the machine itself does meanwhile.
"""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn import Parameter

from benchmarks.report import parser, print_table, write_json
from pipeline.build import DETECTORS, SEGMENTERS
from pipeline.config import load_config
from stages.pack import Pack
from stages.records import Frame
from stages.segmenters.sam2_stream import Sam2StreamConfig, Sam2StreamSegmenter
from stages.sources.phantom_scene import PhantomScene
from stages.to_host import ToHost

SEED, LOOP, WARM_UP = 10_003, 200, 400
MOST_RSS_MB = 20.0
SLOWER = 1.05


def tensor_bytes() -> int:
    """Bytes behind all tensors that Python knows, each storage once.

    A traced graph's fake tensors hold no bytes, and asking for their address raises.
    """
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, Parameter):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class Loop:
    """The demo's stages after Detect, on a scene that starts again and again."""

    def __init__(self, device: torch.device) -> None:
        config = load_config("demo", ["detector.every=1"])
        detector = DETECTORS.create(config.detector, device)
        segmenter = SEGMENTERS.create(Sam2StreamConfig(), device, len(detector.class_names))
        assert isinstance(segmenter, Sam2StreamSegmenter)
        self._segmenter, self._device = segmenter, device
        self._pack, self._to_host = Pack(config.mask_threshold, segmenter.identity), ToHost(device)
        scene = PhantomScene(SEED)
        self._pictures = [torch.from_numpy(scene.render(t)).to(device) for t in range(LOOP)]
        self._found = [detector.detect(_frame(gray, 0)) for gray in self._pictures]
        core = segmenter.tracker.core
        self._fixed = core.network.transform(self._pictures[0].expand(3, -1, -1))

    def step(self, number: int) -> int:
        """One frame; the highest id in its result, -1 where there is none."""
        seen = self._found[number % LOOP]
        frame = _frame(self._pictures[number % LOOP], number)
        detections = replace(seen, frame=frame)
        self._to_host.wait_slot(1.0)
        tracks = self._segmenter.segment(detections)
        packet = self._to_host.submit(self._pack.pack(tracks), masks=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        host = packet.host_packet()
        self._segmenter.heed(host)
        return int(host.object_ids.max(initial=-1))

    def control(self) -> None:
        """Work that never changes."""
        self._segmenter.tracker.core.encode(self._fixed)


@torch.inference_mode()
def main() -> None:
    """Run, print, write; exit 1 where something grows."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--frames", type=int)
    options = made.parse_args()
    count = options.frames or (600 if options.quick else 20_000)
    loop = Loop(torch.device("cuda:0" if torch.cuda.is_available() else "cpu"))
    process = psutil.Process()
    newest = max(loop.step(number) for number in range(WARM_UP))
    before, rss = tensor_bytes(), process.memory_info().rss
    times, controls = np.zeros(count), []
    for number in range(count):
        started = time.perf_counter()
        newest = max(newest, loop.step(WARM_UP + number))
        times[number] = time.perf_counter() - started
        if number % 20 == 0:
            started = time.perf_counter()
            loop.control()
            controls.append(time.perf_counter() - started)
    grown, more = tensor_bytes() - before, (process.memory_info().rss - rss) / 2**20
    ratio, idle = _tenths(times), _tenths(np.array(controls))
    results = {
        "frames": count,
        "objects_begun": newest + 1,
        "tensor_bytes": before,
        "tensor_bytes_growth": grown,
        "rss_growth_mb": round(more, 2),
        "frame_time_ratio": round(ratio, 4),
        "control_ratio": round(idle, 4),
        "frame_ms_p50": round(float(np.median(times)) * 1e3, 3),
    }
    print_table(f"soak, {count} frames", ("", "found"), list(results.items()))
    write_json(options.json, "soak", results)
    fine = (
        newest >= 0 and grown == 0 and more <= MOST_RSS_MB and ratio <= max(SLOWER, SLOWER * idle)
    )
    sys.exit(0 if fine else 1)


def _frame(gray: Tensor, number: int) -> Frame:
    return Frame(gray.expand(3, *gray.shape), "soak", 0, number, 0, 0)


def _tenths(times: np.ndarray) -> float:
    """Median of the last tenth over the median of the first."""
    tenth = max(len(times) // 10, 1)
    return float(np.median(times[-tenth:]) / np.median(times[:tenth]))


if __name__ == "__main__":
    main()
