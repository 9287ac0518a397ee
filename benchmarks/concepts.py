"""Text prompts over many key frames: does the SAM3 stage grow, does it get slower?

    python -m benchmarks.concepts [--frames 5000] [--quick] [--json FILE] [--full]

transformers' Sam3Model with random weights in the sizes of its own tests, two phrases at once, one
of them another every 50 key frames. `tensor_bytes_growth`: bytes of all live tensors at the end
minus after warm-up; `rss_growth_mb` likewise for the process; `frame_time_ratio`: median time of
the last tenth over the first; `control_ratio`: the same of encoding one fixed picture, what the
machine itself does meanwhile; `ms_a_phrase`: what each further phrase costs. On the CPU times are
those of the process, so that what else runs counts less. `--full`: time and memory in the published
size (848 M parameters, all of one value) instead, of one key frame each with one and two phrases.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from safetensors.torch import save_file

from benchmarks.report import parser, print_table, write_json
from benchmarks.soak import MOST_RSS_MB, SLOWER, tensor_bytes
from stages.detectors.sam3 import Sam3TextConfig, Sam3TextDetector
from stages.records import Frame
from tests.tiny_sam3 import write_sam3

CHANGE_EVERY, DIFFERENT = 50, 150
WARM_UP_PHRASES = 80  # more than are remembered
PICTURES = 20


now = time.perf_counter if torch.cuda.is_available() else time.process_time


class Watch:
    """The stage, looking at pictures that come again and again."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        config = Sam3TextConfig(model=str(folder), phrases=("needle", "p000"), every=1)
        self.detector, self._device = Sam3TextDetector(config, device), device
        generator = torch.Generator().manual_seed(0)
        self._pictures = [
            torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8, generator=generator).to(device)
            for _ in range(PICTURES)
        ]
        self._now, self.number = "p000", 0

    def step(self) -> None:
        """One key frame."""
        picture = self._pictures[self.number % PICTURES]
        self.detector.detect(Frame(picture, "concepts", 0, self.number, 0, 0))
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self.number += 1

    def change(self) -> None:
        """Another phrase in the place of one; takes effect on the next two frames."""
        self.swap(f"p{self.number // CHANGE_EVERY % DIFFERENT:03}")  # each of as many letters

    def swap(self, phrase: str) -> None:
        self.detector.phrases.remove(self._now)
        self.detector.phrases.add(phrase)
        self._now = phrase

    def control(self) -> None:
        """Work that never changes."""
        picture = Frame(self._pictures[0], "concepts", 0, 0, 0, 0)
        self.detector._network.look(picture)


@torch.inference_mode()
def main() -> None:
    """Run, print, write; exit 1 where something grows."""
    made = parser(__doc__.splitlines()[0])
    made.add_argument("--frames", type=int)
    made.add_argument("--full", action="store_true")
    options = made.parse_args()
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as name:
        if options.full:
            results, fine = _full(Path(name), device), True
        else:
            count = options.frames or (200 if options.quick else 5000)
            results, fine = _many(Watch(write_sam3(Path(name)), device), count)
    print_table("concepts", ("", "found"), list(results.items()))
    write_json(options.json, "concepts", results)
    sys.exit(0 if fine else 1)


def _many(watch: Watch, count: int) -> tuple[dict[str, float], bool]:
    for number in range(WARM_UP_PHRASES):
        watch.swap(f"w{number:03}")
        watch.step()
        watch.step()
    process = psutil.Process()
    before, rss = tensor_bytes(), process.memory_info().rss
    times, controls = np.zeros(count), []
    for number in range(count):
        if number % CHANGE_EVERY == 0:
            watch.change()
        started = now()
        watch.step()
        times[number] = now() - started
        if number % 20 == 0:
            started = now()
            watch.control()
            controls.append(now() - started)
    grown, more = tensor_bytes() - before, (process.memory_info().rss - rss) / 2**20
    ratio, idle = _tenths(times), _tenths(np.array(controls))
    results = {
        "key_frames": count,
        "phrases_changed": count // CHANGE_EVERY,
        "tensor_bytes": before,
        "tensor_bytes_growth": grown,
        "rss_growth_mb": round(more, 2),
        "frame_time_ratio": round(ratio, 4),
        "control_ratio": round(idle, 4),
        "frame_ms_p50": round(float(np.median(times)) * 1e3, 3),
        "ms_a_phrase": round(_a_phrase(watch), 3),
    }
    slower = ratio > max(SLOWER, SLOWER * idle)
    return results, grown == 0 and more <= MOST_RSS_MB and not slower


def _a_phrase(watch: Watch, rounds: int = 15) -> float:
    """Milliseconds that a phrase more costs: with ten against with two."""

    def median() -> float:
        found = []
        for _ in range(rounds):
            started = now()
            watch.step()
            found.append(now() - started)
        return float(np.median(found)) * 1e3

    two = median()
    for number in range(8):
        watch.detector.phrases.add(f"m{number:03}")
        watch.step()
    return (median() - two) / 8


def _full(folder: Path, device: torch.device) -> dict[str, float]:
    """The published size: what `Sam3Config()` says, with the tests' tokenizer."""
    from transformers import Sam3Config, Sam3ImageProcessor, Sam3Model

    process = psutil.Process()
    write_sam3(folder)
    with torch.device("meta"):
        model = Sam3Model(Sam3Config())
    model.config.save_pretrained(folder)
    weights = {name: torch.full(each.shape, 0.01) for name, each in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    del weights
    Sam3ImageProcessor().save_pretrained(folder)
    before = process.memory_info().rss
    config = Sam3TextConfig(model=str(folder), phrases=("needle",), every=1)
    stage = Sam3TextDetector(config, device)
    loaded = process.memory_info().rss
    black = torch.zeros(3, 480, 640, dtype=torch.uint8, device=device)
    times = []
    for phrases in (1, 2):
        started = now()
        stage.detect(Frame(black, "concepts", 0, 0, 0, 0))
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(now() - started)
        stage.phrases.add(f"phrase {phrases}")
        stage.phrases.turn(0)
    one, two = times
    return {
        "loaded_mb": round((loaded - before) / 2**20),
        "key_frame_s": round(one, 2),
        "s_a_phrase": round(two - one, 2),
        "rss_mb": round(process.memory_info().rss / 2**20),
    }


def _tenths(times: np.ndarray) -> float:
    """Median of the last tenth over the median of the first."""
    tenth = max(len(times) // 10, 1)
    return float(np.median(times[-tenth:]) / np.median(times[:tenth]))


if __name__ == "__main__":
    main()
