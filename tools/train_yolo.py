"""``python -m tools.train_yolo``: train the demo detector on rendered clips, on the CPU.

A plain loop around ultralytics' own model and end-to-end loss (AGPL-3.0): both heads learn, and
the weight moves from the one-to-many to the one-to-one head, which alone is used afterwards.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tools.averaging import averaged_copy
from tools.batches import mirrored, regraded
from tools.phantom_clips import FRAME_HW, FRAMES, ClipSet, load_clips
from tools.weights import YOLO_YAML, build_yolo, load_weights, save_weights

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.loss import E2ELoss


@dataclass(frozen=True, slots=True)
class Recipe:
    """What determines the weights, besides the clips."""

    steps: int = 2600
    pictures: int = 32
    peak_rate: float = 2e-3
    seed: int = 3
    ema: float = 0.998
    weight_decay: float = 5e-4
    clip_norm: float = 10.0
    phases: int = 50  # steps of the loss's own schedule between the heads
    phases_done: int = 0  # of them, before the first step


ROUNDS = (
    Recipe(),
    Recipe(steps=2200, peak_rate=1.5e-3, seed=5, phases_done=25),
    Recipe(steps=1500, peak_rate=1.2e-3, seed=6, phases_done=25),
    Recipe(steps=900, peak_rate=1e-3, seed=7, phases_done=35),
)
"""One after the other: each warm-up finds more of what is half hidden."""


def detector_batch(clips: ClipSet, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """``count`` pictures and the counted objects' boxes, in the form of ultralytics' loss."""
    picked, times = rng.integers(0, len(clips), count), rng.integers(0, FRAMES, count)
    gray, boxes = regraded(clips.detector[picked, times], rng), clips.boxes[picked, times]
    mirror = rng.random(count) < 0.5
    gray[mirror], boxes[mirror] = gray[mirror, :, ::-1], mirrored(boxes[mirror])
    row, slot = np.nonzero(clips.counted[picked, times])
    height, width = FRAME_HW
    corners = boxes[row, slot] / np.array([width, height, width, height], np.float32)
    centres = np.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1
    )
    return {
        "img": (torch.from_numpy(gray).float() / 255)[:, None].expand(-1, 3, -1, -1),
        "batch_idx": torch.from_numpy(row).float(),
        "cls": torch.from_numpy(clips.class_ids[picked[row], slot]).float(),
        "bboxes": torch.from_numpy(centres.astype(np.float32)),
    }


def criterion_for(model: DetectionModel, phases: int) -> E2ELoss:
    """Ultralytics' end-to-end loss with its default gains."""
    from ultralytics.cfg import get_cfg

    model.args = get_cfg(overrides={"epochs": phases})
    return model.init_criterion()


def train(
    model: DetectionModel,
    clips: ClipSet,
    recipe: Recipe,
    save: Callable[[nn.Module, int], None],
    every: int = 100,
) -> list[float]:
    """Train ``model`` in place; ``save`` gets the averaged model now and then and at the end.

    Returns each step's loss a picture.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    criterion = criterion_for(model, recipe.phases)
    for _ in range(recipe.phases_done):
        criterion.update()
    averaged = averaged_copy(model, recipe.ema)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, total_steps=recipe.steps, pct_start=0.1
    )
    model.train()
    losses: list[float] = []
    started = time.monotonic()
    for number in range(recipe.steps):
        batch = detector_batch(clips, recipe.pictures, rng)
        parts, _ = criterion(model(batch["img"].contiguous(memory_format=torch.channels_last)),
                             batch)  # fmt: skip
        loss = parts.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        losses.append(float(loss.detach()) / recipe.pictures)
        if (number + 1) % max(recipe.steps // (recipe.phases - recipe.phases_done), 1) == 0:
            criterion.update()
        if (number + 1) % every == 0 or number + 1 == recipe.steps:
            mean = float(np.mean(losses[-every:]))
            seconds = time.monotonic() - started
            print(f"yolo {number + 1}/{recipe.steps} loss {mean:.4f} {seconds:.0f} s", flush=True)
            save(averaged.module, number + 1)
    return losses


def main() -> None:
    """Train the detector and write a weights file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="folder written by tools.render_phantom")
    parser.add_argument("out", type=Path, help="weights file (.safetensors) to write")
    parser.add_argument("--start", type=Path, help="weights file to start from")
    parser.add_argument("--round", type=int, choices=range(1, len(ROUNDS) + 1), help="only this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="four steps")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips = load_clips(arguments.clips)
    torch.manual_seed(0)
    model = build_yolo().to(memory_format=torch.channels_last)
    if arguments.start:
        load_weights(arguments.start, model)

    for place, base in enumerate(ROUNDS, start=1):
        if arguments.round not in (None, place):
            continue
        recipe = replace(base, steps=4) if arguments.quick else base

        def save(averaged: nn.Module, number: int, recipe: Recipe = recipe) -> None:
            save_weights(
                arguments.out, averaged, YOLO_YAML,
                {**asdict(recipe), "done": number, "seeds": len(set(clips.seeds.tolist()))},
            )  # fmt: skip

        train(model, clips, recipe, save)
        load_weights(arguments.out, model)


if __name__ == "__main__":
    main()
