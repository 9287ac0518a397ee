"""``python -m tools.train_dfine``: train the demo D-FINE on rendered clips, on the CPU.

A plain loop around transformers' own model and loss (Apache-2.0; the loss needs scipy), from
random weights. The clips' pictures are brought to the model's own input size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.averaging import averaged_copy
from tools.phantom_clips import ClipSet, load_clips
from tools.train_yolo import detector_batch
from tools.weights import ROOT

if TYPE_CHECKING:
    from transformers import DFineForObjectDetection

DFINE_FOLDER: Final = ROOT / "stages/detectors/weights/dfine_demo"
PREPROCESSOR: Final = "preprocessor_config.json"
WRITTEN: Final = ("config.json", "model.safetensors")
"""What a training makes anew in that folder."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What determines the weights, besides the clips."""

    steps: int = 2400
    pictures: int = 16
    peak_rate: float = 2e-3
    seed: int = 3
    ema: float = 0.998
    weight_decay: float = 1e-4
    clip_norm: float = 0.5


def input_hw() -> tuple[int, int]:
    """(height, width) of the demo model's input, as its preprocessor's file has it."""
    size = json.loads((DFINE_FOLDER / PREPROCESSOR).read_text())["size"]
    return size["height"], size["width"]


def build_dfine(weights: Path | None = None) -> DFineForObjectDetection:
    """The demo D-FINE, fresh or with the weights in a folder that `save_model` wrote."""
    os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"
    from transformers import DFineConfig, DFineForObjectDetection

    if weights is not None:
        return DFineForObjectDetection.from_pretrained(weights, local_files_only=True)
    return DFineForObjectDetection(DFineConfig.from_pretrained(DFINE_FOLDER, local_files_only=True))


def dfine_batch(
    clips: ClipSet, count: int, size_hw: tuple[int, int], rng: np.random.Generator
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Pictures float32 (count, 3, *size_hw), 0..1, and each one's `class_labels` int64 (n,) and
    `boxes` float32 (n, 4), centre and size as shares of the picture.

    Clips are a little larger than the input. A second resize with its filter is blurrier than a
    frame resized at once, one without is sharper: either by chance.
    """
    batch = detector_batch(clips, count, rng)
    images = F.interpolate(
        batch["img"][:, :1], size_hw, mode="bilinear", antialias=bool(rng.random() < 0.5)
    )
    labels = []
    for row in range(count):
        own = batch["batch_idx"] == row
        labels.append({"class_labels": batch["cls"][own].long(), "boxes": batch["bboxes"][own]})
    return images.expand(-1, 3, -1, -1), labels


def train(
    model: DFineForObjectDetection,
    clips: ClipSet,
    recipe: Recipe,
    save: Callable[[nn.Module], None],
    every: int = 100,
) -> list[float]:
    """Train ``model`` in place; ``save`` gets the averaged model now and then and at the end.

    Returns each step's loss.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    averaged = averaged_copy(model, recipe.ema)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_rate, total_steps=recipe.steps, pct_start=0.1
    )
    size_hw = input_hw()
    model.train()
    losses: list[float] = []
    started = time.monotonic()
    for number in range(recipe.steps):
        images, labels = dfine_batch(clips, recipe.pictures, size_hw, rng)
        images = images.contiguous(memory_format=torch.channels_last)
        loss = model(pixel_values=images, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        losses.append(float(loss.detach()))
        if (number + 1) % every == 0 or number + 1 == recipe.steps:
            mean, seconds = float(np.mean(losses[-every:])), time.monotonic() - started
            print(
                f"dfine {number + 1}/{recipe.steps} loss {mean:.3f} {seconds:.0f} s, "
                f"{time.process_time():.0f} s of processor time",
                flush=True,
            )
            save(averaged.module)
    return losses


def save_model(folder: Path, model: nn.Module) -> None:
    """Write weights and both configurations, as transformers' `from_pretrained` reads them."""
    part = folder.with_name(folder.name + ".part")
    model.save_pretrained(part)
    shutil.copy(DFINE_FOLDER / PREPROCESSOR, part / PREPROCESSOR)
    folder.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        file.chmod(0o644)
        file.replace(folder / file.name)
    part.rmdir()


def main() -> None:
    """Train the detector and write its folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="folder written by tools.render_phantom")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--start", type=Path, help="folder with weights to start from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="four steps")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips = load_clips(arguments.clips)
    torch.manual_seed(0)
    model = build_dfine(arguments.start).to(memory_format=torch.channels_last)
    recipe = replace(Recipe(), steps=4) if arguments.quick else Recipe()
    train(model, clips, recipe, lambda averaged: save_model(arguments.out, averaged))


if __name__ == "__main__":
    main()
