"""A clip's masks are those of sam2's own predictor, whatever is prompted and walked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.clip_flaws import CLIP_FLAWS, forget
from benchmarks.clips import ClipComparison
from benchmarks.official import build_official
from tests.clip_rig import HW, Pair, at_random, tiny_predictor

SHORT, LONG = 12, 18
"""Frames: fewer than the sixteen pointers that the model would look back on, and more."""
POINT = {"points": [[20.0, 20.0]], "labels": [1]}
BESIDE = {"points": [[30.0, 24.0]], "labels": [0]}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_predictor(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def comparisons(predictor: Any) -> dict[int, ClipComparison]:
    return {frames: ClipComparison(predictor, frames, (96, 128)) for frames in (SHORT, LONG)}


def test_the_demos_masks_are_sam2s_in_both_directions() -> None:
    found = ClipComparison(build_official("demo", -1), LONG, (240, 320)).run()
    assert found.objects == 3
    assert found.holds, found


@pytest.mark.parametrize("frames", [SHORT, LONG])
def test_so_are_those_of_a_model_for_which_everything_matters(
    comparisons: dict[int, ClipComparison], frames: int
) -> None:
    found = comparisons[frames].run()
    assert found.worst_abs_logit_diff <= 1e-3
    assert found.nonempty_fraction >= 0.8


@pytest.mark.parametrize("flaw", sorted(CLIP_FLAWS))
def test_whatever_is_left_out_shows(comparisons: dict[int, ClipComparison], flaw: str) -> None:
    found = comparisons[SHORT if flaw == "normaliser" else LONG].run(flaw)
    assert found.worst_abs_logit_diff > 2e-3
    assert found.nonempty_fraction >= 0.8


@pytest.mark.parametrize(("seed", "frames", "correct_as_cond"), [(2, 20, False), (3, 12, True)])
def test_whatever_happens_masks_are_sam2s_where_all_is_kept(
    predictor: Any, seed: int, frames: int, correct_as_cond: bool
) -> None:
    pair = Pair(predictor, frames, correct_as_cond, keep="all")
    at_random(pair, seed)
    assert pair.worst <= 1e-3, pair.differing[0]
    assert pair.compared >= 30


def prompts_then_both_ways_twice(pair: Pair) -> None:
    """As people work: look at all, prompt more, correct what was prompted, look again."""
    pair.points(20, 1, **POINT)
    pair.walk(start_frame_idx=20)
    pair.walk(start_frame_idx=20, reverse=True)
    pair.points(20, 1, **BESIDE, clear_old_points=False)
    pair.points(49, 2, box=[10.0, 10.0, 40.0, 40.0])
    pair.walk(start_frame_idx=20, steps=8)
    pair.walk(start_frame_idx=20, reverse=True, max_frame_num_to_track=8)


def stopped_and_corrected(pair: Pair) -> None:
    """A walk is left, a frame a little earlier corrected, and the walk goes on from there."""
    pair.points(0, 1, **POINT)
    pair.walk(steps=40)
    pair.points(33, 1, **BESIDE)
    pair.walk(start_frame_idx=33, steps=10)
    pair.walk(start_frame_idx=43, steps=4)
    pair.walk(start_frame_idx=47)


def corrected_by_a_mask(pair: Pair) -> None:
    mask = np.zeros(HW, bool)
    mask[10:30, 12:40] = True
    pair.mask(10, 3, mask)
    pair.points(45, 4, **POINT)
    pair.walk(start_frame_idx=10, reverse=True)
    pair.walk(start_frame_idx=10, steps=38)
    pair.mask(45, 3, mask)
    pair.remove(4)
    pair.walk(start_frame_idx=45, reverse=True, max_frame_num_to_track=16)


WORK = (
    (prompts_then_both_ways_twice, True), (stopped_and_corrected, False),
    (corrected_by_a_mask, False),
)  # fmt: skip


@pytest.mark.parametrize(("work", "correct_as_cond"), WORK)
def test_what_people_do_needs_nothing_that_is_let_go(
    predictor: Any, work: Any, correct_as_cond: bool
) -> None:
    pair = Pair(predictor, 50, correct_as_cond)
    work(pair)
    assert pair.worst <= 1e-3, pair.differing[0]


def test_but_it_needs_what_is_held(predictor: Any) -> None:
    pair = Pair(predictor, 50, False)
    forget(pair.ours)
    stopped_and_corrected(pair)
    assert pair.worst > 2e-3


def test_a_walk_from_elsewhere_differs_as_the_class_says(predictor: Any) -> None:
    pair = Pair(predictor, 50, False)
    pair.points(0, 1, **POINT)
    pair.walk()
    pair.walk(start_frame_idx=24, steps=3)
    assert pair.worst > 2e-3
