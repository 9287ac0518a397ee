"""What receivers are told about the stream itself: `told`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kpi.events import SourceState
from stages.sinks.announced import Announced
from stages.sinks.igtl_encode import OK, status

_CODES: Final[dict[SourceState, int]] = {
    "connecting": 13,  # not ready
    "streaming": OK,
    "stale": 7,  # time out, or connection lost
    "frozen": 18,  # hardware failure
    "reconnecting": 16,  # not present
    "ended": 19,  # shut down
    "failed": 2,  # unknown error
}
"""As http://openigtlink.org/protocols/v2_status.html lists them."""
_TEXTS: Final[dict[SourceState, str]] = {
    "connecting": "no picture has come yet",
    "streaming": "results are live",
    "stale": "no picture comes: the last masks are old",
    "frozen": "the same picture comes again and again: the masks are not live",
    "reconnecting": "the source is away: the last masks are old",
    "ended": "the stream has ended",
    "failed": "the stream has failed",
}


@dataclass(frozen=True, slots=True)
class Told:
    """A state, as it is sent."""

    state: SourceState
    text: str

    @property
    def content(self) -> bytes:
        """Of a STATUS message."""
        return status(_CODES[self.state], self.state, self.text)


def told(announced: Announced) -> Told:
    """What holds now; `stale` as well where no live result comes although the source says nothing
    of it."""
    state = announced.now.state
    if state == "streaming" and announced.stale:
        return Told("stale", "no live result comes: the last masks are old")
    return Told(state, _TEXTS[state])
