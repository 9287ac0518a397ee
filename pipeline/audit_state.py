"""What the audit found, and which guards watch the calling thread."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from pipeline.audit_where import caller
from stages.errors import ResidencyError
from stages.exits import inside_exit, watch_exits

Kind = Literal["d2h", "h2d", "sync", "dynamic_shape"]

_DOES: dict[Kind, str] = {
    "d2h": "copies to the host",
    "h2d": "copies from the host",
    "sync": "waits for the device",
    "dynamic_shape": "has a shape that depends on data",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One operation that would copy to, or wait for, the host on a GPU."""

    op: str
    """As written in Python (`Tensor.item`), or the operator behind it (`aten.nonzero`)."""
    kind: Kind
    where: str
    """`file:line` of the caller's code; for a line of a library also the project's line."""

    def __str__(self) -> str:
        return f"{self.op} {_DOES[self.kind]}, at {self.where}"


@dataclass(slots=True)
class ResidencyReport:
    """What one guard saw, on all the threads it watched."""

    violations: list[Violation] = field(default_factory=list)
    exits: Counter[str] = field(default_factory=Counter)
    """How often each named exit was entered."""

    def count(self, kind: Kind) -> int:
        """The number of violations of one kind."""
        return sum(violation.kind == kind for violation in self.violations)


class Session:
    """One guard, from its start to its end; shared by the threads it watches."""

    def __init__(self, raises: bool) -> None:
        self.raises = raises
        self.report = ResidencyReport()
        self.open = True
        self._lock = threading.Lock()

    def record(self, violation: Violation) -> bool:
        """Whether the violation stopped the caller: False in count mode and after the end."""
        with self._lock:
            if self.open:
                self.report.violations.append(violation)
            return self.open and self.raises

    def count_exit(self, name: str) -> None:
        with self._lock:
            if self.open:
                self.report.exits[name] += 1

    def close(self) -> None:
        with self._lock:
            self.open = False


class _Here(threading.local):
    sessions: tuple[Session, ...] = ()
    quiet: int = 0


_here = _Here()


def watching() -> tuple[Session, ...]:
    """The guards whose rules hold for what this thread does now."""
    if not _here.sessions or _here.quiet or inside_exit():
        return ()
    return tuple(session for session in _here.sessions if session.open)


def violate(op: str, kind: Kind) -> None:
    """Record a violation with every guard of this thread; raise where one of them asks for it."""
    violation = Violation(op, kind, caller())
    stopped = [session.record(violation) for session in watching()]
    if any(stopped):
        raise ResidencyError(str(violation))


@contextmanager
def quiet() -> Iterator[None]:
    """Look away on this thread: what runs inside has been judged already."""
    _here.quiet += 1
    try:
        yield
    finally:
        _here.quiet -= 1


@contextmanager
def joined(sessions: tuple[Session, ...]) -> Iterator[bool]:
    """Put this thread under `sessions` as well; tells whether any of them is new to it."""
    before = _here.sessions
    new = tuple(session for session in sessions if session not in before)
    _here.sessions = before + new
    watcher = watch_exits(_count_exit)
    try:
        yield bool(new)
    finally:
        watch_exits(watcher)
        _here.sessions = before


def _count_exit(name: str) -> None:
    for session in _here.sessions:
        session.count_exit(name)
