"""Threads that take no core from a running one: libzmq's, of the publisher and no other."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

import pytest
import zmq

from stages.patience import patient_threads
from stages.sinks.zmq_publisher import ZmqPublisher, ZmqPublisherConfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="policies are Linux's")


def policies() -> dict[int, int]:
    """Of this process's threads, by thread."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # another test's may have ended just now
            found[int(name)] = os.sched_getscheduler(int(name))
    return found


def test_a_thread_begun_inside_keeps_it_and_the_caller_does_not() -> None:
    found: list[int] = []
    with patient_threads():
        thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
        thread.start()
        thread.join()
    after = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
    after.start()
    after.join()
    assert found == [os.SCHED_BATCH, os.SCHED_OTHER]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_another_policy_of_the_caller_stays() -> None:
    found: list[int] = []

    def idle() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with patient_threads():
            found.append(os.sched_getscheduler(0))
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=idle)
    thread.start()
    thread.join()
    assert found == [os.SCHED_IDLE, os.SCHED_IDLE]


def test_what_the_system_refuses_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("refused")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with patient_threads():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_the_publishers_threads_are_patient_and_an_ordinary_contexts_are_not() -> None:
    before = policies()
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint="tcp://127.0.0.1:0"), "cam", ("x",))
    try:
        begun = {thread: how for thread, how in policies().items() if thread not in before}
        assert len(begun) >= 2  # libzmq's reaper and its I/O thread
        assert set(begun.values()) == {os.SCHED_BATCH}
    finally:
        publisher.close()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER

    before = policies()
    with zmq.Context() as context, context.socket(zmq.PUB):
        begun = {thread: how for thread, how in policies().items() if thread not in before}
        assert set(begun.values()) == {os.SCHED_OTHER}
