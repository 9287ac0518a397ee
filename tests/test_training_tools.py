"""The training tools: prompts, losses, batches, a few real steps of both trainings."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.detectors.dfine_folder import read_folder
from stages.sources.phantom_scene import CLASS_NAMES, PhantomScene
from tools import train_dfine, train_sam2, train_yolo
from tools.averaging import averaged_copy
from tools.batches import clip_batch, mirrored, picture_batch
from tools.losses import RawMasks, decoder_loss, mask_loss, true_ious
from tools.matching import box_ious, matched
from tools.phantom_clips import (
    CLIPS_PER_SEED,
    FIRST_EVALUATION_SEED,
    ClipSet,
    load_clips,
    mask_boxes,
    render_clips,
    save_clips,
)
from tools.prompts import SIZE, correcting_click, inner_click, jittered_boxes
from tools.render_phantom import TRAINING_SEEDS
from tools.weights import SAM2_YAML, build_sam2, build_yolo, load_weights, save_weights


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> ClipSet:
    folder = tmp_path_factory.mktemp("clips")
    save_clips(render_clips(range(3), workers=1), 3 * CLIPS_PER_SEED, folder)
    return load_clips(folder)


def disc(x: float, y: float, radius: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(120.0), torch.arange(160.0), indexing="ij")
    return ((columns - x) ** 2 + (rows - y) ** 2 < radius**2)[None]


def test_training_seeds_stay_below_those_for_evaluation() -> None:
    assert max(TRAINING_SEEDS) < FIRST_EVALUATION_SEED


def test_clips_are_a_function_of_the_seed_and_survive_the_disk(clips: ClipSet) -> None:
    again = list(render_clips(range(3), workers=1))
    assert len(clips) == len(again)
    for number, clip in enumerate(again):
        for field, value in zip(fields(ClipSet), clip, strict=True):
            assert np.array_equal(getattr(clips, field.name)[number], value)
    assert clips.counted.any()
    assert not np.array_equal(clips.sam[0], clips.sam[2])


@pytest.mark.parametrize("count", [CLIPS_PER_SEED - 1, CLIPS_PER_SEED + 1])
def test_other_than_the_announced_number_of_clips_is_an_error(count: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        save_clips(render_clips([0], workers=1), count, tmp_path)


def test_boxes_hold_their_masks() -> None:
    truth = PhantomScene(4).truth(200)
    boxes = mask_boxes(truth.masks)
    for (x0, y0, x1, y1), mask in zip(boxes.astype(int), truth.masks, strict=True):
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        assert mask[y0, x0:x1].any()
        assert mask[y0:y1, x1 - 1].any()
    assert np.array_equal(mirrored(mirrored(boxes)), boxes)


def test_clicks_lie_inside_and_corrections_in_the_larger_error() -> None:
    torch.manual_seed(0)
    mask = disc(100, 40, 12).repeat(20, 1, 1)
    x, y = (inner_click(mask).coords[:, 0] * torch.tensor([160 / SIZE, 120 / SIZE])).T
    assert mask[torch.arange(20), y.long(), x.long()].all()
    assert (x != x[0]).any()
    too_small, too_large = disc(100, 40, 5), disc(100, 40, 25)
    assert correcting_click(mask[:1], too_small).labels.item() == 1
    assert correcting_click(mask[:1], too_large).labels.item() == 0


def test_jittered_boxes_stay_near() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[20.0, 30.0, 60.0, 50.0]]).repeat(50, 1)
    moved = jittered_boxes(boxes, 0.1).coords.view(-1, 4)
    assert ((moved - boxes).abs() <= torch.tensor([4.0, 2.0, 4.0, 2.0])).all()
    assert not torch.equal(moved, boxes)


def test_losses_prefer_the_right_mask() -> None:
    target = disc(80, 60, 30).float()
    right = torch.nn.functional.interpolate(target[None] * 16 - 8, (32, 32), mode="area")[0]
    assert mask_loss(right, target) < 0.3 * mask_loss(-right, target)
    ious = true_ious(torch.stack([right, -right], 1), target)[0]
    assert ious[0] > 0.9 > 0.1 > ious[1]


def test_an_absent_object_teaches_the_presence_alone() -> None:
    logits = torch.zeros(1, 4, 32, 32, requires_grad=True)
    presence = torch.zeros(1, 1, requires_grad=True)
    raw = RawMasks(logits, torch.full((1, 4), 0.5), presence)
    decoder_loss(raw, torch.zeros(1, 120, 160), torch.tensor([False]), torch.ones(1)).backward()
    assert logits.grad is not None and not logits.grad.any()  # noqa: PT018
    assert presence.grad is not None and presence.grad > 0  # noqa: PT018


def test_matching_is_one_to_one_and_keeps_its_threshold() -> None:
    overlaps = box_ious(
        np.array([[0, 0, 10, 10], [100, 0, 110, 10]], np.float32),
        np.array([[0, 0, 10, 9], [0, 0, 10, 8], [105, 0, 115, 10]], np.float32),
    )
    assert overlaps[0, 0] == pytest.approx(0.9)
    assert matched(overlaps, least=0.5) == {0: 0}


def test_batches_agree_with_the_clips(clips: ClipSet) -> None:
    pictures = picture_batch(clips, 8, np.random.default_rng(0))
    x0, y0, x1, y1 = pictures.boxes.round().int().T
    columns = pictures.cover.amax(1) > 0
    assert ((x1 - x0) * 160 / SIZE - columns.sum(1)).abs().max() < 4
    assert (y1 > y0).all()
    assert pictures.shares.sum(1) == pytest.approx(1.0, abs=1e-6)
    objects = pictures.shares[:, 1:].sum((1, 2, 3)) * 16  # pixels of `occupied` a cell
    assert objects.tolist() == pytest.approx(pictures.occupied.sum((1, 2)).tolist(), rel=0.05)
    moving = clip_batch(clips, 3, np.random.default_rng(0))
    assert moving.counted[:, 0].all()
    assert (moving.cover.flatten(2).sum(2) > 0)[moving.counted].all()


def run(tool: Any, build: Any, clips: ClipSet, recipes: list[Any]) -> tuple[list[float], Any]:
    torch.manual_seed(0)
    model, losses = build(), []
    for recipe in recipes:
        losses += tool.train(model, clips, recipe, lambda averaged, number: None)
    return losses, model


def test_sam2_trains_and_repeats(clips: ClipSet) -> None:
    recipes = [
        replace(train_sam2.PICTURES, steps=4, pictures=2),
        replace(train_sam2.DENSE, steps=1, pictures=2),
        replace(train_sam2.CLIPS, steps=1, pictures=1, clips=1),
    ]
    losses, model = run(train_sam2, build_sam2, clips, recipes)
    again, _ = run(train_sam2, build_sam2, clips, recipes)
    assert np.isfinite(losses).all()
    assert losses[3] < losses[0]
    assert losses == pytest.approx(again, rel=1e-4)
    remembering = ("memory_attention.", "memory_encoder.", "obj_ptr_proj.", "maskmem_tpos_enc")
    for name, parameter in model.named_parameters():
        assert not name.startswith(remembering) or parameter.grad is not None, name


def test_yolo_trains_and_repeats_offline(clips: ClipSet, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(train_yolo.Recipe(), steps=4, pictures=4)
    losses, _ = run(train_yolo, build_yolo, clips, [recipe])
    again, _ = run(train_yolo, build_yolo, clips, [recipe])
    assert os.environ["YOLO_OFFLINE"] == "1"
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(again, rel=1e-4)


@pytest.mark.timeout(240)
def test_dfine_trains_repeats_and_is_written_for_its_stage(clips: ClipSet, tmp_path: Path) -> None:
    recipe = replace(train_dfine.Recipe(), steps=2, pictures=2)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        model = train_dfine.build_dfine()
        losses.append(
            train_dfine.train(
                model, clips, recipe, lambda averaged: train_dfine.save_model(tmp_path, averaged)
            )
        )
    assert np.isfinite(losses).all()
    assert losses[0][-1] < losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert read_folder(tmp_path).class_names == CLASS_NAMES
    again = train_dfine.build_dfine(tmp_path)
    assert again.config.num_queries == model.config.num_queries
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_dfine_batches_are_as_the_clips(clips: ClipSet) -> None:
    images, labels = train_dfine.dfine_batch(clips, 6, (160, 208), np.random.default_rng(0))
    assert tuple(images.shape) == (6, 3, 160, 208)
    assert 0 <= float(images.amin()) < float(images.amax()) <= 1
    boxes = torch.cat([label["boxes"] for label in labels])
    assert len(boxes) == sum(len(label["class_labels"]) for label in labels) > 3
    assert ((boxes[:, 2:] > 0) & (boxes[:, :2] - boxes[:, 2:] / 2 > -1e-6)).all()
    assert (boxes[:, :2] + boxes[:, 2:] / 2 < 1 + 1e-6).all()


def test_averaged_weights_forget_their_start() -> None:
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, 100.0)
    averaged = averaged_copy(model, decay=0.998)
    averaged.update_parameters(model)
    torch.nn.init.constant_(model.weight, 1.0)
    for _ in range(100):
        averaged.update_parameters(model)
    assert torch.allclose(averaged.module.weight, model.weight, atol=0.01)


def test_weights_files_round_trip_and_refuse_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = build_sam2(), build_sam2()
    path = tmp_path / "weights.safetensors"
    save_weights(path, model, SAM2_YAML, {"steps": 1})
    metadata = load_weights(path, other)
    assert metadata["config"] == SAM2_YAML.name
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-3, rtol=1e-3)
    with pytest.raises(RuntimeError, match="state_dict"):
        load_weights(path, build_yolo())
