"""What class ids mean, where that may change during a run: `LiveNames`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload


class LiveNames(Sequence[str]):
    """Names by class id as they are now, empty ones at the end left out. The number of names
    never falls, so an index that fits goes on to fit. May be read from any thread."""

    def __init__(self, told: Callable[[], Sequence[str]]) -> None:
        """`told` gives all names, as many each time; ids that mean nothing yet are empty."""
        self._told = told

    @property
    def now(self) -> tuple[str, ...]:
        names = tuple(self._told())
        while names and not names[-1]:
            names = names[:-1]
        return names

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self.now[index]

    def __len__(self) -> int:
        return len(self.now)
