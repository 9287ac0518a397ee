"""A clip in use: what it answers, what it refuses, what it holds, and that nothing leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stages.clip.session as session
from benchmarks.clips import ArrayFrames, planes
from pipeline.audit import residency_guard
from pipeline.clip import open_clip
from pipeline.fake_cuda import fake_cuda
from stages.clip.frames import UploadedFrames
from stages.clip.objects import ClipObject
from stages.clip.session import Clip
from stages.clip.shown import frame_of
from stages.clip.tracker import ClipTracker
from stages.clip.walk import Walk
from stages.errors import ClipError, ConfigError, PromptError, ResidencyError, SourceError
from tests.clip_rig import HW, all_of, moving, opened, tiny_predictor

FRAMES = 18
POINT = {"points": [[20.0, 20.0]], "labels": [1]}
BOX = {"box": [10.0, 10.0, 40.0, 40.0]}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_predictor(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def clip(predictor: Any) -> Iterator[Clip]:
    with opened(predictor, FRAMES) as clip:
        yield clip


def disc() -> Any:
    y, x = np.mgrid[: HW[0], : HW[1]]
    return (y - 20) ** 2 + (x - 30) ** 2 < 100


class TestUse:
    def test_a_prompt_gives_the_frames_masks_at_once(self, clip: Clip) -> None:
        frame, ids, masks = clip.add_new_points_or_box(3, 7, **POINT)
        assert (frame, ids, masks.shape, masks.dtype) == (3, [7], (1, 1, *HW), torch.float32)
        frame, ids, masks = clip.add_new_mask(3, 5, disc())
        assert (ids, masks.shape) == ([7, 5], (2, 1, *HW))
        overlap = ((masks[1, 0] > 0) & torch.from_numpy(disc())).sum() / disc().sum()
        assert overlap > 0.9
        assert clip.result(3).known == clip.result(3).prompted == (True, True)

    def test_who_has_no_result_on_a_frame_is_absent_and_not_known(self, clip: Clip) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        _, _, masks = clip.add_new_points_or_box(9, 2, **BOX)
        assert bool((masks[0] == -1024).all())
        assert clip.result(9).known == (False, True)

    def test_a_walk_goes_where_it_is_told(self, clip: Clip) -> None:
        clip.add_new_points_or_box(5, 1, **POINT)
        clip.add_new_points_or_box(8, 2, **BOX)

        def frames(*walk: Any) -> list[int]:
            return [found.frame_idx for found in clip.propagate(*walk)]

        assert frames() == list(range(5, FRAMES))
        assert torch.equal(clip.picture(0), planes(moving(FRAMES)[0])), "also between walks"
        assert frames(6, 4) == [6, 7, 8, 9, 10]
        assert frames(6, None, True) == [6, 5, 4, 3, 2, 1, 0]
        assert frames(6, 2, True) == [6, 5, 4]
        assert frames(0, None, True) == []

    def test_a_record_is_what_the_masks_are_made_of(self, clip: Clip) -> None:
        clip.add_new_points_or_box(5, 1, **POINT)
        clip.add_new_mask(6, 2, disc())
        found = list(clip.propagate())
        side = clip._core.image_size // 4
        for record in found:
            assert record.obj_ids == (1, 2)
            assert record.logits.shape == (2, side, side)
            assert record.presence.shape == record.quality.shape == (2,)
            assert record.known == (True, True)
            assert record.masks().shape == (2, 1, *HW)
        assert [record.prompted for record in found[:3]] == [
            (True, False), (False, True), (False, False),
        ]  # fmt: skip
        assert float(found[1].quality[1]) == 1

    def test_objects_go_and_come_again(self, clip: Clip) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        alone = all_of(clip.propagate_in_video())
        clip.add_new_points_or_box(4, 2, **BOX)
        assert clip.remove_object(9) == ([1, 2], [])
        ids, frames = clip.remove_object(2, need_output=True)
        assert (ids, [frame for frame, _ in frames]) == ([1], [4])
        clip.reset_state()
        assert clip.obj_ids == []
        clip.add_new_points_or_box(0, 1, **POINT)
        again = all_of(clip.propagate_in_video())
        assert all(torch.equal(alone[frame], again[frame]) for frame in range(FRAMES))
        assert clip.remove_object(1) == ([], [])

    def test_points_in_shares_are_points_in_pixels(self, clip: Clip) -> None:
        at = clip.add_new_points_or_box(0, 1, [[16, 12]], [1])[2]
        shares = clip.add_new_points_or_box(0, 2, [[0.25, 0.25]], [1], normalize_coords=False)[2]
        assert torch.equal(at[0], shares[1])

    def test_numbers_may_come_as_tensors_or_arrays(self, clip: Clip) -> None:
        listed = clip.add_new_points_or_box(0, 1, **POINT, **BOX)[2]
        given = clip.add_new_points_or_box(
            np.int64(0),
            2,
            torch.tensor([[[20, 20]]]),
            np.array([[1]]),
            box=torch.tensor(BOX["box"]),
        )[2]
        assert torch.equal(listed[0], given[1])

    def test_each_frame_is_encoded_once_in_a_direction(
        self, clip: Clip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoded = []
        whole = clip._core.network.transform
        monkeypatch.setattr(
            clip._core.network, "transform", lambda rgb: encoded.append(1) or whole(rgb)
        )
        clip.add_new_points_or_box(10, 1, **POINT)
        clip.add_new_points_or_box(10, 2, **BOX)
        for reverse in (False, True):
            all_of(clip.propagate_in_video(10, reverse=reverse))
        assert len(encoded) == 1 + (FRAMES - 11) + 10, "and where all are prompted, once at all"

    def test_cancelled_from_another_thread_a_walk_ends_and_another_goes_on(
        self, clip: Clip
    ) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        whole = all_of(clip.propagate_in_video())
        clip.reset_state()
        clip.add_new_points_or_box(0, 1, **POINT)
        seen = {}
        for frame, _, masks in clip.propagate_in_video():
            seen[frame] = masks
            if frame == 6:
                thread = threading.Thread(target=clip.cancel)
                thread.start()
                thread.join()
        assert list(seen) == list(range(7))
        seen |= all_of(clip.propagate_in_video(7))
        apart = [float((whole[frame] - seen[frame]).abs().max()) for frame in range(FRAMES)]
        assert max(apart) <= 1e-3

    def test_a_correction_is_kept_to(self, clip: Clip) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        before = all_of(clip.propagate_in_video())
        _, _, masks = clip.add_new_mask(10, 1, disc())
        after = all_of(clip.propagate_in_video())
        assert torch.equal(after[10], masks)
        assert not torch.allclose(before[12], after[12], atol=1e-2)

    def test_it_closes_whatever_happens(self, predictor: Any) -> None:
        closed = []
        clip = opened(predictor, FRAMES)
        clip._frames.close = lambda: closed.append(1)  # type: ignore[method-assign]
        clip.add_new_points_or_box(0, 1, **POINT)
        walk = clip.propagate()
        next(walk)
        with pytest.raises(ZeroDivisionError), clip:
            raise ZeroDivisionError
        clip.close()
        assert closed
        with pytest.raises(ClipError, match="the clip is closed"):
            next(walk)
        for use in (
            clip.propagate, clip.reset_state, lambda: clip.picture(0), lambda: clip.result(0),
            lambda: clip.add_new_points_or_box(0, 1, **POINT), lambda: clip.remove_object(1),
        ):  # fmt: skip
            with pytest.raises(ClipError, match="the clip is closed"):
                use()


BAD: dict[str, tuple[Callable[[Clip], object], str]] = {
    "nothing": (lambda c: c.add_new_points_or_box(0, 2), "neither points nor a box"),
    "no_points": (lambda c: c.add_new_points_or_box(0, 2, [], []), "neither points nor a box"),
    "many_points": (
        lambda c: c.add_new_points_or_box(0, 2, [[1, 1]] * 65, [1] * 65),
        "points: got 65 on one frame, expected at most 64",
    ),
    "frame": (
        lambda c: c.add_new_points_or_box(FRAMES, 2, **POINT),
        f"frame_idx: got {FRAMES}, expected a whole number from 0 to {FRAMES - 1}",
    ),
    "frame_below": (lambda c: c.add_new_mask(-1, 2, disc()), "frame_idx: got -1, expected"),
    "frame_share": (lambda c: c.add_new_mask(0.5, 2, disc()), "frame_idx: got 0.5, expected"),
    "frame_truth": (lambda c: c.add_new_mask(True, 2, disc()), "frame_idx: got True, expected"),
    "object": (lambda c: c.add_new_mask(0, -3, disc()), "obj_id: got -3, expected"),
    "object_name": (lambda c: c.add_new_mask(0, "a", disc()), "obj_id: got 'a', expected"),
    "box_outside": (
        lambda c: c.add_new_points_or_box(0, 2, box=[70, 10, 90, 20]),
        r"box: \(70, 10, 90, 20\) is outside of the 64x48 picture",
    ),
    "box_empty": (
        lambda c: c.add_new_points_or_box(0, 2, box=[20, 10, 20, 20]), "is empty, expected x1 < x2",
    ),
    "box_short": (lambda c: c.add_new_points_or_box(0, 2, box=[1, 2, 3]), "got 3 numbers"),
    "box_late": (
        lambda c: c.add_new_points_or_box(0, 2, **BOX, clear_old_points=False),
        "comes before all points",
    ),
    "nan": (
        lambda c: c.add_new_points_or_box(0, 2, [[float("nan"), 1]], [1]), "points: got NaN",
    ),
    "point_outside": (
        lambda c: c.add_new_points_or_box(0, 2, [[65, 1]], [1]),
        r"points: \(65, 1\) is outside, expected x in 0..64 and y in 0..48",
    ),
    "share_outside": (
        lambda c: c.add_new_points_or_box(0, 2, [[1.5, 0]], [1], normalize_coords=False),
        "is outside",
    ),
    "no_labels": (lambda c: c.add_new_points_or_box(0, 2, [[1, 1]]), "one label for each point"),
    "few_labels": (
        lambda c: c.add_new_points_or_box(0, 2, [[1, 1], [2, 2]], [1]), "labels: got 1, expected",
    ),
    "other_labels": (
        lambda c: c.add_new_points_or_box(0, 2, [[1, 1]], [3]), r"labels: expected 1 \(on",
    ),
    "point_shape": (lambda c: c.add_new_points_or_box(0, 2, [1, 1], [1, 1]), r"expected \(P, 2\)"),
    "words": (lambda c: c.add_new_points_or_box(0, 2, "here", [1]), "points: expected numbers"),
    "mask_size": (
        lambda c: c.add_new_mask(0, 2, np.ones((4, 4))), r"mask: got the shape \(4, 4\), expected",
    ),
    "mask_empty": (lambda c: c.add_new_mask(0, 2, np.zeros(HW, bool)), "mask: is empty"),
    "mask_nan": (lambda c: c.add_new_mask(0, 2, np.full(HW, np.nan)), "mask: got NaN"),
    "start": (lambda c: c.propagate(99), "start_frame_idx: got 99, expected"),
    "most": (lambda c: c.propagate(0, -1), "max_frame_num_to_track: got -1, expected"),
    "unknown": (
        lambda c: c.remove_object(4, strict=True), r"obj_id: 4 is unknown, expected one of \[1\]",
    ),
    "picture": (lambda c: c.picture(99), "frame_idx: got 99"),
}  # fmt: skip


class TestBadInput:
    @pytest.mark.parametrize("case", sorted(BAD))
    def test_each_has_its_line_and_changes_nothing(self, clip: Clip, case: str) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        before = clip.result(0).logits
        use, line = BAD[case]
        with pytest.raises(PromptError, match=line) as found:
            use(clip)
        assert "\n" not in str(found.value)
        assert found.value.exit_code == 2
        assert clip.obj_ids == [1]
        assert torch.equal(clip.result(0).logits, before)

    def test_points_that_are_added_count_with_those_before(self, clip: Clip) -> None:
        most = {"points": [[20, 20]] * 64, "labels": [1] * 64}
        clip.add_new_points_or_box(0, 1, box=[10, 10, 40, 40], **most)
        before = clip.result(0).logits
        more = {**POINT, "clear_old_points": False}
        with pytest.raises(PromptError, match="points: got 65 on one frame, expected at most 64"):
            clip.add_new_points_or_box(0, 1, **more)
        assert torch.equal(clip.result(0).logits, before)
        clip.add_new_points_or_box(1, 1, **more)
        clip.add_new_points_or_box(0, 1, **most)

    def test_a_mask_that_the_model_cannot_see(self, predictor: Any) -> None:
        wide = [np.zeros((HW[0] * 4, HW[1] * 4), np.uint8)] * 2
        mask = wide[0] > 0
        mask[40, 40] = True
        clip = opened(predictor, 2)
        clip = Clip(ArrayFrames(wide), clip._core)
        with pytest.raises(PromptError, match="nothing is left of it at the model's 64x64 pixels"):
            clip.add_new_mask(0, 1, mask)
        assert clip.obj_ids == []

    def test_no_prompt(self, clip: Clip) -> None:
        for use in (clip.propagate, clip.propagate_in_video, lambda: clip.result(0)):
            with pytest.raises(ClipError, match="nothing is prompted yet"):
                use()

    def test_an_object_prompted_only_after_the_range(self, clip: Clip) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        clip.add_new_points_or_box(15, 2, **POINT)
        with pytest.raises(PromptError, match="object 2: its first prompt, on frame 15, lies"):
            clip.propagate(0, 10)
        with pytest.raises(PromptError, match=r"object 1: .* the range from 15 to 10"):
            clip.propagate(15, 5, reverse=True)
        assert len(all_of(clip.propagate_in_video(0, 15))) == 16
        assert len(all_of(clip.propagate_in_video(0, 10))) == 11, "it is known by now"

    def test_a_walk_is_over_once_another_begins_or_a_prompt_comes(self, clip: Clip) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        for disturb in (
            clip.propagate, lambda: clip.add_new_points_or_box(9, 1, **POINT),
            lambda: clip.add_new_mask(9, 2, disc()), lambda: clip.remove_object(2),
            clip.reset_state,
        ):  # fmt: skip
            walk = clip.propagate()
            next(walk)
            disturb()
            with pytest.raises(ClipError, match="the walk is over"):
                next(walk)

    def test_a_device_that_is_not_there_closes_the_clip(self, tmp_path: Path) -> None:
        for number in range(2):
            (tmp_path / f"{number}.pgm").write_bytes(b"P5 4 4 255 " + bytes(16))
        with pytest.raises(ConfigError, match="device: got cuda:77"):
            open_clip(tmp_path, device="cuda:77")
        with pytest.raises(SourceError, match="is not there, expected a video file"):
            open_clip(tmp_path / "nothing.mp4")


def bytes_held(clip: Clip) -> int:
    parts = [
        part
        for target in clip._objects.values()
        for output in (*target.conditioning.values(), *target.tracked.values())
        for part in (output.pointer, output.memory, output.masks and output.masks.logits)
    ]
    storages = {
        part.untyped_storage().data_ptr(): part.untyped_storage().nbytes()
        for part in parts
        if part is not None
    }
    return sum(storages.values())


@pytest.mark.parametrize(("keep", "grows"), [("near", False), ("all", True)])
def test_what_is_held_does_not_grow_with_the_clip(predictor: Any, keep: Any, grows: bool) -> None:
    with opened(predictor, 100, keep=keep) as clip:
        clip.add_new_points_or_box(0, 1, **POINT)
        held = {found.frame_idx: bytes_held(clip) for found in clip.propagate()}
    assert (held[99] > 1.5 * held[55]) is grows
    assert (held[99] == held[55]) is not grows


class Still:
    """Pictures that are on the device."""

    def __init__(self, picture: torch.Tensor) -> None:
        self.picture = picture

    def read(self, index: int) -> torch.Tensor:
        return self.picture


class TestResidency:
    def test_a_walk_copies_nothing_and_waits_for_nothing(self, clip: Clip) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        clip.add_new_points_or_box(9, 2, **BOX)
        all_of(clip.propagate_in_video(9, 2))
        with residency_guard("raise") as report:
            for reverse in (False, True):
                all_of(clip.propagate_in_video(9, reverse=reverse))
        assert report.exits["upload"] == FRAMES - 12 + 10, "each frame once; three were there"
        assert set(report.exits) == {"upload", "prompt"}

    def test_one_that_asks_the_device_would_be_caught(
        self, clip: Clip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        all_of(clip.propagate_in_video(0, 2))
        whole = session.frame_of

        def asking(*given: Any) -> Any:
            found = whole(*given)
            return found if bool((found.presence > -1e9).all()) else None

        monkeypatch.setattr(session, "frame_of", asking)
        with pytest.raises(ResidencyError, match="__bool__"), residency_guard("raise"):
            all_of(clip.propagate_in_video())

    def test_so_would_one_that_uploads_by_itself(
        self, clip: Clip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clip.add_new_points_or_box(0, 1, **POINT)
        all_of(clip.propagate_in_video(0, 2))
        monkeypatch.setattr(
            UploadedFrames,
            "read",
            lambda self, index: torch.from_numpy(self._frames.read(index)).permute(2, 0, 1),
        )
        with pytest.raises(ResidencyError, match="from_numpy"), residency_guard("raise"):
            all_of(clip.propagate_in_video())

    @pytest.mark.slow
    @pytest.mark.timeout(240)
    def test_on_a_fake_gpu_nothing_is_left_on_the_host(self, clip: Clip) -> None:
        clip.add_new_points_or_box(1, 1, **POINT)
        clip.add_new_points_or_box(2, 2, **BOX)
        all_of(clip.propagate_in_video(0, 2))
        tracker, objects = clip._tracker, list(clip._objects.values())
        rows = tracker.begin(objects, Walk(3, 0, -1))
        tracker._frames = Still(clip.picture(0))  # type: ignore[assignment]
        tracker._encoded.clear()

        def walk(tracker: ClipTracker, objects: list[ClipObject], rows: Any) -> Any:
            for frame in (3, 2, 1, 0):
                tracker.step(objects, frame, -1, rows.get(frame))
                found = [target.settled(frame) for target in objects]
                shown = frame_of(frame, objects, found, tracker.core, HW).masks()
            return shown

        given = (tracker, objects, rows)
        with fake_cuda(*given) as on_cuda, torch.inference_mode():
            assert walk(*on_cuda).device == torch.device("cuda:0")
        host = torch.zeros(2, dtype=torch.int64)

        def with_rows_on_the_host() -> None:
            with fake_cuda(*given) as (tracker, objects, rows), torch.inference_mode():
                tracker._all = host
                walk(tracker, objects, rows)

        with pytest.raises(ResidencyError, match="host"):
            with_rows_on_the_host()
