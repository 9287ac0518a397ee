"""How much the log says of each frame: a line, a share of one line a second, or nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Literal, Protocol

from kpi.device_events import DeviceSample
from kpi.edge_events import PacketsSent, PeersConnected, RecorderFrames, SubscriberMessages
from kpi.events import (
    DropReason,
    Event,
    FrameDropped,
    FramePublished,
    FrameSecond,
    HostCopies,
    RunFinished,
    SamMaskOutput,
    SourceTroubles,
    Spread,
    StageMs,
)

DetailName = Literal["frame", "second", "off"]
Lines = Iterable[tuple[float, Event]]
"""(Unix seconds, event)."""

_PER_FRAME = (FramePublished, FrameDropped, SamMaskOutput)
_FIGURES = (
    *(*_PER_FRAME, FrameSecond, DeviceSample),
    *(HostCopies, PacketsSent, PeersConnected, SubscriberMessages),
    *(RecorderFrames, SourceTroubles),
)


class Detail(Protocol):
    """What is written for an event."""

    def lines(self, ts: float, event: Event) -> Lines:
        """What is to be written now that `event` has come."""

    def rest(self) -> Lines:
        """What is still to be written when nothing more comes."""


def make_detail(name: DetailName, source_id: str) -> Detail:
    """The `Detail` of that name; `source_id` is the run's source."""
    match name:
        case "frame":
            return EveryFrame()
        case "second":
            return EverySecond(source_id)
        case "off":
            return NoFigures()


class EveryFrame:
    """Every event as it came."""

    def lines(self, ts: float, event: Event) -> Lines:
        return ((ts, event),)

    def rest(self) -> Lines:
        return ()


class NoFigures:
    """What happened to the run, its parts and its objects; nothing of each frame or second."""

    def lines(self, ts: float, event: Event) -> Lines:
        return () if isinstance(event, _FIGURES) else ((ts, event),)

    def rest(self) -> Lines:
        return ()


class EverySecond:
    """A frame's own events become one `FrameSecond` a second and source; the others stay.

    A second is one of the Unix clock. It is written when an event of a later one comes, or the
    run's end, before that event. Predictions name no source: they count for `source_id`.
    """

    def __init__(self, source_id: str) -> None:
        self._source_id = source_id
        self._second: int | None = None
        self._gathered: dict[str, _Second] = {}

    def lines(self, ts: float, event: Event) -> Iterator[tuple[float, Event]]:
        second = math.floor(ts)
        if not self._is_open(second) or isinstance(event, RunFinished):
            yield from self._close(ts)
        if not isinstance(event, _PER_FRAME):
            yield ts, event
            return
        self._second = second if self._second is None else self._second
        source = getattr(event, "source_id", self._source_id)
        self._gathered.setdefault(source, _Second()).add(event)

    def rest(self) -> Iterator[tuple[float, Event]]:
        yield from self._close(math.inf)

    def _is_open(self, second: int) -> bool:
        """Whether what comes in `second` still counts for the open one: so does what is a little
        late, but not what comes after the clock was set back."""
        return self._second is None or self._second - 1 <= second <= self._second

    def _close(self, now: float) -> Iterator[tuple[float, Event]]:
        gathered, self._gathered = self._gathered, {}
        second, self._second = self._second, None
        for source, frames in gathered.items():
            if second is not None:
                yield min(second + 1.0, now), frames.event(source)


class _Second:
    """The frames of one source within one second."""

    def __init__(self) -> None:
        self._published: list[FramePublished] = []
        self._dropped: Counter[DropReason] = Counter()
        self._mask_outputs = 0
        self._newest: tuple[int, int] | None = None

    def add(self, event: Event) -> None:
        match event:
            case FramePublished():
                self._published.append(event)
                self._see(event.epoch, event.frame_id)
            case FrameDropped():
                self._dropped[event.reason] += 1
                self._see(event.epoch, event.frame_id)
            case _:
                self._mask_outputs += 1

    def _see(self, epoch: int, frame_id: int) -> None:
        self._newest = max(self._newest or (epoch, frame_id), (epoch, frame_id))

    def event(self, source_id: str) -> FrameSecond:
        frames = self._published
        epoch, frame_id = self._newest or (None, None)
        queues = [frame.queue_ms for frame in frames if frame.queue_ms is not None]
        return FrameSecond(
            source_id=source_id,
            epoch=epoch,
            frame_id=frame_id,
            published=len(frames),
            dropped=dict(self._dropped),
            mask_outputs=self._mask_outputs,
            objects=frames[-1].objects if frames else None,
            objects_max=max((frame.objects for frame in frames), default=None),
            latency_ms=spread([frame.latency_ms for frame in frames]),
            age_ms=spread([frame.age_ms for frame in frames]),
            queue_ms=spread(queues),
            stages_ms=_medians(frames) if frames else None,
        )


def spread(values: Sequence[float]) -> Spread | None:
    """Nearest-rank percentiles of milliseconds; None without finite values."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return None
    ranks = (math.ceil(share * len(ordered)) - 1 for share in (0.5, 0.95, 0.99, 1.0))
    return Spread(*(round(ordered[rank], 3) for rank in ranks))


def _medians(frames: Sequence[FramePublished]) -> dict[str, StageMs]:
    found = {}
    for stage in dict.fromkeys(name for frame in frames for name in frame.stages_ms):
        times = [frame.stages_ms[stage] for frame in frames if stage in frame.stages_ms]
        gpu = [time.gpu for time in times if time.gpu is not None]
        host = round(median(time.host for time in times), 3)
        found[stage] = StageMs(host, round(median(gpu), 3) if gpu else None)
    return found
