"""Whether a picture goes on from the one before, or begins a new epoch: `Continuity`."""

from __future__ import annotations

from dataclasses import dataclass

from stages.sources.feed import Arrival


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is compared of a picture."""

    geometry: tuple[object, ...]
    clocks: tuple[int | None, ...]

    @classmethod
    def of(cls, arrival: Arrival) -> _Mark:
        a = arrival
        return cls(
            (a.pixels.shape, a.full_hw, a.origin_yx, a.spacing_mm),
            (a.captured_ns, a.captured_unix_ns, a.sender_ns),
        )

    def leads_to(self, now: _Mark) -> bool:
        pairs = zip(self.clocks, now.clocks, strict=True)
        backwards = any(a is not None and b is not None and b < a for a, b in pairs)
        return self.geometry == now.geometry and not backwards


class Continuity:
    """Numbers the epochs of a live source, from 0.

    A new connection, another size or another pixel size (a turned depth knob), and a clock that
    runs backwards begin a new one; several causes at once are one.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._before: _Mark | None = None
        self._new = False

    @property
    def begun(self) -> bool:
        """Whether there was a picture."""
        return self._before is not None

    def connect(self) -> None:
        """The next picture is the first of a new connection."""
        self._new = True

    def follow(self, arrival: Arrival) -> int:
        """The epoch of ``arrival``, the picture after the one that was given last."""
        now = _Mark.of(arrival)
        if self._before is not None and (self._new or not self._before.leads_to(now)):
            self.epoch += 1
        self._before, self._new = now, False
        return self.epoch
