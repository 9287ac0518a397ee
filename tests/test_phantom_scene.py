"""The synthetic scan: deterministic, endless, and true to its own pictures."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.sources.phantom_outline import is_counted
from stages.sources.phantom_scene import CLASS_NAMES, PhantomScene, SceneTruth

SMALL = (240, 320)


def same_truth(left: SceneTruth, right: SceneTruth) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("object_ids", "class_ids", "masks", "counted")
    )


@pytest.mark.parametrize("view", ["convex", "linear"])
def test_same_seed_gives_same_bytes(view: str) -> None:
    one, other = (PhantomScene(4, SMALL, view) for _ in range(2))  # type: ignore[arg-type]
    for index in (0, 7, 300, 1_000_003):
        assert one.render(index).tobytes() == other.render(index).tobytes()
        assert same_truth(one.truth(index), other.truth(index))
    assert one.spacing_mm == other.spacing_mm


def test_seed_view_and_index_change_the_picture() -> None:
    scene = PhantomScene(4, SMALL, "linear")
    picture = scene.render(10)
    assert not np.array_equal(picture, PhantomScene(5, SMALL, "linear").render(10))
    assert not np.array_equal(picture, PhantomScene(4, SMALL, "convex").render(10))
    assert not np.array_equal(picture, scene.render(11))


def test_order_of_asking_does_not_matter() -> None:
    order = [0, 400, 801, 1202, 5000]
    ahead, back = PhantomScene(8, SMALL), PhantomScene(8, SMALL)
    forwards = {index: (ahead.render(index), ahead.truth(index)) for index in order}
    for index in reversed(order):
        picture, truth = forwards[index]
        assert same_truth(back.truth(index), truth)
        assert np.array_equal(back.render(index), picture)


def test_render_gives_the_caller_a_frame_of_its_own() -> None:
    scene = PhantomScene(3, SMALL)
    first = scene.render(50)
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(scene.render(50), kept)


@pytest.mark.parametrize("size", [(480, 640), SMALL, (600, 300), (96, 400)])
@pytest.mark.parametrize("view", ["convex", "linear"])
def test_shapes_dtypes_and_field_of_view(size: tuple[int, int], view: str) -> None:
    scene = PhantomScene(2, size, view)  # type: ignore[arg-type]
    for index in (60, 250):
        picture, truth = scene.render(index), scene.truth(index)
        assert picture.shape == size
        assert picture.dtype == np.uint8
        n = len(truth.object_ids)
        assert truth.masks.shape == (n, *size)
        arrays = (truth.object_ids, truth.class_ids, truth.masks, truth.counted)
        assert [array.dtype.name for array in arrays] == ["int64", "int32", "bool", "bool"]
        assert truth.class_ids.shape == truth.counted.shape == (n,)
        # Outside the field of view the picture is black and there is no truth.
        assert not picture[0].any()
        assert not truth.masks[:, 0].any()
    assert scene.spacing_mm[0] == scene.spacing_mm[1] > 0


def test_auto_draws_both_probes() -> None:
    corner_seen = {bool(PhantomScene(seed, SMALL).render(0)[20, 40]) for seed in range(12)}
    assert corner_seen == {True, False}


def test_masks_are_disjoint_and_never_empty() -> None:
    touched = 0
    for seed in range(4):
        scene = PhantomScene(seed, SMALL)
        for index in range(0, 900, 30):
            masks = scene.truth(index).masks
            assert masks.any(axis=(1, 2)).all()
            assert masks.sum(axis=0).max(initial=0) <= 1
            touched += len(masks)
    assert touched > 200


@pytest.mark.parametrize("max_objects", [1, 3, 5])
def test_max_objects_holds(max_objects: int) -> None:
    scene = PhantomScene(6, SMALL, max_objects=max_objects)
    counts = [len(scene.truth(index).object_ids) for index in range(0, 1200, 20)]
    assert 0 < max(counts) <= max_objects


def test_every_class_appears_and_about_three_objects_are_counted() -> None:
    counted: list[int] = []
    classes: NDArray[np.int64] = np.zeros(len(CLASS_NAMES), dtype=np.int64)
    for seed in range(12):
        scene = PhantomScene(seed)
        for index in range(0, 1600, 80):
            truth = scene.truth(index)
            counted.append(int(truth.counted.sum()))
            classes += np.bincount(truth.class_ids[truth.counted], minlength=len(CLASS_NAMES))
    assert 2.5 <= np.mean(counted) <= 3.5
    assert (classes >= 0.1 * classes.sum()).all()


def test_ids_are_stable_and_never_reused() -> None:
    scene = PhantomScene(1, SMALL)
    class_of: dict[int, int] = {}
    frames_of: dict[int, list[int]] = {}
    for index in range(0, 2400, 8):
        truth = scene.truth(index)
        assert np.all(np.diff(truth.object_ids) > 0)
        for object_id, class_id in zip(truth.object_ids, truth.class_ids, strict=True):
            assert class_of.setdefault(int(object_id), int(class_id)) == class_id
            frames_of.setdefault(int(object_id), []).append(index)
    assert len(frames_of) >= 20
    # An episode is one stretch of time: an id that came back later would span far more.
    assert max(frames[-1] - frames[0] for frames in frames_of.values()) <= 430


def test_objects_move_smoothly() -> None:
    scene = PhantomScene(2, SMALL)
    overlaps = []
    for index in range(100, 400, 10):
        now, then = scene.truth(index), scene.truth(index + 1)
        for row in np.flatnonzero(now.counted):
            match = np.flatnonzero(then.object_ids == now.object_ids[row])
            if match.size:
                both = now.masks[row] & then.masks[match[0]]
                overlaps.append(both.sum() / (now.masks[row] | then.masks[match[0]]).sum())
    assert len(overlaps) > 20
    assert min(overlaps) > 0.6


def find_hidden(scene: PhantomScene, frames: int) -> tuple[int, int, int] | None:
    """(object id, last frame before, first frame after) of one that was hidden for 5 to 40."""
    last_seen: dict[int, int] = {}
    for index in range(frames):
        for object_id in scene.truth(index).object_ids.tolist():
            gap = index - last_seen.get(object_id, index)
            if 5 < gap <= 40:
                return object_id, last_seen[object_id], index
            last_seen[object_id] = index
    return None


def test_object_hidden_by_a_deep_shadow_comes_back_with_its_id() -> None:
    for seed in range(6):
        scene = PhantomScene(seed, SMALL)
        found = find_hidden(scene, 900)
        if found is None:
            continue
        object_id, before, after = found
        hidden = scene.truth((before + after) // 2)
        assert object_id not in hidden.object_ids
        # Where it was last seen and where it comes back, the picture is black meanwhile.
        dark = scene.render((before + after) // 2)
        first = scene.truth(before)
        assert dark[first.masks[first.object_ids == object_id][0]].mean() < 15
        return
    pytest.fail("no object was wholly hidden in any of six scenes")


def test_picture_shows_what_the_truth_says() -> None:
    """Lumens are darker, lesions and needles brighter, than the tissue around them."""
    inside: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for seed in range(5):
        scene = PhantomScene(seed, SMALL, "linear")
        for index in range(40, 1200, 90):
            picture, truth = scene.render(index), scene.truth(index)
            level = float(picture[~truth.masks.any(axis=0) & (picture > 0)].mean())
            for mask, class_id in zip(truth.masks, truth.class_ids, strict=True):
                if mask.sum() >= 400:
                    inside[int(class_id)].append(float(np.median(picture[mask])) - level)
    assert np.mean(inside[0]) < -20
    assert np.mean(inside[1]) > 20
    assert np.mean(inside[2]) > 30


def shape_mask(height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((100, 200), dtype=np.bool_)
    mask[:height, :width] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (shape_mask(20, 20), True),  # 400 px, thick
        (shape_mask(19, 21), False),  # 399 px
        (shape_mask(13, 100), True),
        (shape_mask(12, 150), False),  # large but thin
        (shape_mask(0, 0), False),
    ],
)
def test_counted_needs_area_and_thickness(mask: NDArray[np.bool_], expected: bool) -> None:
    assert is_counted(mask) is expected


def test_counted_is_about_one_thick_part_not_the_whole() -> None:
    comb = np.zeros((100, 200), dtype=np.bool_)
    comb[::10], comb[1::10], comb[2::10] = True, True, True  # 6000 px in 3 px stripes
    assert not is_counted(comb)
    comb[30:60, 30:60] = True
    assert is_counted(comb)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"seed": -1}, "seed is -1, expected an integer >= 0"),
        ({"seed": 1.5}, "seed is 1.5, expected an integer >= 0"),
        ({"seed": True}, "seed is True, expected an integer >= 0"),
        ({"size_hw": (95, 640)}, "size_hw is (95, 640), expected (height, width)"),
        ({"size_hw": (480,)}, "size_hw is (480,), expected (height, width)"),
        ({"size_hw": 480}, "size_hw is 480, expected (height, width)"),
        ({"view": "sector"}, "view is 'sector', expected 'convex', 'linear' or 'auto'"),
        ({"max_objects": 0}, "max_objects is 0, expected an integer from 1 to 5"),
        ({"max_objects": 6}, "max_objects is 6, expected an integer from 1 to 5"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        PhantomScene(**{"seed": 0, "size_hw": SMALL, **kwargs})  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_bad_index_is_refused() -> None:
    scene = PhantomScene(0, SMALL)
    for ask in (scene.render, scene.truth):
        with pytest.raises(ValueError, match="index is -1, expected an integer >= 0"):
            ask(-1)
