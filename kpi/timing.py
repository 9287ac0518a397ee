"""Times of a frame's stages, taken from outside the stages and without waiting for the GPU.

On CUDA each stage is put between two events that go round in a pool. They are only ever asked
(`query`) whether the GPU has passed them, so reading a time costs the GPU nothing and the host no
wait. Pooling, polling and recycling are tested with events of our own; the part that hands out
`torch.cuda.Event` has not yet run on a GPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic_ns, perf_counter_ns
from types import TracebackType
from typing import Any, Protocol

from kpi.events import StageMs


class DeviceEvent(Protocol):
    """What is used of `torch.cuda.Event(enable_timing=True)`."""

    def record(self) -> None:
        """Mark this point of the calling thread's current stream."""

    def query(self) -> bool:
        """Whether the device has passed the mark."""

    def elapsed_time(self, end_event: Any, /) -> float:  # noqa: ANN401  (its own class)
        """Milliseconds from this mark to `end_event`; both must have been passed."""


class EventPair:
    """The marks before and after one stage."""

    def __init__(self, new_event: Callable[[], DeviceEvent]) -> None:
        self.start = new_event()
        self.end = new_event()

    def done(self) -> bool:
        return self.end.query()

    def ms(self) -> float:
        return self.start.elapsed_time(self.end)


class StageTimer:
    """Makes a `FrameTimes` for each frame and owns the pool behind them.

    `device` is "cpu" or like "cuda:0"; `new_event` makes a device event (default: the CUDA one
    where `device` is CUDA, none otherwise). The pool grows to the frames in flight times the
    stages; a frame whose times are never read costs its events, not the pool's bound.
    """

    def __init__(self, device: str, *, new_event: Callable[[], DeviceEvent] | None = None) -> None:
        if new_event is None and device.startswith("cuda"):
            new_event = _cuda_event
        self._new_event = new_event
        self._pool: deque[EventPair] = deque()  # append and pop are atomic
        self.pairs_made = 0
        """Event pairs made so far; it stops growing once the pool serves every frame."""

    def frame(self) -> FrameTimes:
        return FrameTimes(self)

    def take(self) -> EventPair | None:
        """A pair from the pool, a new one where it is empty, None without a GPU."""
        if self._new_event is None:
            return None
        try:
            return self._pool.pop()
        except IndexError:
            self.pairs_made += 1
            return EventPair(self._new_event)

    def give(self, pair: EventPair) -> None:
        """Put a pair back; recording it anew is safe even where the device has yet to pass it."""
        self._pool.append(pair)


class FrameTimes:
    """What each stage took on one frame.

    One thread runs the stages; afterwards another may poll and read. A `stage` records on the
    stream that is current in the running thread, so it belongs inside the orchestrator's
    `torch.cuda.stream(...)`. A stage that replays a CUDA graph is timed around the replay: the
    marks lie before and behind the graph's launch on that stream, never in it, for a mark that
    was captured has no time. While a graph is captured nothing may poll: CUDA forbids it.
    """

    __slots__ = ("_host_ms", "_pairs", "_queue_ns", "_result", "_timer", "_waits_since_ns")

    def __init__(self, timer: StageTimer) -> None:
        self._timer = timer
        self._host_ms: dict[str, float] = {}
        self._pairs: dict[str, EventPair] = {}
        self._result: dict[str, StageMs] | None = None
        self._queue_ns = 0
        self._waits_since_ns: int | None = None

    @property
    def queue_ms(self) -> float:
        """What the frame spent waiting between threads, milliseconds."""
        return self._queue_ns / 1e6

    def waits(self, since_ns: int | None = None) -> None:
        """The frame waits for a thread from `since_ns` (monotonic; None: now) on; nothing
        changes where it does already."""
        if self._waits_since_ns is None:
            self._waits_since_ns = monotonic_ns() if since_ns is None else since_ns

    def goes_on(self, now_ns: int | None = None) -> None:
        """The wait ends at `now_ns` (monotonic; None: now), where there was one."""
        if self._waits_since_ns is not None:
            now_ns = monotonic_ns() if now_ns is None else now_ns
            self._queue_ns += max(0, now_ns - self._waits_since_ns)
            self._waits_since_ns = None

    def stage(self, name: str) -> _Stage:
        """Times what runs inside `with`. ValueError if `name` was already timed on this frame; a
        stage that raises leaves no time behind."""
        if name in self._host_ms:
            raise ValueError(f"stage {name!r} was timed twice on one frame, expected once")
        return _Stage(self, name)

    def ready(self) -> bool:
        """Whether the device has passed every stage; asks, never waits."""
        return all(pair.done() for pair in self._pairs.values())

    def stages_ms(self) -> dict[str, StageMs]:
        """Milliseconds by stage, in the order they ran; call it once `ready()` is true.

        The events go back to the pool at the first call; later calls return the same figures.
        RuntimeError if the device has not passed every stage yet.
        """
        if self._result is None:
            if not self.ready():
                raise RuntimeError("stage times were read before ready() was true")
            gpu_ms = {name: round(pair.ms(), 4) for name, pair in self._pairs.items()}
            self._result = {
                name: StageMs(host=host, gpu=gpu_ms.get(name))
                for name, host in self._host_ms.items()
            }
            self.release()
        return self._result

    def release(self) -> None:
        """Give the events back unread: the frame was dropped. Harmless after `stages_ms`."""
        for pair in self._pairs.values():
            self._timer.give(pair)
        self._pairs = {}


class _Stage:
    """One `with` of a stage; a class, for a generator would take twice as long."""

    __slots__ = ("_begin_ns", "_name", "_pair", "_times")

    def __init__(self, times: FrameTimes, name: str) -> None:
        self._times = times
        self._name = name

    def __enter__(self) -> None:
        self._pair = self._times._timer.take()
        if self._pair is not None:
            self._pair.start.record()
        self._begin_ns = perf_counter_ns()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        spent_ms = (perf_counter_ns() - self._begin_ns) / 1e6
        times, pair = self._times, self._pair
        if kind is not None:
            if pair is not None:
                times._timer.give(pair)
            return
        if pair is not None:
            pair.end.record()
            times._pairs[self._name] = pair
        times._host_ms[self._name] = round(spent_ms, 4)


def _cuda_event() -> DeviceEvent:
    import torch

    event: DeviceEvent = torch.cuda.Event(enable_timing=True)
    return event
