"""A live source goes on whatever its connection does, and says what happens, once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import product

import pytest
from live_feeds import SHAPE, Bench, BlockedFeed, memory, picture
from pydantic import ValidationError

from kpi.events import SourceState
from stages.base import SelfTelling
from stages.errors import SourceError
from stages.sources.backoff import FIRST_S, LAST_S, Backoff
from stages.sources.feed import Arrival, FeedError
from stages.sources.live import LiveSource
from stages.sources.live_section import LiveSection
from stages.sources.live_states import LEGAL, IllegalTransitionError, LiveStates

# The states

# Written out a second time, as what a reader of the states may rely on.
MAY_FOLLOW = {
    None: "connecting ended failed",
    "connecting": "streaming reconnecting ended failed",
    "streaming": "streaming stale frozen reconnecting ended failed",
    "stale": "streaming frozen reconnecting ended failed",
    "frozen": "streaming stale reconnecting ended failed",
    "reconnecting": "streaming reconnecting ended failed",
    "ended": "",
    "failed": "",
}
WAY_TO: dict[SourceState | None, tuple[SourceState, ...]] = {
    None: (),
    "connecting": ("connecting",),
    "streaming": ("connecting", "streaming"),
    "stale": ("connecting", "streaming", "stale"),
    "frozen": ("connecting", "streaming", "frozen"),
    "reconnecting": ("connecting", "reconnecting"),
    "ended": ("ended",),
    "failed": ("failed",),
}
STATES: list[SourceState] = [state for state in LEGAL if state is not None]


@pytest.mark.parametrize(("before", "after"), list(product(WAY_TO, STATES)))
def test_every_transition_is_legal_or_raises(
    before: SourceState | None, after: SourceState
) -> None:
    told: list[str] = []
    states = LiveStates(lambda state, epoch, reason: told.append(state))
    for state in WAY_TO[before]:
        states.go(state, 0)
    assert states.over == (before in ("ended", "failed"))
    if after in MAY_FOLLOW[before].split():
        states.go(after, 1)
        assert (states.now, told[-1]) == (after, after)
    else:
        with pytest.raises(IllegalTransitionError, match=f"{after} cannot follow {before}"):
            states.go(after, 1)
        assert states.now == before
        assert told == list(WAY_TO[before])


def test_a_state_is_told_again_only_for_something_new() -> None:
    told: list[tuple[str, int, str | None]] = []
    states = LiveStates(lambda *what: told.append(what))
    for step in (("connecting", 0), ("streaming", 0), ("streaming", 0), ("streaming", 1)):
        states.go(*step)  # type: ignore[arg-type]
    for reason in ("refused", "refused", "no route"):
        states.go("reconnecting", 1, reason)
    assert told == [
        ("connecting", 0, None),
        ("streaming", 0, None),
        ("streaming", 1, None),
        ("reconnecting", 1, "refused"),
        ("reconnecting", 1, "no route"),
    ]


# Connections


def test_a_stream_that_flows_is_told_once() -> None:
    bench = Bench([picture(n) for n in range(5)])
    assert bench.epochs(5) == [0] * 5
    assert bench.states == ["connecting", "streaming"]
    assert isinstance(bench.source, SelfTelling)


def test_a_lost_connection_is_made_anew_and_begins_an_epoch() -> None:
    bench = Bench([picture(1), FeedError("reset by the peer")], [picture(2), picture(3)])
    assert bench.epochs(3) == [0, 1, 1]
    assert bench.states == ["connecting", "streaming", "reconnecting", "streaming"]
    assert "reset by the peer" in bench.reasons
    assert [feed.closed for feed in bench.feeds] == [1, 0]
    assert bench.clock.pauses == [FIRST_S]


def test_it_never_gives_up_and_waits_longer_each_time() -> None:
    bench = Bench(*[FeedError("refused")] * 200, [picture(1)])
    assert bench.epochs(1) == [0]
    assert bench.clock.pauses[:4] == [0.5, 1.0, 2.0, 3.0]
    assert set(bench.clock.pauses[3:]) == {LAST_S}
    assert len(bench.clock.pauses) == 200
    assert bench.states == ["connecting", "reconnecting", "streaming"], "200 refusals are one news"


def test_after_a_picture_the_waits_begin_short_again() -> None:
    scripts = [[FeedError("x")], [FeedError("x")], [picture(1), FeedError("x")], [picture(2)]]
    bench = Bench(*scripts)
    bench.epochs(2)
    assert bench.clock.pauses == [0.5, 1.0, 0.5]


def test_the_waits_differ_but_stay_within_bounds() -> None:
    shortest, longest = Backoff(lambda: 0.999), Backoff(lambda: 0.0)
    for _ in range(6):
        short_s, long_s = shortest.next_s(), longest.next_s()
        assert 0.7 * long_s < short_s < long_s <= LAST_S


@pytest.mark.parametrize("dialled", [True, False], ids=["while reading", "while dialling"])
def test_what_no_attempt_can_mend_is_raised_and_the_end(dialled: bool) -> None:
    error = SourceError("no such stream")
    bench = Bench([picture(1), error]) if dialled else Bench(error)
    if dialled:
        bench.epochs(1)
    with bench.logged(), pytest.raises(SourceError, match="no such stream"):
        bench.source.read(memory)
    assert all(feed.closed for feed in bench.feeds)
    assert "failed" not in bench.states, "whoever reads tells the end"
    assert bench.source.read(memory) is None


def test_an_unforeseen_error_leaves_nothing_open() -> None:
    bench = Bench([ZeroDivisionError()])
    with pytest.raises(ZeroDivisionError):
        bench.source.read(memory)
    assert bench.feeds[0].closed == 1


def test_a_sender_that_ends_is_the_end() -> None:
    bench = Bench([picture(1), EOFError()], [picture(2)])
    bench.epochs(1)
    assert bench.source.read(memory) is None
    assert bench.source.read(memory) is None
    assert [feed.closed for feed in bench.feeds] == [1]


# Silence


def test_silence_is_told_then_ended_by_a_new_connection() -> None:
    bench = Bench([picture(1), 60.0], [picture(2)], stale_after_s=1.0, reconnect_after_s=5.0)
    began = bench.clock.now
    told_at: list[float] = []
    emit = bench.emit
    bench.emit = lambda event: (told_at.append(bench.clock.now - began), emit(event))  # type: ignore[method-assign,assignment,func-returns-value]
    assert bench.epochs(2) == [0, 1]
    assert bench.states == ["connecting", "streaming", "stale", "reconnecting", "streaming"]
    assert told_at[2] == pytest.approx(1.0, abs=0.2)
    assert told_at[3] == pytest.approx(5.0, abs=0.2)
    assert bench.reasons[2:4] == ["no picture for 1 s", "no picture for 5.0 s"]


def test_a_stall_that_ends_in_time_keeps_connection_and_epoch() -> None:
    bench = Bench([picture(1), 2.0, picture(2)])
    assert bench.epochs(2) == [0, 0]
    assert bench.states == ["connecting", "streaming", "stale", "streaming"]
    assert len(bench.feeds) == 1


def test_null_never_gives_a_silent_connection_up() -> None:
    limits = {"reconnect_after_s": None, "connect_within_s": None}
    bench = Bench([7200.0, picture(1), 7200.0, picture(2)], **limits)
    assert bench.epochs(2) == [0, 0]
    assert bench.states == ["connecting", "streaming", "stale", "streaming"]


def test_a_slow_sender_is_not_stale() -> None:
    bench = Bench([picture(1), 0.8, picture(2), 0.8, picture(3)])
    bench.epochs(3)
    assert bench.states == ["connecting", "streaming"]


def test_a_connection_without_a_first_picture_is_given_up() -> None:
    bench = Bench([60.0], [60.0], [picture(1)], connect_within_s=3.0)
    bench.epochs(1)
    assert bench.states == ["connecting", "reconnecting", "streaming"], "never streamed, not stale"
    assert len(bench.feeds) == 3


def test_the_time_for_a_first_picture_begins_when_a_sender_has_come() -> None:
    bench = Bench([60.0, picture(1)], [picture(2)], connect_within_s=3.0, called_after_s=59.0)
    bench.epochs(1)
    assert bench.states == ["connecting", "streaming"], "nobody was there who could be silent"
    assert len(bench.feeds) == 1


def test_a_sender_that_has_come_and_sends_no_picture_is_given_up() -> None:
    bench = Bench([60.0, picture(1)], [picture(2)], connect_within_s=3.0, called_after_s=50.0)
    began = bench.clock.now
    bench.epochs(1)
    assert bench.states == ["connecting", "reconnecting", "streaming"]
    assert str(bench.reasons[1]).startswith("no picture for 3.")
    assert bench.clock.now - began == pytest.approx(53.0, abs=1.0)


def test_a_reader_that_was_away_is_not_the_senders_silence() -> None:
    bench = Bench([picture(1), None, picture(2)])
    bench.epochs(1)
    bench.clock.now += 100.0  # nobody read
    assert bench.epochs(1) == [0]
    assert bench.states == ["connecting", "streaming"]


# Epochs

BREAKS: dict[str, tuple[Arrival, Arrival]] = {
    "height": (picture(1), picture(2, (30, 24))),
    "width": (picture(1), picture(2, (32, 20))),
    "grey to colour": (picture(1), picture(2, (*SHAPE, 3))),
    "size of the full picture": (picture(1, full_hw=(64, 64)), picture(2, full_hw=(64, 80))),
    "place of the region": (picture(1, origin_yx=(0, 0)), picture(2, origin_yx=(8, 0))),
    "depth knob": (picture(1, spacing_mm=(0.1, 0.1)), picture(2, spacing_mm=(0.2, 0.2))),
    "depth known no more": (picture(1, spacing_mm=(0.1, 0.1)), picture(2)),
    "clock backwards": (picture(2), picture(1)),
    "wall clock backwards": (picture(1, captured_unix_ns=5), picture(2, captured_unix_ns=4)),
    "stamps backwards": (picture(1, sender_ns=90), picture(2, sender_ns=0)),
}
NO_BREAKS: dict[str, tuple[Arrival, Arrival]] = {
    "nothing": (picture(1), picture(2)),
    "equal times": (picture(1), picture(1)),
    "a day later": (picture(1, captured_unix_ns=5), picture(2, captured_unix_ns=5 + 86400 * 10**9)),
    "a wall clock appears": (picture(1), picture(2, captured_unix_ns=4)),
    "same spacing": (picture(1, spacing_mm=(0.1, 0.1)), picture(2, spacing_mm=(0.1, 0.1))),
}


@pytest.mark.parametrize("pair", BREAKS.values(), ids=BREAKS.keys())
def test_a_break_begins_an_epoch_and_is_told(pair: tuple[Arrival, Arrival]) -> None:
    bench = Bench([*pair, pair[1]])
    assert bench.epochs(3) == [0, 1, 1]
    assert bench.states == ["connecting", "streaming", "streaming"]


@pytest.mark.parametrize("pair", NO_BREAKS.values(), ids=NO_BREAKS.keys())
def test_what_is_no_break_begins_none(pair: tuple[Arrival, Arrival]) -> None:
    assert Bench(list(pair)).epochs(2) == [0, 0]


def test_several_causes_at_once_are_one_epoch() -> None:
    bench = Bench([picture(9), FeedError("x")], [picture(2, (30, 24)), picture(3, (30, 24))])
    assert bench.epochs(3) == [0, 1, 1]


def test_spacing_of_the_configuration_wins() -> None:
    bench = Bench([picture(1, spacing_mm=(0.1, 0.1))], spacing_mm=(0.5, 0.25))
    shown = bench.source.read(memory)
    assert shown is not None
    assert shown.spacing_mm == (0.5, 0.25)


def test_what_the_feed_tells_reaches_the_picture() -> None:
    arrival = picture(
        7, captured_unix_ns=8, spacing_mm=(0.1, 0.2), origin_yx=(3, 4), full_hw=(99, 98)
    )
    shown = Bench([arrival]).source.read(memory)
    assert shown is not None
    assert shown.pixels is arrival.pixels
    assert (shown.captured_ns, shown.captured_unix_ns, shown.spacing_mm) == (7, 8, (0.1, 0.2))
    assert (shown.origin_yx, shown.full_hw) == ((3, 4), (99, 98))


# The same picture again and again


def frozen(count: int, first_ns: int) -> list[Arrival]:
    same = picture(200).pixels
    return [Arrival(same, captured_ns=first_ns + n) for n in range(count)]


def test_a_repeated_picture_is_told_and_so_is_its_end() -> None:
    bench = Bench([*frozen(5, 10), picture(16)], frozen_after=3)
    bench.epochs(3)
    assert bench.states == ["connecting", "streaming"], "two repeats are not three"
    bench.epochs(1)
    assert bench.states[-1] == "frozen"
    assert bench.reasons[-1] == "3 pictures equalled the one before"
    assert bench.epochs(2) == [0, 0]
    assert bench.states == ["connecting", "streaming", "frozen", "streaming"]


@pytest.mark.parametrize("row", [0, 3, 31])
def test_one_other_pixel_is_another_picture(row: int) -> None:
    pictures = frozen(12, 10)
    for n, one in enumerate(pictures):
        changed = one.pixels.copy()
        changed[row, 5] = n
        pictures[n] = Arrival(changed, captured_ns=one.captured_ns)
    bench = Bench(pictures, frozen_after=2)
    bench.epochs(12)
    assert bench.states == ["connecting", "streaming"]


def test_frozen_then_silent_then_frozen_still() -> None:
    bench = Bench([*frozen(3, 10), 2.0, *frozen(2, 20)], frozen_after=2)
    bench.epochs(5)
    assert bench.states == ["connecting", "streaming", "frozen", "stale", "frozen"]


def test_a_new_connection_counts_anew() -> None:
    bench = Bench([*frozen(3, 10), FeedError("x")], frozen(2, 20), frozen_after=2)
    bench.epochs(5)
    assert bench.states == ["connecting", "streaming", "frozen", "reconnecting", "streaming"]


def test_null_never_looks_for_it() -> None:
    bench = Bench(frozen(50, 10), frozen_after=None)
    bench.epochs(50)
    assert bench.states == ["connecting", "streaming"]


# Stopping, with real time


def refused() -> BlockedFeed:
    raise FeedError("refused")


def streaming_then_blocked() -> Callable[[], BlockedFeed]:
    feed = BlockedFeed()
    blocked, sent = feed.read, iter([picture(1)])
    feed.read = lambda buffer, timeout_s: next(sent, None) or blocked(buffer, timeout_s)  # type: ignore[method-assign]
    return lambda: feed


@pytest.mark.parametrize(
    ("make_dial", "state"),
    [
        (lambda: BlockedFeed, "connecting"),
        (streaming_then_blocked, "streaming"),
        (streaming_then_blocked, "stale"),
        (lambda: refused, "reconnecting"),
    ],
    ids=["connecting", "streaming", "stale", "reconnecting"],
)
def test_close_ends_a_read_that_waits(make_dial: Callable[..., object], state: str) -> None:
    config = LiveSection(source_id="live", stale_after_s=0.2)
    source = LiveSource(config, make_dial())  # type: ignore[arg-type]
    got: list[object] = []

    def follow() -> None:
        while (shown := source.read(memory)) is not None:
            got.append(shown)
        got.append(shown)

    reader = threading.Thread(target=follow)
    reader.start()
    deadline = time.monotonic() + 20
    while source._states.now != state:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    begin = time.monotonic()
    source.close()
    reader.join(20)
    assert time.monotonic() - begin < 1.0
    assert got[-1] is None
    assert source._feed is None


def test_close_before_the_first_read_and_twice() -> None:
    bench = Bench([picture(1)])
    bench.source.close()
    bench.source.close()
    assert bench.source.read(memory) is None
    assert bench.feeds == []


def test_a_source_that_cannot_go_stale_before_it_is_given_up_is_refused() -> None:
    with pytest.raises(ValidationError, match="expected less than reconnect_after_s"):
        LiveSection(stale_after_s=5.0, reconnect_after_s=5.0)
