"""Clips small enough for tests: a tiny SAM2 that minds what it remembers, pictures that move."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.clips import ArrayFrames, OfficialClip, in_float
from stages.clip.session import Clip, Given
from stages.segmenters.sam2_checkpoint import build_structure
from stages.segmenters.tracker_core import TrackerCore
from tests.tiny_sam2 import enliven, tiny_structure, write_structure

HW = (48, 64)


def tiny_predictor(folder: Path) -> Any:
    """A `SAM2VideoPredictor` with random weights, in which memory weighs four times as much."""
    structure = tiny_structure()
    structure.model._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    torch.manual_seed(0)
    network: Any = build_structure(str(write_structure(folder, structure)))
    enliven(network)
    with torch.no_grad():
        network.memory_attention.layers[0].cross_attn_image.out_proj.weight.mul_(4)
        network.maskmem_tpos_enc.mul_(20)
    network.fill_hole_area = 0
    return in_float(network.eval().requires_grad_(False))


def moving(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """RGB noise that is shifted from picture to picture, with some noise of its own."""
    random = np.random.default_rng(seed)
    still = random.integers(0, 255, (*HW, 3))
    return [
        np.clip(np.roll(still, 2 * t, 1) + random.integers(-20, 20, (*HW, 3)), 0, 255).astype(
            np.uint8
        )
        for t in range(count)
    ]


def opened(predictor: Any, count: int, **how: Any) -> Clip:
    """Ours on moving pictures."""
    core = TrackerCore(predictor, slots=1, conditioning=2, frames=count)
    return Clip(ArrayFrames(moving(count)), core, **how)


class Pair:
    """The official predictor and ours, told the same; `worst` is how far they were apart."""

    def __init__(self, predictor: Any, count: int, correct_as_cond: bool, **how: Any) -> None:
        predictor.add_all_frames_to_correct_as_cond = correct_as_cond
        how["add_all_frames_to_correct_as_cond"] = correct_as_cond
        self.ours = opened(predictor, count, **how)
        self.official = OfficialClip(predictor, moving(count), self.ours._core)
        self.count = count
        self.worst, self.compared, self.differing = 0.0, 0, list[str]()

    def points(self, frame: int, obj_id: int, **told: Any) -> None:
        self._prompt("add_new_points_or_box", frame, obj_id, **told)

    def mask(self, frame: int, obj_id: int, mask: NDArray[Any]) -> None:
        self._prompt("add_new_mask", frame, obj_id, mask)

    def walk(self, steps: int | None = None, **how: Any) -> None:
        """`steps`: leave the walk after so many frames."""
        ours, official = (
            predictor.propagate_in_video(**how) for predictor in (self.ours, self.official)
        )
        for number, (a, b) in enumerate(zip(ours, official, strict=steps is None)):
            assert (a[0], a[1]) == (b[0], list(b[1]))
            self._compare(a[2], b[2], f"frame {a[0]} of {how}")
            if number + 1 == steps:
                return

    def remove(self, obj_id: int) -> None:
        left = self.official.remove_object(obj_id, need_output=False)[0]
        assert self.ours.remove_object(obj_id)[0] == list(left)

    def _prompt(self, name: str, frame: int, obj_id: int, *told: Any, **named: Any) -> None:
        ours, official = (
            getattr(predictor, name)(frame, obj_id, *told, **named)
            for predictor in (self.ours, self.official)
        )
        assert (ours[0], ours[1]) == (official[0], list(official[1]))
        row = ours[1].index(obj_id)
        self._compare(ours[2][row], official[2][row], f"{name} on frame {frame}")

    def _compare(self, ours: torch.Tensor, official: torch.Tensor, what: str) -> None:
        apart = float((ours - official).abs().max())
        self.worst, self.compared = max(self.worst, apart), self.compared + 1
        if apart > 1e-3:
            self.differing.append(f"{what}: {apart}")


Step = Callable[[Pair, random.Random], None]


def at_random(pair: Pair, seed: int, steps: int = 12) -> None:
    """Prompts of every kind, on any frame, walks from anywhere, objects removed."""
    dice = random.Random(seed)  # noqa: S311
    _points(pair, dice)
    for _ in range(steps):
        dice.choice((_points, _points, _points, _box, _mask, _walk, _walk, _walk, _remove))(
            pair, dice
        )


def _aim(pair: Pair, dice: random.Random) -> tuple[int, int]:
    return dice.randrange(pair.count), dice.randrange(4)


def _points(pair: Pair, dice: random.Random) -> None:
    count = dice.randrange(1, 4)
    at = [[dice.uniform(0, HW[1]), dice.uniform(0, HW[0])] for _ in range(count)]
    labels = [dice.randrange(2) for _ in range(count)]
    again = dice.random() < 0.3
    pair.points(*_aim(pair, dice), points=at, labels=labels, clear_old_points=not again)


def _box(pair: Pair, dice: random.Random) -> None:
    x, y = dice.uniform(0, HW[1] - 20), dice.uniform(0, HW[0] - 20)
    box = [x, y, x + dice.uniform(4, 20), y + dice.uniform(4, 20)]
    inner = {"points": [[x + 2, y + 2]], "labels": [1]} if dice.random() < 0.5 else {}
    pair.points(*_aim(pair, dice), box=box, **inner)


def _mask(pair: Pair, dice: random.Random) -> None:
    mask = np.zeros(HW, bool)
    y, x = dice.randrange(HW[0] - 12), dice.randrange(HW[1] - 12)
    mask[y : y + 12, x : x + 10] = True
    pair.mask(*_aim(pair, dice), mask)


def _walk(pair: Pair, dice: random.Random) -> None:
    start = dice.randrange(pair.count) if dice.random() < 0.7 else None
    left = dice.randrange(1, pair.count) if dice.random() < 0.4 else None
    pair.walk(left, start_frame_idx=start, reverse=dice.random() < 0.5)


def _remove(pair: Pair, dice: random.Random) -> None:
    if len(pair.ours.obj_ids) > 1 and dice.random() < 0.5:
        pair.remove(dice.choice(pair.ours.obj_ids))


def all_of(walk: Iterator[Given]) -> dict[int, torch.Tensor]:
    """The masks of a walk, by frame."""
    return {frame: masks for frame, _, masks in walk}
