"""Which phrases are looked for, changed by anyone while a run goes on: `Phrases`."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from stages.detectors.concepts import ConceptNetwork
from stages.errors import ConfigError
from stages.phrasing import EXPECTED, MOST_PHRASES, PhraseOutcome, PhraseRefusal, flaw_of, tidy
from stages.requests import Requests

PLACES: Final = 33
"""Class ids that phrases may have, 0 among them: that one is of what people add themselves.
A class id that was given up is another phrase's only after 16 others have been taken, long after
the last result with its objects left."""
OWN_CLASS: Final = "object"
"""Name of class 0."""
_REMEMBERED: Final = 64
"""Phrases whose words stay on the device, for who adds one again."""
_WAITING: Final = 128


@dataclass(frozen=True, slots=True)
class Wish:
    """Something that somebody wants to be looked for, or no longer."""

    phrase: str
    add: bool


class Phrases:
    """Phrases by class id. Anyone may `add` and `remove`; the detector alone calls `turn`."""

    def __init__(self, network: ConceptNetwork, first: Sequence[str] = ()) -> None:
        """`first`: what is looked for from the start. Raises `ConfigError`."""
        self._network = network
        self._wishes: Requests[Wish, PhraseOutcome] = Requests()
        self._words: OrderedDict[str, object] = OrderedDict()
        self._places: dict[str, int] = {}
        self._free = deque(range(1, PLACES))
        self.names: tuple[str, ...] = (OWN_CLASS, *[""] * (PLACES - 1))
        """By class id: what is looked for, or was; empty where nothing ever was. May be read from
        any thread."""
        for phrase in first:
            told = self.add(phrase)
            self.turn(0)
            reason = told.result().reason
            if reason is not None:
                raise ConfigError(f"phrases: {phrase!r}: {EXPECTED[reason]}")

    @property
    def now(self) -> tuple[str, ...]:
        """What is looked for; may be read from any thread."""
        return tuple(self._places)

    def class_of(self, phrase: str) -> int | None:
        return self._places.get(tidy(phrase))

    def add(self, phrase: str) -> Future[PhraseOutcome]:
        """Look for a phrase from the next frame on; the result comes with that frame.

        One that is looked for already keeps its class id.
        """
        flaw = flaw_of(phrase) or self._network.flaw(tidy(phrase))
        return _refused(flaw) if flaw is not None else self._wish(phrase, add=True)

    def remove(self, phrase: str) -> Future[PhraseOutcome]:
        """Look for it no longer: its objects end with the frame that the result names."""
        return self._wish(phrase, add=False)

    def turn(self, frame_id: int) -> bool:
        """Grant one wish, if there is one: at most one text a frame is encoded. Whether what is
        looked for changed. Raises what the network raises, the wish then ended as `failed`."""
        for wish, told in self._wishes.take(1):
            try:
                reason, class_id, changed = self._take(wish)
            except BaseException:
                told.set_result(PhraseOutcome("failed", frame_id))
                raise
            told.set_result(PhraseOutcome(reason, frame_id, class_id))
            return changed
        return False

    def words(self) -> list[tuple[int, object]]:
        """Class id and words of what is looked for, in the order it was asked for."""
        return [(place, self._words[phrase]) for phrase, place in self._places.items()]

    def _wish(self, phrase: str, *, add: bool) -> Future[PhraseOutcome]:
        if len(self._wishes) >= _WAITING:
            return _refused("too_many")
        return self._wishes.put(Wish(tidy(phrase), add))

    def _take(self, wish: Wish) -> tuple[PhraseRefusal | None, int | None, bool]:
        place = self._places.get(wish.phrase)
        if not wish.add:
            if place is None:
                return "unknown_phrase", None, False
            self._places = {name: at for name, at in self._places.items() if at != place}
            self._free.append(place)
            return None, place, True
        if place is not None:
            return None, place, False
        if len(self._places) >= MOST_PHRASES:
            return "too_many_phrases", None, False
        self._learn(wish.phrase)
        place = self._free.popleft()
        self.names = (*self.names[:place], wish.phrase, *self.names[place + 1 :])
        self._places = {**self._places, wish.phrase: place}
        return None, place, True

    def _learn(self, phrase: str) -> None:
        if phrase not in self._words:
            self._words[phrase] = self._network.words(phrase)
        self._words.move_to_end(phrase)
        idle = [name for name in self._words if name not in self._places and name != phrase]
        while len(self._words) > _REMEMBERED:
            del self._words[idle.pop(0)]


def _refused(reason: PhraseRefusal) -> Future[PhraseOutcome]:
    told: Future[PhraseOutcome] = Future()
    told.set_result(PhraseOutcome(reason))
    return told
