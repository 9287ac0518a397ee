"""Named exits: the few places where bytes may cross between host and device.

A stage that copies on purpose (the upload, the header, the egress, a prompt) wraps the copy in
`named_exit`. The residency audit (`pipeline.audit`) then looks away on that thread and counts the
exit. Where no audit runs, an exit costs one look-up. The legacy `as_numpy` copy is no named exit:
it is the control that the audit must fail on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext


class _Here(threading.local):
    """What this thread knows of its audit."""

    on_exit: Callable[[str], None] | None = None
    depth: int = 0


class _Open:
    """One exit under audit."""

    __slots__ = ("_name", "_on_exit")

    def __init__(self, name: str, on_exit: Callable[[str], None]) -> None:
        self._name = name
        self._on_exit = on_exit

    def __enter__(self) -> None:
        _here.depth += 1
        self._on_exit(self._name)

    def __exit__(self, *_: object) -> None:
        _here.depth -= 1


_here = _Here()
_UNAUDITED: AbstractContextManager[None] = nullcontext()


def named_exit(name: str) -> AbstractContextManager[None]:
    """Allow copies and waits inside the block, on this thread: `with named_exit("header"): ...`.

    `name` is what the audit counts under, as in `CopyCount.where`. Enter it where it is made.
    """
    on_exit = _here.on_exit
    return _UNAUDITED if on_exit is None else _Open(name, on_exit)


def inside_exit() -> bool:
    """Whether this thread is inside a named exit that an audit knows of."""
    return _here.depth > 0


def watch_exits(on_exit: Callable[[str], None] | None) -> Callable[[str], None] | None:
    """Have `on_exit` called with the name of every exit that this thread enters from now on
    (None: no more), and return what was called before."""
    before = _here.on_exit
    _here.on_exit = on_exit
    return before
