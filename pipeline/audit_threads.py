"""Helper threads of a watched thread are watched as well."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from pipeline.audit_dispatch import watched
from pipeline.audit_state import Session, quiet, watching
from stages.errors import ResidencyError

P = ParamSpec("P")
R = TypeVar("R")

Sessions = tuple[Session, ...]


def audited_thread_start(original: Callable[[threading.Thread], None]) -> Callable[..., None]:
    """`Thread.start` whose thread is watched by the guards of the one that starts it."""

    @functools.wraps(original)
    def start(self: threading.Thread) -> None:
        sessions = watching()
        if sessions:
            self.run = functools.partial(_run, sessions, self.run)  # type: ignore[method-assign]
        original(self)

    return start


def audited_pool_submit(original: Callable[..., Future[R]]) -> Callable[..., Future[R]]:
    """`ThreadPoolExecutor.submit` whose call is watched by the guards of the one that submits.

    Only the call: the pool's threads also serve others.
    """

    @functools.wraps(original)
    def submit(
        self: ThreadPoolExecutor, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]:
        sessions = watching()
        if not sessions:
            return original(self, fn, *args, **kwargs)
        with quiet():  # a worker that this starts outlives the call
            return original(self, functools.partial(_call, sessions, fn), *args, **kwargs)

    return submit


def _run(sessions: Sessions, run: Callable[[], None]) -> None:
    try:
        with watched(sessions):
            run()
    except ResidencyError:
        # Recorded: the end of the guard raises it, in the thread that opened it.
        if not any(session.raises for session in sessions):
            raise


def _call(sessions: Sessions, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    with watched(sessions):
        return fn(*args, **kwargs)
