"""What the tests of `LiveSource` share: a feed that plays a script, a clock set by hand, and a
reader's memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from kpi.emit import current_logger
from kpi.events import Event, SourceStateChanged
from stages.base import Buffer
from stages.sources.backoff import Backoff
from stages.sources.feed import Arrival
from stages.sources.live import LiveSource
from stages.sources.live_section import LiveSection

SHAPE = (32, 24)
Step = Arrival | BaseException | float | None
"""A picture, an error, seconds of silence, or one slice without a picture."""


class Clock:
    """Monotonic seconds that pass only when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def picture(value: int, shape: tuple[int, ...] = SHAPE, **told: object) -> Arrival:
    return Arrival(np.full(shape, value % 256, np.uint8), captured_ns=value, **told)  # type: ignore[arg-type]


class ScriptedFeed:
    """Plays its steps, then stays silent."""

    def __init__(self, steps: Sequence[Step], clock: Clock) -> None:
        self._steps = list(steps)
        self._clock = clock
        self.closed = 0

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        assert not self.closed
        step = self._steps.pop(0) if self._steps else None
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, Arrival):
            given = buffer(step.pixels.shape)
            given[...] = step.pixels
            return step
        self._clock.now += timeout_s
        if isinstance(step, float) and step > timeout_s:
            self._steps.insert(0, step - timeout_s)
        return None

    def close(self) -> None:
        self.closed += 1


class CalledScript(ScriptedFeed):
    """One whose sender comes after so long."""

    def __init__(self, steps: Sequence[Step], clock: Clock, called_after_s: float) -> None:
        super().__init__(steps, clock)
        self._called_at = clock.now + called_after_s

    @property
    def is_called(self) -> bool:
        return self._clock.now >= self._called_at


class Bench:
    """A live source over scripts, one a connection; the last is played for ever after."""

    def __init__(
        self,
        *scripts: Sequence[Step] | BaseException,
        called_after_s: float | None = None,
        **config: object,
    ) -> None:
        self.clock = Clock()
        self._called_after_s = called_after_s
        self.feeds: list[ScriptedFeed] = []
        self._scripts = list(scripts)
        self.source = LiveSource(
            LiveSection.model_validate({"source_id": "live", **config}),
            self._dial,
            clock=self.clock,
            pause=self.clock.pause,
            backoff=Backoff(lambda: 0.0),
        )
        self.events: list[Event] = []

    def _dial(self) -> ScriptedFeed:
        script = self._scripts.pop(0) if self._scripts else []
        if isinstance(script, BaseException):
            raise script
        if self._called_after_s is None:
            self.feeds.append(ScriptedFeed(script, self.clock))
        else:
            self.feeds.append(CalledScript(script, self.clock, self._called_after_s))
        return self.feeds[-1]

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def states(self) -> list[str]:
        """As told."""
        return [e.state for e in self.events if isinstance(e, SourceStateChanged)]

    @property
    def reasons(self) -> list[str | None]:
        return [e.reason for e in self.events if isinstance(e, SourceStateChanged)]

    @contextmanager
    def logged(self) -> Iterator[None]:
        token = current_logger.set(self)
        try:
            yield
        finally:
            current_logger.reset(token)

    def epochs(self, count: int) -> list[int]:
        """Those of the next pictures."""
        with self.logged():
            pictures = [self.source.read(memory) for _ in range(count)]
        assert all(pictures)
        return [one.epoch for one in pictures if one is not None]


def memory(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """A `Buffer`."""
    return np.empty(shape, np.uint8)


class BlockedFeed:
    """Waits in every `read`, as long as it may."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.closed = threading.Event()

    def read(self, buffer: Buffer, timeout_s: float) -> Arrival | None:
        self.reading.set()
        self.closed.wait(timeout_s)
        return None

    def close(self) -> None:
        self.closed.set()
