"""The states of a live source and which may follow which: `LiveStates`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from kpi.events import SourceState

Tell = Callable[[SourceState, int, str | None], None]
"""Is given a state, the epoch and the reason."""

_OVER: Final[tuple[SourceState, ...]] = ("ended", "failed")

LEGAL: Final[Mapping[SourceState | None, tuple[SourceState, ...]]] = {
    None: ("connecting", *_OVER),
    "connecting": ("streaming", "reconnecting", *_OVER),
    "streaming": ("streaming", "stale", "frozen", "reconnecting", *_OVER),
    "stale": ("streaming", "frozen", "reconnecting", *_OVER),
    "frozen": ("streaming", "stale", "reconnecting", *_OVER),
    "reconnecting": ("streaming", "reconnecting", *_OVER),
    "ended": (),
    "failed": (),
}
"""What may follow each state; None is before the first. `connecting`: the first attempt is under
way; `streaming`: pictures come (again at each new epoch); `stale`: none came for a while, the
connection stands; `frozen`: the same picture comes again and again; `reconnecting`: the connection
is gone, or an attempt failed (again for each new reason); `ended`, `failed`: for good."""


class IllegalTransitionError(RuntimeError):
    """A state cannot follow the one before: a mistake of ours."""


class LiveStates:
    """Goes from state to state and tells each once; raises `IllegalTransitionError` for a step
    that is not in `LEGAL`. Used by one thread."""

    def __init__(self, tell: Tell) -> None:
        self.now: SourceState | None = None
        self._tell = tell
        self._told: tuple[SourceState, int, str | None] | None = None

    @property
    def over(self) -> bool:
        """Whether no state can follow."""
        return not LEGAL[self.now]

    def go(self, state: SourceState, epoch: int, reason: str | None = None) -> None:
        """Take the step to ``state``; nothing new is not told again."""
        if state not in LEGAL[self.now]:
            raise IllegalTransitionError(f"{state} cannot follow {self.now}")
        self.now = state
        if self._told != (state, epoch, reason):
            self._told = (state, epoch, reason)
            self._tell(state, epoch, reason)
