from __future__ import annotations

from stages.segmenters.occupancy import Header, Occupancy, Permit


def header(
    frame_id: int, *ids: int, epoch: int = 0, waiting: int = 0, looks: int = 0, held: int = 1
) -> Header:
    return Header(epoch, frame_id, frozenset(ids), Permit(waiting, looks), held)


def test_what_was_allowed_since_the_header_counts_on_top() -> None:
    occupancy = Occupancy(slots=8, births=2, unheard=0)
    occupancy.enter(0)
    occupancy.heed(header(10, 1, 2, 3, waiting=2, held=2))
    assert (occupancy.live(), occupancy.held()) == (3, 2)
    assert occupancy.permit(12) == Permit(2, 0)
    assert (occupancy.live(), occupancy.held()) == (5, 2)
    occupancy.heed(header(11, 1, 2, 3))
    assert occupancy.live() == 5
    occupancy.heed(header(12, 1, 2, 3, 4))
    assert (occupancy.live(), occupancy.held()) == (4, 1)


def test_one_that_waits_is_permitted_once() -> None:
    occupancy = Occupancy(slots=8, births=3, unheard=0)
    occupancy.enter(0)
    occupancy.heed(header(5, waiting=1))
    assert [occupancy.permit(number).births for number in (6, 7, 8)] == [1, 0, 0]
    occupancy.heed(header(6, 1, waiting=5))  # made before the permission took effect
    assert occupancy.permit(9) == Permit(0, 0)
    occupancy.heed(header(7, 1, waiting=5))
    assert [occupancy.permit(number).births for number in (9, 10)] == [3, 0]


def test_a_new_look_is_no_birth() -> None:
    occupancy = Occupancy(slots=8, births=3, unheard=0)
    occupancy.enter(0)
    occupancy.heed(header(5, 1, 2, waiting=1, looks=2))
    assert occupancy.permit(6) == Permit(1, 2)
    assert (occupancy.live(), occupancy.held()) == (3, 2)
    assert occupancy.permit(7) == Permit(0, 2)
    assert (occupancy.live(), occupancy.held()) == (3, 3)


def test_nobody_needs_to_wait_where_one_sighting_is_enough() -> None:
    occupancy = Occupancy(slots=2, births=1, unheard=1)
    occupancy.enter(0)
    occupancy.heed(header(0))
    granted = [occupancy.permit(number).births for number in (1, 2, 3)]
    assert granted == [1, 0, 0]  # the others wait for a header, or an empty scene would cost more
    assert occupancy.live() == 1
    occupancy.heed(header(3))
    assert occupancy.permit(4) == Permit(1, 0)


def test_the_unheard_are_permitted_beside_those_that_wait() -> None:
    occupancy = Occupancy(slots=8, births=3, unheard=1)
    occupancy.heed(header(5, waiting=0))
    assert occupancy.permit(6).births == 1
    occupancy.heed(header(7, waiting=2))
    assert [occupancy.permit(frame).births for frame in (8, 9)] == [2, 0]
    assert occupancy.live() == 2


def test_without_headers_nothing_is_supposed_and_nothing_grows() -> None:
    occupancy = Occupancy(slots=8, births=2, unheard=0)
    occupancy.enter(0)
    assert all(occupancy.permit(number) == Permit(2, 2) for number in range(1000))
    assert occupancy.live() == 8
    assert len(occupancy._allowed) < 200
    occupancy.heed(header(999))
    assert occupancy.permit(1000) == Permit(0, 0)
    assert occupancy.permit(1031) == Permit(2, 2)


def test_a_header_of_another_epoch_tells_nothing() -> None:
    occupancy = Occupancy(slots=4, births=2, unheard=0)
    occupancy.enter(1)
    occupancy.heed(header(50, 1, 2, 3, epoch=0, waiting=1))
    assert occupancy.live() == 0
    occupancy.allow(60, 1, again=False)
    assert (occupancy.live(), occupancy.held()) == (1, 1)
    occupancy.enter(2)
    assert (occupancy.live(), occupancy.held()) == (0, 0)


def test_an_id_is_unknown_only_where_none_can_have_been_born() -> None:
    occupancy = Occupancy(slots=4, births=2, unheard=0)
    occupancy.enter(0)
    assert occupancy.may_live(3)
    occupancy.heed(header(5, 1))
    assert occupancy.may_live(1)
    assert not occupancy.may_live(3)
    occupancy.allow(6, 0, again=True)
    assert not occupancy.may_live(3)
    occupancy.allow(6, 1, again=False)
    assert occupancy.may_live(3)
