"""Putting the audit into Python's own calls, for as long as any guard is open.

Methods are shared by all threads, so each replacement first asks whether a guard watches the
calling thread; elsewhere it is the original and one look-up.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from pipeline.audit_calls import Call, audited_calls
from pipeline.audit_state import quiet, violate, watching
from pipeline.audit_threads import audited_pool_submit, audited_thread_start

P = ParamSpec("P")
R = TypeVar("R")

_MISSING = object()


class _Patches:
    """The replacements, put in by the first guard and taken out by the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guards = 0
        self._before: list[tuple[type | ModuleType, str, object]] = []

    def enter(self) -> None:
        with self._lock:
            self._guards += 1
            if self._guards == 1:
                self._install()

    def leave(self) -> None:
        with self._lock:
            self._guards -= 1
            if self._guards == 0:
                self._restore()

    def _install(self) -> None:
        for call in audited_calls():
            self._replace(call.owner, call.name, functools.partial(_audited, call))
        self._replace(threading.Thread, "start", audited_thread_start)
        self._replace(ThreadPoolExecutor, "submit", audited_pool_submit)

    def _replace(self, owner: type | ModuleType, name: str, wrap: Callable[[Any], object]) -> None:
        replacement = wrap(getattr(owner, name))
        self._before.append((owner, name, vars(owner).get(name, _MISSING)))
        setattr(owner, name, replacement)

    def _restore(self) -> None:
        for owner, name, before in reversed(self._before):
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        self._before.clear()


_patches = _Patches()


@contextmanager
def patched() -> Iterator[None]:
    """The calls are audited inside the block, and untouched after the last such block."""
    _patches.enter()
    try:
        yield
    finally:
        _patches.leave()


def _audited(call: Call, original: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(original)
    def audited(*args: P.args, **kwargs: P.kwargs) -> R:
        if not watching():
            return original(*args, **kwargs)
        verdict = call.judge(args, kwargs)
        if verdict is None:
            return original(*args, **kwargs)
        if verdict != "quiet":
            violate(call.op, verdict)
        with quiet():
            return original(*args, **kwargs)

    return audited
