"""Threads that wait their turn: `patient_threads`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def patient_threads() -> Iterator[None]:
    """Threads begun inside take no core from a running thread as they wake up: they wait for a
    free one, or for the running one's time slice to end (SCHED_BATCH, sched(7)).

    libzmq's own thread wakes up in the middle of the very send that gives it work, and on busy
    cores would hold that up for as long as it has something to write (benchmarks/transport.py).

    Changes nothing where the system has no such policy or refuses it, and where the calling thread
    has been given another one than the usual.
    """
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
