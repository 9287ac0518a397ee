import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.quality import QualityCheck, mask_iou, match
from stages.packets import HostPacket, PacketInfo, Truth

SIZE = (20, 30)
NAMES = ("lumen", "lesion")


def square(x: int, y: int, side: int = 8) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[y : y + side, x : x + side] = True
    return mask


class KnownTruth:
    def __init__(
        self, masks: list[NDArray[np.bool_]], classes: list[int], counted: list[bool]
    ) -> None:
        self._truth = Truth(
            frame_id=0,
            object_ids=np.arange(len(masks)),
            class_ids=np.array(classes, dtype=np.int32),
            masks=np.array(masks, dtype=np.bool_).reshape(len(masks), *SIZE),
            counted=np.array(counted, dtype=np.bool_),
        )

    def truth(self, frame_id: int) -> Truth:
        return self._truth


def packet(masks: list[NDArray[np.bool_]], classes: list[int]) -> HostPacket:
    n = len(masks)
    zeros = np.zeros(n, dtype=np.float32)
    return HostPacket(
        info=PacketInfo("s", 0, 0, 0, 0, None, SIZE, None, None, "none"),
        object_ids=np.arange(n),
        class_ids=np.array(classes, dtype=np.int32),
        scores=zeros,
        presence=zeros,
        quality=zeros,
        mask_age_frames=np.zeros(n, dtype=np.int32),
        mask_boxes_xyxy=np.zeros((n, 4), dtype=np.int32),
        area_px=np.zeros(n, dtype=np.int32),
        centroids_xy=np.zeros((n, 2), dtype=np.float32),
        masks=np.packbits(np.array(masks, dtype=np.bool_).reshape(n, *SIZE), axis=-1),
    )


def judged(truth: KnownTruth, result: HostPacket) -> dict[str, object]:
    check = QualityCheck(truth, NAMES)
    check.write(result)
    return check.summary()


def test_perfect_masks_score_one() -> None:
    masks = [square(0, 0), square(15, 5)]
    summary = judged(KnownTruth(masks, [0, 1], [True, True]), packet(masks, [0, 1]))
    assert (summary["mean_iou"], summary["recall"], summary["precision"]) == (1.0, 1.0, 1.0)


def test_a_miss_counts_zero() -> None:
    truth = KnownTruth([square(0, 0), square(15, 5)], [0, 1], [True, True])
    summary = judged(truth, packet([square(0, 0)], [0]))
    assert (summary["mean_iou"], summary["recall"], summary["precision"]) == (0.5, 0.5, 1.0)


def test_the_wrong_class_is_a_miss_and_a_false_alarm() -> None:
    truth = KnownTruth([square(0, 0)], [0], [True])
    summary = judged(truth, packet([square(0, 0)], [1]))
    assert (summary["mean_iou"], summary["precision"]) == (0.0, 0.0)


def test_a_prompted_object_fits_any_class() -> None:
    truth = KnownTruth([square(0, 0)], [0], [True])
    assert judged(truth, packet([square(0, 0)], [len(NAMES)]))["mean_iou"] == 1.0


def test_a_class_that_the_run_has_no_name_for() -> None:
    check = QualityCheck(KnownTruth([square(0, 0)], [1], [True]), ())
    check.write(packet([square(0, 0)], [0]))
    assert check.summary()["per_class"] == {
        "class 1": {"mean_iou": 1.0, "recall": 1.0, "object_frames": 1}
    }


def test_an_uncounted_object_neither_helps_nor_harms() -> None:
    truth = KnownTruth([square(0, 0), square(15, 5, 3)], [0, 0], [True, False])
    summary = judged(truth, packet([square(0, 0), square(15, 5, 4)], [0, 0]))
    assert (summary["object_frames"], summary["precision"]) == (1, 1.0)


def test_a_result_serves_one_truth_object_only() -> None:
    truth = KnownTruth([square(0, 0), square(0, 0)], [0, 0], [True, True])
    assert judged(truth, packet([square(0, 0)], [0]))["recall"] == 0.5


def test_two_results_on_one_object_cost_precision() -> None:
    truth = KnownTruth([square(0, 0)], [0], [True])
    assert judged(truth, packet([square(0, 0), square(1, 0)], [0, 0]))["precision"] == 0.5


def test_an_object_out_of_sight_is_no_false_alarm() -> None:
    truth = KnownTruth([square(2, 2)], [0], [True])
    hidden = np.zeros_like(square(2, 2))
    assert judged(truth, packet([square(2, 2), hidden], [0, 0]))["precision"] == 1
    assert judged(truth, packet([square(2, 2), square(15, 5)], [0, 0]))["precision"] == 0.5


def test_no_truth_claims_nothing() -> None:
    summary = judged(KnownTruth([], [], []), packet([], []))
    assert (summary["mean_iou"], summary["recall"], summary["precision"]) == (None, None, None)


def test_packets_without_masks_are_refused() -> None:
    bare = packet([], [])
    stripped = HostPacket(
        **{name: getattr(bare, name) for name in bare.__dataclass_fields__ if name != "masks"}
    )
    with pytest.raises(ValueError, match="masks"):
        QualityCheck(KnownTruth([], [], []), NAMES).write(stripped)


def test_packed_iou_equals_the_plain_one() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random((3, *SIZE)) > 0.6, rng.random((4, *SIZE)) > 0.4
    plain = [[(x & y).sum() / (x | y).sum() for y in b] for x in a]
    packed = mask_iou(np.packbits(a, axis=-1), np.packbits(b, axis=-1))
    np.testing.assert_allclose(packed, plain)


def test_match_takes_the_best_pairs_first() -> None:
    iou = np.array([[0.9, 0.8], [0.85, 0.0]])
    assert match(iou) == {0: (0, 0.9)}


@pytest.mark.parametrize(
    ("shift", "switches"),
    [(2, 0), (5, 1)],
    ids=["still fits", "fits no more"],
)
def test_who_stood_for_an_object_does_so_while_it_fits(shift: int, switches: int) -> None:
    truth = KnownTruth([square(4, 4)], [0], [True])
    check = QualityCheck(truth, NAMES)
    check.write(packet([square(4, 4)], [0]))
    check.write(packet([square(4 + shift, 4), square(4, 4)], [0, 0]))
    assert check.identity.switches == switches


def test_a_steady_id_takes_nothing_from_another_object() -> None:
    truth = KnownTruth([square(0, 0), square(2, 0)], [0, 0], [True, True])
    check = QualityCheck(truth, NAMES)
    for _ in range(2):
        check.write(packet([square(0, 0), square(2, 0)], [0, 0]))
    check.write(packet([square(2, 0), square(0, 0)], [0, 0]))
    assert check.identity.switches == 0
