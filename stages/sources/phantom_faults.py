"""Faults that the phantom can play, for tests and demonstrations: `FaultPlan`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from stages.base import Section

FaultKind = Literal["stall", "drop", "resize", "garbage", "frozen"]


class PhantomFault(Section):
    """What goes wrong with the pictures `at` .. `at` + `frames` - 1 of the scan."""

    kind: FaultKind
    """`stall`: they come when the last of them is over, all at once; `drop`: they never come;
    `resize`: they are half as high and wide, an epoch of their own; `garbage`: they are noise, in
    which nothing can be seen; `frozen`: each is the picture before them."""
    at: int = Field(ge=0, strict=True)
    frames: int = Field(default=1, ge=1, le=1_000_000, strict=True)

    @property
    def pictures(self) -> range:
        return range(self.at, self.at + self.frames)


@dataclass(frozen=True, slots=True)
class Showing:
    """How one picture of the scan comes out."""

    index: int
    """The picture of the scan that is shown in its place."""
    epoch: int
    due: int
    """The picture of the scan in whose turn it comes."""
    halved: bool
    garbage: bool


class FaultPlan:
    """Which picture comes when, and how; pure, so that picture and truth always agree."""

    def __init__(self, faults: Sequence[PhantomFault]) -> None:
        self._faults = tuple(faults)
        self._dropped = merged(fault.pictures for fault in faults if fault.kind == "drop")
        self._halved = merged(fault.pictures for fault in faults if fault.kind == "resize")

    def picture(self, number: int) -> int:
        """The place in the scan of the picture that is delivered as ``number``, from 0."""
        for dropped in self._dropped:
            if number >= dropped.start:
                number += len(dropped)
        return number

    def showing(self, index: int) -> Showing:
        """How picture ``index`` of the scan is shown."""
        during = {fault.kind: fault.pictures for fault in self._faults if index in fault.pictures}
        frozen, stalled = during.get("frozen"), during.get("stall")
        edges = [edge for span in self._halved for edge in (span.start, span.stop)]
        return Showing(
            index=index if frozen is None else max(0, frozen.start - 1),
            epoch=sum(0 < edge <= index for edge in edges),
            due=index if stalled is None else stalled.stop,
            halved="resize" in during,
            garbage="garbage" in during,
        )


def merged(spans: Iterable[range]) -> tuple[range, ...]:
    """The same numbers in ranges that neither overlap nor touch, in order."""
    found: list[range] = []
    for span in sorted(spans, key=lambda span: span.start):
        if found and span.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, span.stop))
        else:
            found.append(span)
    return tuple(found)
