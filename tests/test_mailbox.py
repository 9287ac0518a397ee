"""The two policies of the mailbox, its end, and that closing wakes whoever waits."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stages.mailbox import Mailbox, MailboxPolicy

WAKES_WITHIN_S = 1.0


def wait_until_blocked(future: object, seconds: float = 0.1) -> None:
    time.sleep(seconds)
    assert not future.done()  # type: ignore[attr-defined]


def test_latest_keeps_the_newest_and_returns_what_it_replaced() -> None:
    box: Mailbox[int] = Mailbox("latest")
    assert [box.put(n) for n in range(4)] == [None, 0, 1, 2]
    assert box.get(0) == 3
    assert box.get(0) is None


def test_every_keeps_the_order_and_loses_nothing() -> None:
    box: Mailbox[int] = Mailbox("every", depth=3)
    with ThreadPoolExecutor(1) as pool:
        producer = pool.submit(lambda: [box.put(n) for n in range(200)])
        taken = [box.get(1.0) for _ in range(200)]
        assert producer.result() == [None] * 200
    assert taken == list(range(200))


def test_every_makes_the_producer_wait_for_room() -> None:
    box: Mailbox[int] = Mailbox("every", depth=2)
    box.put(0)
    box.put(1)
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(box.put, 2)
        wait_until_blocked(third)
        assert box.get(0) == 0
        assert third.result(WAKES_WITHIN_S) is None
    assert [box.get(0), box.get(0)] == [1, 2]


@pytest.mark.parametrize("policy", ["latest", "every"])
def test_what_waits_at_a_clean_end_is_still_delivered(policy: MailboxPolicy) -> None:
    box: Mailbox[int] = Mailbox(policy)
    box.put(7)
    box.close()
    assert not box.ended
    assert box.get(0) == 7
    assert box.ended
    assert box.get(10) is None  # at once, not after ten seconds


def test_every_delivers_what_came_before_the_error_then_raises_it() -> None:
    box: Mailbox[int] = Mailbox("every", depth=2)
    box.put(1)
    box.close(OSError("unplugged"))
    assert box.get(0) == 1
    for _ in range(2):
        with pytest.raises(OSError, match="unplugged"):
            box.get(0)
    assert not box.ended  # an end by error is told by raising only


def test_latest_raises_the_error_at_once() -> None:
    box: Mailbox[int] = Mailbox("latest")
    box.put(1)
    box.close(OSError("unplugged"))
    with pytest.raises(OSError, match="unplugged"):
        box.get(0)
    assert box.discard() == 1  # still there to be accounted for


def test_the_first_close_counts() -> None:
    box: Mailbox[int] = Mailbox("latest")
    box.close()
    box.close(OSError("too late"))
    assert box.get(0) is None
    assert box.ended


@pytest.mark.parametrize("error", [None, OSError("unplugged")])
def test_close_wakes_a_waiting_consumer(error: OSError | None) -> None:
    box: Mailbox[int] = Mailbox("latest")
    with ThreadPoolExecutor(1) as pool:
        getting = pool.submit(box.get, 30.0)
        wait_until_blocked(getting)
        box.close(error)
        assert getting.exception(WAKES_WITHIN_S) is error


def test_close_wakes_a_waiting_producer_and_hands_its_item_back() -> None:
    box: Mailbox[int] = Mailbox("every", depth=1)
    box.put(0)
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(box.put, 1)
        wait_until_blocked(putting)
        box.close()
        assert putting.result(WAKES_WITHIN_S) == 1
    assert box.put(2) == 2
    assert box.get(0) == 0


def test_nothing_is_lost_or_doubled_between_two_threads() -> None:
    box: Mailbox[int] = Mailbox("latest")
    lost: list[int] = []

    def produce() -> None:
        for n in range(5000):
            replaced = box.put(n)
            if replaced is not None:
                lost.append(replaced)
        box.close()

    producer = threading.Thread(target=produce)
    producer.start()
    taken: list[int] = []
    while not box.ended:
        item = box.get(0.05)
        if item is not None:
            taken.append(item)
    producer.join()
    assert taken == sorted(taken)
    assert sorted(taken + lost) == list(range(5000))


@pytest.mark.parametrize(
    ("policy", "depth"), [("newest", 1), ("every", 0), ("latest", 2), ("latest", 0)]
)
def test_what_fits_no_policy_is_refused(policy: MailboxPolicy, depth: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Mailbox(policy, depth)
