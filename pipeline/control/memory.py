"""What was asked before: a command that comes again is not done again."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Final

from pipeline.control.answers import Answer

REMEMBERED: Final = 1024
"""Answers that are kept for a repetition."""
WAITING: Final = 128
"""Commands that may be without an answer at once; of one controller, never more than there are
places left: 64 where nobody else waits, and whoever comes finds one."""
_ROUTES: Final = 4

Route = tuple[bytes, ...]
"""The frames before an answer: where to, and a REQ socket's delimiter."""
Key = tuple[str, str]
"""Who asked (the name of its key; empty without CURVE), and the command's id."""


@dataclass(slots=True, eq=False)
class Asked:
    """One command and where its answer goes."""

    id: str
    command: bytes
    asker: str
    routes: list[Route] = field(default_factory=list)
    answer: Answer | None = None

    def add(self, route: Route) -> None:
        """One more place for the answer; the oldest gives way."""
        if route not in self.routes:
            self.routes = [*self.routes, route][-_ROUTES:]


class Memory:
    """The last `REMEMBERED` commands by who asked and id; those without an answer are kept."""

    def __init__(self) -> None:
        self._asked: OrderedDict[Key, Asked] = OrderedDict()
        self.waiting = 0
        self._by_command: dict[tuple[str, bytes], Key] = {}
        """By who asked, and what in its very bytes."""
        self._by_asker: Counter[str] = Counter()
        """Of those that wait."""

    def find(self, key: Key) -> Asked | None:
        return self._asked.get(key)

    def find_same(self, user: str, command: bytes) -> Asked | None:
        """What came before in the same bytes, which need not be read for that."""
        key = self._by_command.get((user, command))
        return None if key is None else self._asked.get(key)

    def has_place(self, asker: str) -> bool:
        """Whether one more command of this controller may wait."""
        return self._by_asker[asker] < WAITING - self.waiting

    def begin(self, key: Key, asker: str, command: bytes, route: Route) -> Asked:
        """Remember a new command."""
        asked = self._asked[key] = Asked(key[1], command, asker, [route])
        self._by_command[key[0], command] = key
        self.waiting += 1
        self._by_asker[asker] += 1
        return asked

    def end(self, key: Key, answer: Answer) -> Asked | None:
        """Its answer; None where there is none to give, or it was given."""
        asked = self._asked.get(key)
        if asked is None or asked.answer is not None:
            return None
        asked.answer = answer
        self.waiting -= 1
        self._by_asker[asked.asker] -= 1
        self._by_asker += Counter()  # without zeros
        self._asked.move_to_end(key)
        if len(self._asked) > REMEMBERED:
            oldest = next(name for name, each in self._asked.items() if each.answer is not None)
            del self._by_command[oldest[0], self._asked.pop(oldest).command]
        return asked

    def unanswered(self) -> list[Key]:
        return [key for key, asked in self._asked.items() if asked.answer is None]
