"""How long to wait before the next attempt: `Backoff`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

FIRST_S: Final = 0.5
LAST_S: Final = 3.0
_JITTER: Final = 0.25


class Backoff:
    """Waits that double from 0.5 s to 3 s, each shortened by up to a quarter at random, so that
    the clients of a server that comes back do not all come at once. ``rand`` gives [0, 1)."""

    def __init__(self, rand: Callable[[], float] = random.random) -> None:
        self._rand = rand
        self._next_s = FIRST_S

    def next_s(self) -> float:
        """Seconds to wait now; the next wait is longer."""
        wait_s, self._next_s = self._next_s, min(2 * self._next_s, LAST_S)
        return wait_s * (1 - _JITTER * self._rand())

    def reset(self) -> None:
        """It worked: begin with short waits again."""
        self._next_s = FIRST_S
