"""The phantom as a source: pictures and truth of the same index, paced, closed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from stages.base import Source, TruthSource
from stages.sources.phantom import PhantomConfig, PhantomSource
from stages.sources.phantom_scene import PhantomScene

SMALL = (96, 128)


def fresh(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def small(**changes: Any) -> PhantomConfig:
    return PhantomConfig(**{"size_hw": SMALL, "fps": None, "seed": 7, **changes})


@pytest.mark.parametrize("ahead", [0, 3, 9])
def test_pictures_and_truth_are_those_of_the_scene(ahead: int) -> None:
    source = PhantomSource(small(max_objects=3, view="linear", ahead=ahead))
    scene = PhantomScene(7, SMALL, "linear", 3)
    for index in range(5):
        picture = source.read(fresh)
        assert picture is not None
        np.testing.assert_array_equal(picture.pixels, scene.render(index))
        assert (picture.epoch, picture.spacing_mm) == (0, scene.spacing_mm)
        truth, expected = source.truth(index), scene.truth(index)
        assert truth.frame_id == index
        for name in ("object_ids", "class_ids", "masks", "counted"):
            np.testing.assert_array_equal(getattr(truth, name), getattr(expected, name))


def test_it_keeps_the_contracts() -> None:
    source = PhantomSource(small())
    as_source: Source = source
    assert isinstance(source, TruthSource)
    assert (as_source.source_id, as_source.size_hw) == ("phantom", SMALL)


def test_it_fills_the_array_it_is_given() -> None:
    given: list[NDArray[np.uint8]] = []

    def buffer(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        given.append(fresh(shape))
        return given[-1]

    picture = PhantomSource(small()).read(buffer)
    assert picture is not None
    assert picture.pixels is given[0]


def test_truth_of_another_thread_does_not_disturb_the_pictures() -> None:
    source, alone = PhantomSource(small()), PhantomScene(7, SMALL)
    with ThreadPoolExecutor(1) as pool:
        truths = pool.submit(lambda: [source.truth(i).masks for i in range(400, 420)])
        pictures = [source.read(fresh) for _ in range(20)]
        masks = truths.result()
    for index, picture in enumerate(pictures):
        assert picture is not None
        np.testing.assert_array_equal(picture.pixels, alone.render(index))
    for index, mask in enumerate(masks, start=400):
        np.testing.assert_array_equal(mask, alone.truth(index).masks)


def test_frames_ends_it() -> None:
    source = PhantomSource(small(frames=3))
    pictures = [source.read(fresh) for _ in range(5)]
    assert [picture is not None for picture in pictures] == [True, True, True, False, False]


def test_a_rate_is_a_schedule_and_late_pictures_come_at_once() -> None:
    source = PhantomSource(small(fps=20.0, frames=6))
    first = source.read(fresh)
    assert first is not None
    time.sleep(0.16)  # pictures 1 to 3 are due by now
    late = [source.read(fresh) for _ in range(3)]
    then = source.read(fresh)
    assert then is not None
    assert all(picture is not None for picture in late)
    # No sooner than its place in the schedule; a drifting one would be 150 ms later than that.
    assert then.captured_ns - first.captured_ns >= 199_000_000
    scene = PhantomScene(7, SMALL)
    for index, picture in enumerate(late, start=1):
        assert picture is not None
        np.testing.assert_array_equal(picture.pixels, scene.render(index))


def test_close_wakes_a_read_that_waits() -> None:
    source = PhantomSource(small(fps=0.01))
    assert source.read(fresh) is not None
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(source.read, fresh)
        time.sleep(0.1)
        assert not reading.done()
        source.close()
        assert reading.result(1.0) is None
    assert source.read(fresh) is None
    source.close()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1), ("seed", True), ("size_hw", [95, 640]), ("size_hw", [480, 4097]),
        ("size_hw", [480]), ("max_objects", 0), ("max_objects", 6), ("fps", 0), ("fps", -1.0),
        ("fps", 241), ("fps", float("nan")), ("fps", float("inf")), ("frames", 0),
        ("view", "phased"), ("source_id", "a b"), ("source_id", ""), ("source_id", "x" * 65),
        ("source_id", "a\n"), ("unknown", 1), ("kind", "video"),
    ],
)  # fmt: skip
def test_what_cannot_be_configured(key: str, value: object) -> None:
    with pytest.raises(ValidationError, match=key):
        PhantomConfig.model_validate({"kind": "phantom", key: value})


def test_a_configuration_survives_being_written_out() -> None:
    config = small(fps=25)
    assert PhantomConfig.model_validate(config.model_dump(mode="json")) == config


def fault(kind: str, at: int, frames: int = 1) -> dict[str, Any]:
    return {"kind": kind, "at": at, "frames": frames}


class TestFaults:
    """Against the same scan without any."""

    def pictures(self, count: int, **changes: Any) -> list[Any]:
        source = PhantomSource(small(**changes))
        return [source.read(fresh) for _ in range(count)]

    def test_without_any_nothing_changes(self) -> None:
        scene = PhantomScene(7, SMALL, "auto", 5)
        for index, picture in enumerate(self.pictures(3, faults=())):
            np.testing.assert_array_equal(picture.pixels, scene.render(index))
            assert (picture.epoch, picture.full_hw) == (0, SMALL)

    @pytest.mark.parametrize("ahead", [0, 12])
    def test_dropped_pictures_are_left_out_and_the_truth_knows(self, ahead: int) -> None:
        faults = [fault("drop", 2, 3), fault("drop", 5, 2), fault("drop", 9)]
        source = PhantomSource(small(faults=faults, ahead=ahead, frames=12))
        scene = PhantomScene(7, SMALL, "auto", 5)
        for frame_id, index in enumerate([0, 1, 7, 8, 10, 11]):
            picture = source.read(fresh)
            assert picture is not None
            np.testing.assert_array_equal(picture.pixels, scene.render(index))
            truth = source.truth(frame_id)
            np.testing.assert_array_equal(truth.masks, scene.truth(index).masks)
            assert truth.frame_id == frame_id
        assert source.read(fresh) is None

    @pytest.mark.parametrize("ahead", [0, 12])
    def test_frozen_pictures_repeat_the_one_before(self, ahead: int) -> None:
        faults = [fault("frozen", 0, 2), fault("frozen", 5, 3)]
        source = PhantomSource(small(faults=faults, ahead=ahead))
        scene = PhantomScene(7, SMALL, "auto", 5)
        for frame_id, index in enumerate([0, 0, 2, 3, 4, 4, 4, 4, 8]):
            picture = source.read(fresh)
            assert picture is not None
            np.testing.assert_array_equal(picture.pixels, scene.render(index))
            np.testing.assert_array_equal(source.truth(frame_id).masks, scene.truth(index).masks)

    @pytest.mark.parametrize("ahead", [0, 12])
    def test_a_jump_of_size_is_an_epoch_of_its_own(self, ahead: int) -> None:
        source = PhantomSource(small(faults=[fault("resize", 2, 2)], ahead=ahead))
        scene = PhantomScene(7, SMALL, "auto", 5)
        got = [source.read(fresh) for _ in range(6)]
        assert [None if p is None else p.epoch for p in got] == [0, 0, 1, 1, 2, 2]
        shapes = [p.pixels.shape for p in got if p is not None]
        assert shapes == [SMALL, SMALL, (48, 64), (48, 64), SMALL, SMALL]
        small_one, truth = got[2], source.truth(2)
        assert small_one is not None
        np.testing.assert_array_equal(small_one.pixels, scene.render(2)[::2, ::2])
        y, x = scene.spacing_mm
        assert small_one.spacing_mm == (2 * y, 2 * x)
        assert truth.masks.shape[1:] == (48, 64)
        whole_masks = scene.truth(2).masks[:, ::2, ::2]
        np.testing.assert_array_equal(truth.masks, whole_masks[whole_masks.any(axis=(1, 2))])
        assert len(truth.counted) == len(truth.masks) == len(truth.object_ids)

    def test_garbage_is_noise_in_which_nothing_can_be_seen(self) -> None:
        source = PhantomSource(small(faults=[fault("garbage", 1)]))
        first, noise, after = (source.read(fresh) for _ in range(3))
        assert first is not None
        assert noise is not None
        assert after is not None
        assert abs(float(noise.pixels.mean()) - 127.5) < 5
        assert abs(np.corrcoef(noise.pixels.ravel(), first.pixels.ravel())[0, 1]) < 0.1
        assert source.truth(1).masks.shape == (0, *SMALL)
        scene = PhantomScene(7, SMALL, "auto", 5)
        np.testing.assert_array_equal(after.pixels, scene.render(2))
        again = self.pictures(2, faults=[fault("garbage", 1)])[1]
        np.testing.assert_array_equal(noise.pixels, again.pixels)

    def test_a_stall_holds_pictures_back_and_then_they_come_at_once(self) -> None:
        source = PhantomSource(small(fps=20.0, faults=[fault("stall", 2, 6)], ahead=12))
        times = [picture.captured_ns for _ in range(9) if (picture := source.read(fresh))]
        since_ms = (np.array(times) - times[0]) / 1e6
        assert since_ms[1] >= 49
        assert (since_ms[2:8] >= 399).all()
        assert since_ms[7] - since_ms[2] < since_ms[2] - since_ms[1]
        scene = PhantomScene(7, SMALL, "auto", 5)
        np.testing.assert_array_equal(source.truth(3).masks, scene.truth(3).masks)

    @pytest.mark.parametrize(
        "faults",
        [
            [fault("explode", 1)], [fault("drop", -1)], [fault("drop", 1, 0)], [{"kind": "drop"}],
            [fault("drop", 1) | {"x": 1}], [fault("stall", 1)], "drop",
        ],
    )  # fmt: skip
    def test_what_is_no_fault(self, faults: object) -> None:
        with pytest.raises(ValidationError, match="faults"):
            small(faults=faults)
