"""How good the demo weights are, on phantom seeds that training has never seen.

    python -m benchmarks.quality [--quick] [--json FILE] [--seeds 20] [--first-seed 10000]
        [--tracked-frames 300] [--config demo]

Only truth objects that count are judged (more than 12 px thick, 400 visible px); masks are
compared at frame resolution. `mean_iou`, `recall`, `precision`, `id_switches_per_100_frames`,
`occlusion_id_kept`: the demo's chain as `configs/demo.yaml` (`--config`) has it, on every frame of
every scene of `--tracked-frames`, a miss counts 0.
`still_*`: detector boxes to masks on single frames, each segmented afresh. `box_mask_iou`: the
mask of the truth's own box. `one_click_iou`: the mask of one click at the object's innermost
pixel. `detector_*`: boxes, class-aware, at box IoU 0.5. `baseline_mean_iou`: threshold and
components on the same frames.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.baseline import threshold_components
from benchmarks.report import parser, print_table, write_json
from benchmarks.tracked import track_scenes
from pipeline.build import DETECTORS, SEGMENTERS
from pipeline.config import load_config
from pipeline.quality import MATCH_IOU, QualityCheck, mask_iou, match
from stages.base import Detector, Segmenter
from stages.inference_sam import SamPredictor
from stages.pack import Pack
from stages.packets import Truth
from stages.records import Detections, Frame
from stages.segmenters.sam2_checkpoint import build_sam2
from stages.segmenters.sam2_image import Sam2ImageConfig
from stages.sources.phantom_scene import CLASS_NAMES, PhantomScene
from stages.to_host import ToHost
from tools.matching import box_ious
from tools.phantom_clips import mask_boxes

QUALITIES = ("mean_iou", "recall", "precision", "object_frames")
SPAN = 300
"""Frames of a scene over which the judged ones are spread: whole episodes come and go."""


@dataclass(slots=True)
class Mean:
    """A running mean, over all and per class."""

    sums: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    counts: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, class_id: int, value: float) -> None:
        self.sums[class_id] += value
        self.counts[class_id] += 1

    @property
    def value(self) -> float | None:
        count = sum(self.counts.values())
        return round(sum(self.sums.values()) / count, 4) if count else None

    def of(self, class_id: int) -> float | None:
        count = self.counts[class_id]
        return round(self.sums[class_id] / count, 4) if count else None


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """One frame with its truth."""

    frame: Frame
    gray: NDArray[np.uint8]
    truth: Truth


class _OneFrame:
    """A truth source of the frame at hand."""

    def __init__(self) -> None:
        self.now: Truth | None = None

    def truth(self, frame_id: int) -> Truth:
        assert self.now is not None
        return self.now


def frames(first_seed: int, seeds: int, per_seed: int, device: torch.device) -> Iterator[Judged]:
    """`per_seed` frames of each scene, spread over `SPAN`, each seed with its own offset."""
    number = 0
    for seed in range(first_seed, first_seed + seeds):
        scene = PhantomScene(seed)
        for step in range(per_seed):
            index = step * SPAN // per_seed + seed % 7
            gray, seen = scene.render(index), scene.truth(index)
            rgb = torch.from_numpy(gray).to(device).expand(3, *gray.shape)
            truth = Truth(number, seen.object_ids, seen.class_ids, seen.masks, seen.counted)
            yield Judged(Frame(rgb, "phantom", seed, number, 0, 0), gray, truth)
            number += 1


class Judge:
    """Runs the demo's stages on each frame and adds up what they got right."""

    def __init__(self, device: torch.device, config_name: str = "demo") -> None:
        config = load_config(config_name, ["detector.every=1"])
        self.detector: Detector = DETECTORS.create(config.detector, device)
        self.segmenter: Segmenter = SEGMENTERS.create(Sam2ImageConfig(), device)
        self.predictor = SamPredictor(build_sam2("demo", None, None, device))
        self.pack = Pack(config.mask_threshold)
        self.to_host = ToHost(device)
        self.source = _OneFrame()
        self.end_to_end = QualityCheck(self.source, CLASS_NAMES)
        self.box_mask, self.one_click, self.baseline = Mean(), Mean(), Mean()
        self.recall, self.precision = Mean(), Mean()

    @torch.inference_mode()
    def judge(self, item: Judged) -> None:
        detections = self.detector.detect(item.frame)
        self._judge_boxes(item.truth, detections)
        tracks = self.segmenter.segment(detections)
        self.to_host.wait_slot(1.0)
        pending = self.to_host.submit(self.pack.pack(tracks), masks=True)
        if item.frame.rgb.is_cuda:
            torch.cuda.synchronize()
        self.source.now = item.truth
        self.end_to_end.write(pending.host_packet())
        self._judge_prompts(item)
        self._judge_baseline(item)

    def _judge_boxes(self, truth: Truth, detections: Detections) -> None:
        valid = detections.valid.cpu().numpy()
        boxes = detections.boxes_xyxy.cpu().numpy()[valid]
        classes = detections.class_ids.cpu().numpy()[valid]
        iou = box_ious(mask_boxes(truth.masks), boxes)
        pairs = match(np.where(truth.class_ids[:, None] == classes[None, :], iou, 0.0))
        hits = {row: column for row, (column, value) in pairs.items() if value >= MATCH_IOU}
        for row in np.flatnonzero(truth.counted):
            self.recall.add(int(truth.class_ids[row]), float(row in hits))
        small = {column for row, column in hits.items() if not truth.counted[row]}
        right = set(hits.values()) - small
        for column in set(range(len(boxes))) - small:
            self.precision.add(int(classes[column]), float(column in right))

    def _judge_prompts(self, item: Judged) -> None:
        for row in np.flatnonzero(item.truth.counted):
            mask, class_id = item.truth.masks[row], int(item.truth.class_ids[row])
            box = torch.from_numpy(mask_boxes(mask[None])[0]).to(item.frame.rgb.device)
            by_box = self.predictor.predict(item.frame.rgb, box)
            self.box_mask.add(class_id, plain_iou(mask, as_bool(by_box)))
            point = torch.tensor([innermost(mask)], device=item.frame.rgb.device)
            by_click = self.predictor.predict(item.frame.rgb, points_xy=point, point_labels=[1])
            self.one_click.add(class_id, plain_iou(mask, as_bool(by_click)))

    def _judge_baseline(self, item: Judged) -> None:
        found = np.packbits(threshold_components(item.gray), axis=-1)
        pairs = match(mask_iou(np.packbits(item.truth.masks, axis=-1), found))
        for row in np.flatnonzero(item.truth.counted):
            class_id = int(item.truth.class_ids[row])
            self.baseline.add(class_id, pairs.get(int(row), (-1, 0.0))[1])

    def results(self) -> dict[str, object]:
        means = {
            "box_mask_iou": self.box_mask,
            "one_click_iou": self.one_click,
            "detector_recall": self.recall,
            "detector_precision": self.precision,
            "baseline_mean_iou": self.baseline,
        }
        quality = self.end_to_end.summary()
        flat: dict[str, object] = {f"still_{key}": quality[key] for key in QUALITIES}
        flat.update({name: mean.value for name, mean in means.items()})
        per_class: dict[str, dict[str, object]] = quality["per_class"]  # type: ignore[assignment]
        flat["per_class"] = {
            name: {key: mean.of(class_id) for key, mean in means.items()}
            | {f"still_{key}": value for key, value in per_class.get(name, {}).items()}
            for class_id, name in enumerate(CLASS_NAMES)
        }
        return flat


def innermost(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """(x, y) of the pixel farthest from the mask's edge."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    return float(x) + 0.5, float(y) + 0.5


def plain_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    either = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / either if either else 0.0


def as_bool(mask: object) -> NDArray[np.bool_]:
    """bool (H, W) of what the predictor returned."""
    assert isinstance(mask, torch.Tensor)
    return (mask.reshape(mask.shape[-2:]) > 0).cpu().numpy()


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=20)
    arguments.add_argument("--first-seed", type=int, default=10_000)
    arguments.add_argument("--frames", type=int, default=20, help="judged frames a seed")
    arguments.add_argument("--tracked-frames", type=int, default=300, help="a scene; 0: none")
    arguments.add_argument("--config", default="demo", help="a shipped one: demo or demo_dfine")
    options = arguments.parse_args()
    seeds, per_seed = (4, 5) if options.quick else (options.seeds, options.frames)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    judge = Judge(device, options.config)
    for item in frames(options.first_seed, seeds, per_seed, device):
        judge.judge(item)
    results = judge.results()
    tracked_frames = 60 if options.quick else options.tracked_frames
    if tracked_frames:
        tracked = track_scenes(
            options.first_seed, seeds, tracked_frames, device, config_name=options.config
        ).summary()
        classes: dict[str, dict[str, object]] = tracked.pop("per_class")  # type: ignore[assignment]
        results |= tracked | {"tracked_frames": tracked_frames}
        for name, found in classes.items():
            results["per_class"][name] |= found  # type: ignore[index]
    per_class: dict[str, dict[str, object]] = results["per_class"]  # type: ignore[assignment]
    rows = [
        [name, results.get(name), *(per_class[c].get(name) for c in CLASS_NAMES)]
        for name in (
            "mean_iou",
            "recall",
            "precision",
            "id_switches_per_100_frames",
            "occlusion_id_kept",
            "still_mean_iou",
            "still_recall",
            "still_precision",
            "box_mask_iou",
            "one_click_iou",
            "detector_recall",
            "detector_precision",
            "baseline_mean_iou",
        )
    ]
    title = f"{seeds} seeds from {options.first_seed}, {per_seed} frames each"
    print_table(title, ["", "all", *CLASS_NAMES], rows)
    write_json(options.json, "quality", results)


if __name__ == "__main__":
    main()
