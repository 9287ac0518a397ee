"""Our streaming tracker against sam2's unmodified `SAM2VideoPredictor`, frame by frame.

    python -m benchmarks.parity [--frames 300] [--objects 3] [--json FILE] [--quick]
        [--config demo | sam2.1_hiera_t] [--break NAME] [--offline]

Both get the same resized tensors, the same weights and the same scripted history; with `--offline`
a whole clip instead of a stream: prompts on three frames, forward, then backward from the second
(`benchmarks.clips`). `--break` leaves out one thing that the official predictor depends on, over
60 frames of a model for which each matters (`benchmarks.official.UNSURE`; of a clip over 18, or
12, with the demo's model); each must fail. Exit code 1 where the bar is missed:
worst |logit difference| <= 1e-3 and mask IoU >= 0.999 on every object-frame, with masks that are
not empty on at least 90 % of the reference's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.clip_flaws import CLIP_FLAWS
from benchmarks.official import (
    UNSURE,
    OfficialPredictor,
    build_official,
    scene_pictures,
)
from benchmarks.report import parser, print_table, write_json
from benchmarks.script import script
from benchmarks.streamed import FLAWS, StreamedTracker
from stages.segmenters.sam2_checkpoint import DEMO
from tools.phantom_clips import FRAME_HW

MOST_DIFFERENCE = 1e-3
LEAST_IOU = 0.999
LEAST_NONEMPTY = 0.9
CONDITIONING = 4
FLAW_NAMES = sorted({*FLAWS, *CLIP_FLAWS})


@dataclass(frozen=True, slots=True)
class Parity:
    """The worst of all object-frames."""

    worst_abs_logit_diff: float
    worst_mask_iou: float
    nonempty_fraction: float
    object_frames: int
    frames: int
    objects: int

    @property
    def holds(self) -> bool:
        return (
            self.worst_abs_logit_diff <= MOST_DIFFERENCE
            and self.worst_mask_iou >= LEAST_IOU
            and self.nonempty_fraction >= LEAST_NONEMPTY
        )


class Comparison:
    """A history run by the official predictor, against which any number of ours can be held."""

    @torch.inference_mode()
    def __init__(
        self,
        config: str,
        frames: int,
        objects: int = 3,
        seed: int = 0,
    ) -> None:
        """`config`: `demo`, `UNSURE`, or a structure with random weights of `seed`."""
        self._official = build_official(config, CONDITIONING, seed)
        self._pictures = scene_pictures(frames, self._official.image_size)
        self._steps = script(frames, objects)
        reference = OfficialPredictor(self._official, self._pictures)
        self._wanted = [
            reference.frame(number, self._steps.get(number, [])) for number in range(frames)
        ]

    @torch.inference_mode()
    def run(self, flaw: str | None = None) -> Parity:
        """Run ours, whole or with one thing left out, over the same history."""
        ours = StreamedTracker(self._official, CONDITIONING, flaw)
        found = [
            ours.frame(picture, self._steps.get(number, []))
            for number, picture in enumerate(self._pictures)
        ]
        return judged(self._wanted, found)


def judged(
    reference: Sequence[Mapping[Hashable, Tensor]], ours: Sequence[Mapping[Hashable, Tensor]]
) -> Parity:
    """The worst of all object-frames; both name the same objects on each frame, or ValueError."""
    differences, ious, nonempty = [], [], []
    for wanted, found in zip(reference, ours, strict=True):
        if wanted.keys() != found.keys():
            raise ValueError(f"got objects {list(found)}, expected {list(wanted)}")
        for name, logits in wanted.items():
            differences.append(float((logits - found[name]).abs().max()))
            ious.append(_iou(logits > 0, found[name] > 0))
            nonempty.append(bool((logits > 0).any()))
    return Parity(
        worst_abs_logit_diff=max(differences),
        worst_mask_iou=min(ious),
        nonempty_fraction=round(float(np.mean(nonempty)), 4),
        object_frames=len(nonempty),
        frames=len(reference),
        objects=len({name for wanted in reference for name in wanted}),
    )


def _iou(a: Tensor, b: Tensor) -> float:
    union = int((a | b).sum())
    return 1.0 if union == 0 else int((a & b).sum()) / union


def main() -> None:
    """Print the table; exit 1 where the bar is missed."""
    made = parser("Our tracker against sam2's own, frame by frame")
    made.add_argument("--frames", type=int)
    made.add_argument("--objects", type=int, default=3, choices=(1, 2, 3))
    made.add_argument("--config", default="demo", help="demo, or a structure of the sam2 package")
    made.add_argument("--seed", type=int, default=0, help="of random weights")
    made.add_argument("--break", dest="flaw", choices=FLAW_NAMES, help="must fail")
    made.add_argument("--offline", action="store_true", help="a clip, in both directions")
    arguments = made.parse_args()
    if arguments.flaw and arguments.flaw not in (CLIP_FLAWS if arguments.offline else FLAWS):
        made.error(f"--break {arguments.flaw} is one of the other kind, see --offline")
    config = arguments.config
    if arguments.flaw and not arguments.offline and config == DEMO:
        config = UNSURE
    kind = "offline" if arguments.offline else "stream"
    found = (_offline if arguments.offline else _stream)(arguments, config)
    results = {name: getattr(found, name) for name in Parity.__slots__}
    print_table(
        f"parity, {kind}, {config}, broken: {arguments.flaw or 'nothing'}",
        ("", "found", "bar"),
        [
            ("worst |logit difference|", f"{found.worst_abs_logit_diff:.2e}", MOST_DIFFERENCE),
            ("worst mask IoU", f"{found.worst_mask_iou:.5f}", LEAST_IOU),
            ("reference masks not empty", found.nonempty_fraction, LEAST_NONEMPTY),
            ("object-frames", found.object_frames, None),
        ],
    )
    named = {"kind": kind, "config": config, "broken": arguments.flaw or "nothing"}
    write_json(arguments.json, "parity", {**named, **results})
    sys.exit(0 if found.holds else 1)


def _stream(arguments: argparse.Namespace, config: str) -> Parity:
    frames = arguments.frames or (60 if arguments.quick or arguments.flaw else 300)
    comparison = Comparison(config, frames, arguments.objects, arguments.seed)
    return comparison.run(arguments.flaw)


def _offline(arguments: argparse.Namespace, config: str) -> Parity:
    from benchmarks.clips import ClipComparison

    short = 12 if arguments.flaw == "normaliser" else 18
    frames = arguments.frames or (short if arguments.quick or arguments.flaw else 60)
    predictor = build_official(config, CONDITIONING, arguments.seed)
    return ClipComparison(predictor, frames, FRAME_HW).run(arguments.flaw)


if __name__ == "__main__":
    main()
