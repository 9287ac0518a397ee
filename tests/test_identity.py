from __future__ import annotations

from pipeline.identity import MOST_HIDDEN_FRAMES, IdentityCheck


def test_a_steady_id_is_no_switch() -> None:
    check = IdentityCheck()
    for number in range(50):
        check.frame(number, {7: 1, 8: 2 if number % 5 else None})
    assert (check.switches, check.object_frames, check.occlusions) == (0, 100, 0)
    assert check.switches_per_100_frames == 0
    assert check.occlusion_id_kept is None


def test_each_change_of_id_is_a_switch() -> None:
    check = IdentityCheck()
    for number, object_id in enumerate([1, 1, 2, 2, None, 1]):
        check.frame(number, {7: object_id})
    assert check.switches == 2
    assert check.switches_per_100_frames == 100 * 2 / 6


def test_an_occlusion_is_kept_by_the_same_id_only() -> None:
    check = IdentityCheck()
    check.frame(0, {7: 1, 8: 2})
    check.frame(10, {7: None, 8: None})
    check.frame(12, {7: 1, 8: 3})
    assert (check.occlusions, check.kept, check.switches) == (2, 1, 1)
    assert check.occlusion_id_kept == 0.5


def test_a_long_absence_is_no_occlusion_and_no_switch() -> None:
    check = IdentityCheck()
    check.frame(0, {7: 1})
    check.frame(MOST_HIDDEN_FRAMES + 2, {7: 9})
    assert (check.occlusions, check.switches) == (0, 0)
    late = IdentityCheck()
    late.frame(0, {7: 1})
    late.frame(MOST_HIDDEN_FRAMES + 1, {7: 9})
    assert (late.occlusions, late.switches) == (1, 1)


def test_who_is_not_found_again_is_not_kept() -> None:
    check = IdentityCheck()
    check.frame(0, {7: 1})
    for number in range(5, 6 + MOST_HIDDEN_FRAMES):
        assert (check.occlusions, check.kept) == (0, 0)
        check.frame(number, {7: None})
    assert (check.occlusions, check.kept) == (1, 0)
    check.frame(99, {7: 1})  # too late
    assert (check.occlusions, check.kept) == (1, 0)


def test_who_is_gone_for_long_before_it_is_found_is_not_kept() -> None:
    check = IdentityCheck()
    check.frame(0, {7: 1})
    check.frame(5, {7: None})
    check.frame(8, {7: None})  # one occlusion still
    check.frame(50, {7: 4})
    assert (check.occlusions, check.kept, check.switches) == (1, 0, 0)


def test_nothing_seen_gives_no_figures() -> None:
    assert IdentityCheck().switches_per_100_frames is None
