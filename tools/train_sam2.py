"""``python -m tools.train_sam2``: train the demo SAM2 on rendered clips, on the CPU.

Seven phases in this order: pictures teach prompts; more pictures, with the encoder's maps
supervised too; clips add memory; four joint phases bring both on together, the last one boxes
most. Same clips, steps and threads give the same weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from tools.averaging import averaged_copy
from tools.batches import clip_batch, picture_batch
from tools.phantom_clips import ClipSet, load_clips
from tools.sam2_steps import DecoderTap, DenseHeads, clip_step, picture_step
from tools.weights import SAM2_YAML, build_sam2, load_weights, save_weights

Step = Callable[[int], Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What determines the weights, besides the clips."""

    phase: str
    steps: int
    pictures: int
    clips: int
    peak_rate: float
    tracking_rate: float
    seed: int
    dense: bool = False
    """Whether the encoder also learns class shares; see `DenseHeads`."""
    clip_weight: float = 1.0
    """Of the clips' loss, beside the pictures'."""
    clip_every: int = 1
    """Steps until clips are learned again."""
    box_weight: float = 1.0
    """Of what an uncorrected box gave, beside what other prompts did."""
    ema: float = 0.998
    weight_decay: float = 0.01
    clip_norm: float = 1.0


# Parts that only tracking uses; they learn faster, since the clip phase finds them untouched.
_TRACKING_PARTS = ("memory_", "obj_ptr_", "maskmem_", "mask_downsample", "no_obj_")

PICTURES = Recipe(
    "pictures", steps=1600, pictures=16, clips=0, peak_rate=6e-4, tracking_rate=6e-4, seed=1
)
DENSE = replace(PICTURES, phase="dense", steps=2200, seed=4, dense=True)
CLIPS = Recipe("clips", steps=500, pictures=8, clips=4, peak_rate=4e-4, tracking_rate=8e-4, seed=2)
JOINT = Recipe(
    "joint", steps=2200, pictures=16, clips=2, peak_rate=5e-4, tracking_rate=5e-4, seed=10,
    dense=True, clip_weight=0.5,
)  # fmt: skip
POLISH = replace(JOINT, phase="polish", steps=1000, peak_rate=3e-4, tracking_rate=3e-4, seed=11)
WIDEN = replace(JOINT, phase="widen", steps=2000, clip_weight=1.0, clip_every=3, seed=21, ema=0.999)
BOXES = replace(
    WIDEN, phase="boxes", steps=1700, clip_weight=2.0, clip_every=6, box_weight=3.0, seed=24
)
PHASES = (PICTURES, DENSE, CLIPS, JOINT, POLISH, WIDEN, BOXES)


def make_step(
    model: SAM2Base, tap: DecoderTap, clips: ClipSet, recipe: Recipe, dense: DenseHeads | None
) -> Step:
    """The loss of one training step, by its number."""
    rng = np.random.default_rng(recipe.seed)

    def step(number: int) -> Tensor:
        batch = picture_batch(clips, recipe.pictures, rng)
        loss = picture_step(model, tap, batch, int(number % 5 == 4), dense, recipe.box_weight)
        if recipe.clips and number % recipe.clip_every == 0:
            followed = clip_step(model, tap, clip_batch(clips, recipe.clips, rng))
            loss = loss + recipe.clip_weight * followed
        return loss

    return step


def train(
    model: SAM2Base,
    clips: ClipSet,
    recipe: Recipe,
    save: Callable[[nn.Module, int], None],
    every: int = 100,
) -> list[float]:
    """Train ``model`` in place; ``save`` gets the averaged model now and then and at the end.

    Returns each step's loss.
    """
    torch.manual_seed(recipe.seed)
    averaged = averaged_copy(model, recipe.ema)
    tap = DecoderTap(model)
    dense = DenseHeads(model) if recipe.dense else None
    step = make_step(model, tap, clips, recipe, dense)
    parts = [*model.named_parameters(), *(dense.named_parameters() if dense else ())]
    rates = [recipe.peak_rate, recipe.tracking_rate]
    groups = [
        {"params": [p for name, p in parts if name.startswith(_TRACKING_PARTS) is tracking]}
        for tracking in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.peak_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=recipe.steps, pct_start=0.08
    )
    losses: list[float] = []
    started = time.monotonic()
    for number in range(recipe.steps):
        loss = step(number)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(model)
        losses.append(float(loss.detach()))
        if (number + 1) % every == 0 or number + 1 == recipe.steps:
            mean = float(np.mean(losses[-every:]))
            seconds = time.monotonic() - started
            print(f"{recipe.phase} {number + 1}/{recipe.steps} loss {mean:.4f} {seconds:.0f} s",
                  flush=True)  # fmt: skip
            save(averaged.module, number + 1)
    tap.remove()
    return losses


def main() -> None:
    """Train one or all phases and write a weights file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="folder written by tools.render_phantom")
    parser.add_argument("out", type=Path, help="weights file (.safetensors) to write")
    parser.add_argument("--start", type=Path, help="weights file to start from")
    parser.add_argument(
        "--phase", choices=[*(recipe.phase for recipe in PHASES), "all"], default="all"
    )
    parser.add_argument("--steps", type=int, help="steps of each phase, in place of the recipe's")
    parser.add_argument("--seed", type=int, help="in place of each phase's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="four steps of each phase")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clips = load_clips(arguments.clips)
    torch.manual_seed(0)
    model = build_sam2()
    if arguments.start:
        load_weights(arguments.start, model)
    for base in PHASES:
        if arguments.phase not in (base.phase, "all"):
            continue
        steps = 4 if arguments.quick else arguments.steps or base.steps
        seed = base.seed if arguments.seed is None else arguments.seed
        recipe = replace(base, steps=steps, seed=seed)

        def save(averaged: nn.Module, number: int, recipe: Recipe = recipe) -> None:
            save_weights(
                arguments.out, averaged, SAM2_YAML,
                {**asdict(recipe), "done": number, "seeds": len(set(clips.seeds.tolist()))},
            )  # fmt: skip

        train(model, clips, recipe, save)
        load_weights(arguments.out, model)


if __name__ == "__main__":
    main()
