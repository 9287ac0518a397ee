"""The tracker's core: equal to sam2's own predictor, whatever else happens in other slots."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from benchmarks.official import UNSURE, build_official, scene_pictures
from benchmarks.parity import CONDITIONING, Comparison
from benchmarks.script import LENGTH, script
from benchmarks.streamed import FLAWS
from pipeline.build import TRACKED_MODELS
from stages.errors import ConfigError
from stages.segmenters.sam2_checkpoint import build_structure
from stages.segmenters.tracker_core import TrackerCore
from stages.segmenters.tracker_structure import bank_shape

FRAMES = 60
BOXES = torch.tensor([[[30.0, 30.0], [70.0, 70.0]], [[60.0, 50.0], [110.0, 100.0]]])
CORNERS = torch.tensor([[2, 3]], dtype=torch.int32)


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return Comparison(UNSURE, FRAMES)


def test_masks_equal_the_official_predictors_on_every_frame() -> None:
    found = Comparison("demo", FRAMES).run()
    assert found.objects == 4
    assert found.worst_abs_logit_diff <= 1e-3
    assert found.worst_mask_iou >= 0.999
    assert found.nonempty_fraction >= 0.9


def test_nothing_left_out_holds_where_everything_matters(comparison: Comparison) -> None:
    assert comparison.run().holds


@pytest.mark.parametrize("flaw", sorted(FLAWS))
def test_whatever_is_left_out_breaks_parity(comparison: Comparison, flaw: str) -> None:
    found = comparison.run(flaw)
    assert not found.holds
    assert found.nonempty_fraction >= 0.9


def test_script_keeps_its_events_in_order_on_any_length() -> None:
    whole, short = script(LENGTH), script(FRAMES)
    events = [[(step.action, step.name) for at in sorted(s) for step in s[at]]
              for s in (whole, short)]  # fmt: skip
    assert events[0] == events[1]
    reinits = [at for at, some in whole.items() for step in some
               if step.action == "reinit" and step.name == "a"]  # fmt: skip
    assert len(reinits) == 6 > CONDITIONING
    assert min(b - a for a, b in pairwise(reinits)) <= 6


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_official("demo", CONDITIONING)


@pytest.fixture(scope="module")
def pictures() -> list[list[Tensor]]:
    return [scene_pictures(20, 128, (seed, 120)) for seed in (3, 4)]


@torch.inference_mode()
def run(
    model: torch.nn.Module, pictures: list[list[Tensor]], streams: dict[int, int], slots: int = 3
) -> dict[int, list[Tensor]]:
    """Logits of the slots in `streams` (slot: stream) over the pictures of all streams."""
    core = TrackerCore(model, slots, CONDITIONING, streams=len(pictures))
    for slot, stream in streams.items():
        core.stream_of[slot] = stream
    rows = torch.tensor(list(streams))
    found: dict[int, list[Tensor]] = {slot: [] for slot in streams}
    for number, now in enumerate(zip(*pictures, strict=True)):
        encoded = core.encode(torch.stack(now))
        if number == 0:
            tokens = core.head.tokens(BOXES[rows % 2], CORNERS.expand(len(rows), -1))
            shown = core.begin(encoded, rows, tokens)
        else:
            shown = core.track(encoded, rows, torch.ones_like(rows).bool())
        for slot, logits in zip(streams, shown.masks.logits, strict=True):
            found[slot].append(logits)
        core.advance()
    return found


def test_two_streams_in_one_step_equal_two_runs(
    model: torch.nn.Module, pictures: list[list[Tensor]]
) -> None:
    together = run(model, pictures, {0: 0, 1: 1})
    for slot in (0, 1):
        alone = run(model, [pictures[slot]], {slot: 0})
        for ours, wanted in zip(together[slot], alone[slot], strict=True):
            assert (ours - wanted).abs().max() <= 1e-3
    swapped = run(model, pictures, {0: 1, 1: 0})
    assert (swapped[0][-1] - together[0][-1]).abs().max() > 1


def test_an_object_is_not_touched_by_what_others_do(
    model: torch.nn.Module, pictures: list[list[Tensor]]
) -> None:
    @torch.inference_mode()
    def first(disturbed: bool) -> list[Tensor]:
        core = TrackerCore(model, 3, CONDITIONING)
        rows, one = torch.arange(3), torch.tensor([1])
        live = torch.tensor([True, disturbed, False])
        found = []
        for number, picture in enumerate(pictures[0]):
            encoded = core.encode(picture[None])
            if number == 0:
                core.begin(encoded, rows[:1], core.head.tokens(BOXES[:1], CORNERS))
            shown = core.track(encoded, rows, live)
            if disturbed and number in (3, 9):
                core.bank.open(one)
                core.begin(encoded, one, core.head.tokens(BOXES[1:], CORNERS))
            found.append(shown.masks.logits[0])
            core.advance()
        return found

    for quiet, busy in zip(first(False), first(True), strict=True):
        assert torch.equal(quiet, busy)


@pytest.mark.parametrize("later", [0, 1])
def test_a_correction_of_a_conditioning_frame_is_forgotten_and_one_a_frame_later_is_not(
    model: torch.nn.Module, pictures: list[list[Tensor]], later: int
) -> None:
    @torch.inference_mode()
    def last(corrected: bool) -> Tensor:
        core = TrackerCore(model, 1, CONDITIONING)
        row, live = torch.tensor([0]), torch.tensor([True])
        for number, picture in enumerate(pictures[0][:8]):
            encoded = core.encode(picture[None])
            shown = core.track(encoded, row, live)
            if number == 0:
                shown = core.begin(encoded, row, core.head.tokens(BOXES[:1], CORNERS))
            if corrected and number == later:
                tokens = core.head.tokens(BOXES[1:], CORNERS)
                core.correct(encoded, row, shown.features, shown.masks.logits, tokens)
            core.advance()
        return shown.masks.logits

    changed = float((last(True) - last(False)).abs().max())
    assert (changed > 1e-2) if later else (changed == 0)


def test_memory_is_as_large_as_it_says_and_clears(model: torch.nn.Module) -> None:
    bank = TrackerCore(model, 5, 3).bank
    sizes = [tensor.numel() * tensor.element_size() for tensor in bank.tensors]
    assert sum(sizes) == bank.shape.nbytes
    rows, now = torch.tensor([2]), torch.tensor([7])
    memory = torch.ones(1, bank.shape.tokens, bank.shape.memory_dim, dtype=torch.bfloat16)
    bank.condition(rows, now, memory, torch.ones(1, bank.shape.model_dim))
    assert bank.recall(rows, now + 1).visible.sum() > bank.shape.tokens
    bank.clear()
    assert int(bank.recall(rows, now + 1).visible.sum()) == bank.shape.tokens
    assert not any(tensor.clamp(min=0).any() for tensor in bank.tensors)


def test_structure_unlike_the_published_ones_is_refused(model: torch.nn.Module) -> None:
    unlike = build_official("demo", CONDITIONING)
    unlike.directly_add_no_mem_embed = False
    with pytest.raises(ConfigError, match="directly_add_no_mem_embed: got False, expected True"):
        TrackerCore(unlike, 2, CONDITIONING)


def test_doctor_knows_the_sizes_of_the_published_models() -> None:
    for config, name in (("demo", "demo"), ("sam2.1_hiera_t", "sam2.1")):
        network = build_structure(config)
        shape = bank_shape(network, 8, 4)
        side, *channels = TRACKED_MODELS[name]
        assert network.image_size == side
        assert [shape.memory_dim, shape.model_dim] == channels
        assert shape.tokens == (side // 16) ** 2
        assert (shape.recent, shape.pointers) == (6, 15)
