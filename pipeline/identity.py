"""How well ids last: switches, and occlusions survived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MOST_HIDDEN_FRAMES = 30
"""Longer absences are no occlusion: whoever comes back then may be somebody new."""


@dataclass(slots=True)
class _Seen:
    """What is known of one truth object."""

    last_frame: int
    """The last frame on which it could be seen."""
    object_id: int | None = None
    """The result that last stood for it."""
    waits: int | None = None
    """Frames since it is back from an occlusion, while no result stands for it yet."""


class IdentityCheck:
    """Follows which result id stands for which truth object.

    A switch is a match with another id than the last one (as in CLEAR MOT, Bernardin and
    Stiefelhagen 2008). An occlusion is an absence of 1 to `MOST_HIDDEN_FRAMES` frames of an object
    that had a match; it is kept where the first match afterwards has the same id. Without a match
    in as many frames, or before it is gone for longer, it is not kept; one that waits for its first
    match when the stream ends is not counted.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self.switches = 0
        self.object_frames = 0
        self.occlusions = 0
        self.kept = 0

    @property
    def stands_for(self) -> dict[int, int]:
        """The result that last stood for each truth object."""
        return {
            truth_id: seen.object_id
            for truth_id, seen in self._seen.items()
            if seen.object_id is not None
        }

    def frame(self, number: int, matches: Mapping[int, int | None]) -> None:
        """One frame: the truth objects that can be seen, each with its result's id or None."""
        for truth_id, object_id in matches.items():
            self.object_frames += 1
            seen = self._seen.setdefault(truth_id, _Seen(number))
            away = number - seen.last_frame - 1
            seen.last_frame = number
            if away and seen.object_id is not None:
                self._back(seen, away)
            if object_id is not None:
                self._match(seen, object_id)
            elif seen.waits is not None:
                self._wait(seen)

    def _back(self, seen: _Seen, away: int) -> None:
        if away <= MOST_HIDDEN_FRAMES:
            seen.waits = seen.waits or 0
            return
        self.occlusions += seen.waits is not None
        seen.object_id = seen.waits = None

    def _wait(self, seen: _Seen) -> None:
        seen.waits = (seen.waits or 0) + 1
        if seen.waits > MOST_HIDDEN_FRAMES:
            self.occlusions += 1
            seen.waits = None

    def _match(self, seen: _Seen, object_id: int) -> None:
        if seen.waits is not None:
            self.occlusions += 1
            self.kept += object_id == seen.object_id
            seen.waits = None
        self.switches += seen.object_id not in (None, object_id)
        seen.object_id = object_id

    @property
    def switches_per_100_frames(self) -> float | None:
        """Switches per object and 100 frames on which it could be seen."""
        return 100 * self.switches / self.object_frames if self.object_frames else None

    @property
    def occlusion_id_kept(self) -> float | None:
        """Share of the occlusions after which the id was the same."""
        return self.kept / self.occlusions if self.occlusions else None
