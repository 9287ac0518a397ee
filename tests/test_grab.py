"""Grab: every picture becomes a frame or is accounted for, and nothing keeps it from stopping."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import numpy as np
import pytest
import torch
from test_upload_ring import LateLane

from kpi.emit import current_logger
from kpi.events import Event, FrameDropped, SourceStateChanged
from pipeline.audit import residency_guard
from stages.base import Buffer, Picture
from stages.errors import ResidencyError, SourceError
from stages.grab import Grab
from stages.mailbox import MailboxPolicy
from stages.records import Frame
from stages.sources.dicom import DicomConfig, DicomSource
from stages.sources.phantom import PhantomConfig, PhantomSource
from stages.upload import UploadRing

CPU = torch.device("cpu")
SHAPE = (6, 8, 3)


class Scripted:
    """A source that delivers picture n, filled with n, of the shape that `shapes` says."""

    source_id = "scripted"
    size_hw = SHAPE[:2]

    def __init__(
        self,
        count: int,
        shapes: Callable[[int], tuple[int, ...]] = lambda n: SHAPE,
        error: Exception | None = None,
        gate: threading.Semaphore | None = None,
    ) -> None:
        self._count, self._shapes, self._error, self._gate = count, shapes, error, gate
        self._read = 0
        self._epoch = 0
        self._closed = threading.Event()
        self.closed = 0

    def read(self, buffer: Buffer) -> Picture | None:
        while self._gate is not None and not self._gate.acquire(timeout=0.01):
            if self._closed.is_set():
                return None
        n = self._read
        if n == self._count:
            if self._error is not None:
                raise self._error
            return None
        self._read += 1
        if n and self._shapes(n) != self._shapes(n - 1):
            self._epoch += 1
        pixels = buffer(self._shapes(n))
        pixels[...] = n % 256
        return Picture(
            pixels,
            self._epoch,
            time.monotonic_ns(),
            captured_unix_ns=n,
            spacing_mm=(0.1, 0.2),
            pose=np.eye(4),
        )

    def close(self) -> None:
        self._closed.set()
        self.closed += 1


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def states(self) -> list[tuple[str, int, str | None]]:
        changes = [e for e in self.events if isinstance(e, SourceStateChanged)]
        assert {change.source_id for change in changes} <= {"scripted"}
        return [(change.state, change.epoch, change.reason) for change in changes]

    @property
    def dropped(self) -> dict[int, str]:
        return {e.frame_id: e.reason for e in self.events if isinstance(e, FrameDropped)}


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[Grab, Recorder]]]:
    """Start a Grab while the run's logger is a `Recorder`; it is stopped whatever happens."""
    made: list[Grab] = []
    recorder = Recorder()
    token = current_logger.set(recorder)

    def go(source: Any, lane: LateLane | None = None, **options: Any) -> tuple[Grab, Recorder]:
        grab = Grab(source, CPU, **options)
        made.append(grab)
        if lane is not None:
            grab._ring = grab._intake.ring = UploadRing(CPU, 4, lane)
        grab.start()
        return grab, recorder

    yield go
    current_logger.reset(token)
    for grab in made:
        grab.stop()


def take_all(grab: Grab, frames: list[Frame] | None = None) -> list[Frame]:
    frames = [] if frames is None else frames
    while not grab.ended:
        frame = grab.get(0.1)
        if frame is not None:
            frames.append(frame)
    return frames


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


def assert_accounted(grab: Grab, taken: int) -> None:
    assert grab.grabbed == taken + sum(grab.dropped.values())


class TestFrames:
    @pytest.mark.parametrize("depth", [1, 4])
    def test_every_picture_becomes_a_frame(self, start: Any, depth: int) -> None:
        grab, recorder = start(Scripted(40), mailbox="every", depth=depth)
        frames = take_all(grab)  # all are kept: a frame shares no memory with the ring
        assert [frame.frame_id for frame in frames] == list(range(40))
        for frame in frames:
            assert frame.size_hw == SHAPE[:2]
            assert frame.rgb.is_contiguous()
            assert (frame.rgb == frame.frame_id).all()
            assert (frame.source_id, frame.epoch, frame.spacing_mm) == ("scripted", 0, (0.1, 0.2))
            assert frame.captured_unix_ns == frame.frame_id
            assert frame.pose is not None
            assert frame.captured_ns <= frame.grabbed_ns <= time.monotonic_ns()
        assert (grab.grabbed, grab.dropped) == (40, {})
        (copies,) = grab.copies
        assert (copies.direction, copies.where) == ("h2d", "upload")
        assert (copies.copies, copies.copied_bytes) == (40, 40 * 6 * 8 * 3)
        assert recorder.states == [
            ("connecting", 0, None),
            ("streaming", 0, None),
            ("ended", 0, "end of source"),
        ]

    def test_latest_replaces_what_waits_and_counts_it(self, start: Any) -> None:
        gate = threading.Semaphore(0)
        grab, recorder = start(Scripted(100, gate=gate))
        gate.release(10)
        eventually(lambda: grab.grabbed == 10)
        gate.release(10)
        eventually(lambda: grab.grabbed == 20 and grab.dropped == {"mailbox": 19})
        frame = grab.get(1.0)
        assert frame is not None
        assert frame.frame_id == 19
        assert (frame.rgb == 19).all()
        assert recorder.dropped == dict.fromkeys(range(19), "mailbox")
        assert_accounted(grab, taken=1)

    @pytest.mark.parametrize("mailbox", ["latest", "every"])
    def test_grey_and_sizes_may_change(self, start: Any, mailbox: MailboxPolicy) -> None:
        shapes = [(6, 8, 3), (12, 10, 3), (12, 10), (5, 4)]
        source = Scripted(40, shapes=lambda n: shapes[n // 10])
        grab, recorder = start(source, mailbox=mailbox)
        frames = take_all(grab)
        assert frames[-1].frame_id == 39
        for frame in frames:
            assert frame.epoch == frame.frame_id // 10
            assert frame.size_hw == shapes[frame.epoch][:2]
            assert (frame.rgb == frame.frame_id).all()
        streaming = [epoch for state, epoch, _ in recorder.states if state == "streaming"]
        assert streaming == [0, 1, 2, 3]
        assert_accounted(grab, taken=len(frames))

    def test_a_number_of_frames_can_be_set(self, start: Any) -> None:
        grab, recorder = start(Scripted(100), mailbox="every", frames=7)
        assert len(take_all(grab)) == 7
        assert grab.grabbed == 7
        assert recorder.states[-1] == ("ended", 0, "frame limit")

    def test_get_gives_none_where_nothing_comes_in_time(self, start: Any) -> None:
        gate = threading.Semaphore(0)
        grab, _ = start(Scripted(1, gate=gate))
        assert grab.get(0.02) is None
        assert not grab.ended
        gate.release(2)
        assert len(take_all(grab)) == 1

    def test_the_real_cine_comes_through(self, start: Any) -> None:
        config = DicomConfig(path="pydicom:ybr_color", realtime=False, source_id="scripted")
        grab, _ = start(DicomSource(config), mailbox="every", frames=5)
        frames = take_all(grab)
        assert [frame.frame_id for frame in frames] == list(range(5))
        again = DicomSource(config)
        for frame in frames:
            picture = again.read(lambda shape: np.empty(shape, np.uint8))
            assert picture is not None
            np.testing.assert_array_equal(frame.rgb.permute(1, 2, 0).numpy(), picture.pixels)


class TestResidency:
    @pytest.mark.parametrize("shape", [SHAPE, SHAPE[:2]])
    def test_making_a_frame_is_clean(self, start: Any, shape: tuple[int, ...]) -> None:
        grab, _ = start(Scripted(6, shapes=lambda n: shape), mailbox="every")
        with torch.inference_mode():
            eventually(lambda: grab.grabbed >= 4)
            with residency_guard() as report:
                frames = take_all(grab)
        assert len(frames) == 6
        assert not report.violations

    def test_the_guard_would_see_a_read_back(self, start: Any) -> None:
        grab, _ = start(Scripted(1), mailbox="every")
        frame = grab.get(5.0)
        assert frame is not None
        with pytest.raises(ResidencyError), residency_guard():
            frame.rgb.max().item()


class TestAge:
    def test_what_is_too_old_when_its_turn_comes_is_dropped(self, start: Any) -> None:
        grab, recorder = start(Scripted(3), mailbox="every", max_age_ms=100.0)
        eventually(lambda: grab.grabbed == 3)
        time.sleep(0.15)
        assert [frame.frame_id for frame in take_all(grab)] == []
        assert grab.dropped == {"stale": 3}
        assert recorder.dropped == dict.fromkeys(range(3), "stale")
        assert_accounted(grab, taken=0)

    def test_without_a_budget_nothing_is_too_old(self, start: Any) -> None:
        grab, _ = start(Scripted(3), mailbox="every")
        eventually(lambda: grab.grabbed == 3)
        time.sleep(0.15)
        assert len(take_all(grab)) == 3
        assert not grab.too_old(0)

    def test_what_is_young_enough_is_taken(self, start: Any) -> None:
        grab, _ = start(Scripted(3), mailbox="every", max_age_ms=60_000.0)
        assert len(take_all(grab)) == 3
        assert grab.dropped == {}


def test_of_a_source_that_tells_its_states_only_the_end_is_told(start: Any) -> None:
    class Telling(Scripted):
        tells_states = True

    grab, recorder = start(Telling(2), mailbox="every")
    assert len(take_all(grab)) == 2
    assert recorder.states == [("ended", 0, "end of source")]
    grab, recorder = start(Telling(0, error=SourceError("unplugged")))
    eventually(lambda: recorder.states[-1:] == [("failed", 0, "unplugged")])


class TestErrors:
    def test_every_gives_the_frames_before_the_error(self, start: Any) -> None:
        error = SourceError("unplugged")
        grab, recorder = start(Scripted(3, error=error), mailbox="every")
        frames: list[Frame] = []
        with pytest.raises(SourceError) as caught:
            take_all(grab, frames)
        assert caught.value is error
        assert [frame.frame_id for frame in frames] == [0, 1, 2]
        assert not grab.ended
        assert recorder.states[-1] == ("failed", 0, "unplugged")
        assert_accounted(grab, taken=3)

    def test_latest_raises_at_once_and_accounts_for_what_waits(self, start: Any) -> None:
        grab, recorder = start(Scripted(3, error=SourceError("unplugged")))
        eventually(lambda: ("failed", 0, "unplugged") in recorder.states)
        with pytest.raises(SourceError, match="unplugged"):
            grab.get(5.0)
        grab.stop()
        assert grab.dropped == {"mailbox": 2, "stopped": 1}
        assert recorder.dropped[0] == "mailbox"
        assert_accounted(grab, taken=0)

    def test_a_source_that_ignores_the_buffer_is_an_error(self, start: Any) -> None:
        class Own(Scripted):
            def read(self, buffer: Buffer) -> Picture | None:
                picture = super().read(buffer)
                assert picture is not None
                return Picture(picture.pixels.copy(), 0, 0)

        grab, _ = start(Own(1))
        with pytest.raises(TypeError, match="does not lie in the array that Buffer gave"):
            grab.get(5.0)

    def test_a_frame_without_memory_on_the_device_is_dropped(
        self, start: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = threading.Semaphore(0)
        grab, _ = start(Scripted(5, gate=gate), mailbox="every")
        take = grab._ring.take
        failures = iter([torch.OutOfMemoryError("full")])

        def scarce(slot: Any) -> torch.Tensor:
            for failure in failures:
                raise failure
            return take(slot)

        monkeypatch.setattr(grab._ring, "take", scarce)
        gate.release(6)
        assert [frame.frame_id for frame in take_all(grab)] == [1, 2, 3, 4]
        assert grab.dropped == {"oom": 1}
        assert_accounted(grab, taken=4)


class TestSlots:
    def test_latest_gives_up_what_waits_when_the_device_lags(self, start: Any) -> None:
        gate = threading.Semaphore(0)
        lane = LateLane()
        grab, _ = start(Scripted(50, gate=gate), lane)
        taken = []
        for n in range(3):  # three slots are now held by a device that lags
            gate.release()
            eventually(lambda n=n: grab.grabbed == n + 1)
            taken.append(grab.get(1.0))
        gate.release()
        eventually(lambda: grab.grabbed == 4)  # waits in the mailbox, in the last slot
        gate.release()
        eventually(lambda: grab.dropped == {"mailbox": 1})
        assert grab.get(0.05) is None
        lane.uploads[3].finish()  # the copy of the dropped one; only now may its slot be used
        eventually(lambda: grab.grabbed == 5)
        last = grab.get(1.0)
        assert [None if frame is None else frame.frame_id for frame in (*taken, last)] == [
            0,
            1,
            2,
            4,
        ]
        assert lane.arrived == [0, 1, 2, 3, 4]

    def test_every_waits_for_a_slot_and_loses_nothing(self, start: Any) -> None:
        lane = LateLane()
        grab, _ = start(Scripted(6), lane, mailbox="every", depth=8)
        taken = []
        for _ in range(4):
            taken.append(grab.get(1.0))
        assert grab.get(0.1) is None
        assert grab.grabbed == 4
        for mark in lane.marks:
            mark.finish()
        taken += [grab.get(1.0), grab.get(1.0)]
        assert [None if frame is None else frame.frame_id for frame in taken] == [0, 1, 2, 3, 4, 5]
        assert grab.dropped == {}


class TestStop:
    def stopped(self, grab: Grab) -> None:
        begin = time.monotonic()
        grab.stop()
        assert time.monotonic() - begin < 1.0
        assert grab._thread is not None
        assert not grab._thread.is_alive()

    def test_while_the_source_waits(self, start: Any) -> None:
        config = PhantomConfig(size_hw=(96, 96), fps=0.01, source_id="scripted")
        grab, recorder = start(PhantomSource(config))
        assert grab.get(10.0) is not None
        self.stopped(grab)
        assert recorder.states[-1] == ("ended", 0, "stopped")
        assert grab.ended
        assert_accounted(grab, taken=1)

    def test_while_the_mailbox_is_full(self, start: Any) -> None:
        source = Scripted(100)
        grab, recorder = start(source, mailbox="every", depth=2)
        eventually(lambda: grab.grabbed == 3)
        assert grab.get(1.0) is not None
        eventually(lambda: grab.grabbed == 4)
        self.stopped(grab)
        assert source.closed == 1
        assert grab.dropped == {"stopped": 3}
        assert recorder.dropped == dict.fromkeys((1, 2, 3), "stopped")
        assert_accounted(grab, taken=1)

    @pytest.mark.parametrize("mailbox", ["latest", "every"])
    def test_while_no_slot_is_free(self, start: Any, mailbox: MailboxPolicy) -> None:
        grab, _ = start(Scripted(100), LateLane(), mailbox=mailbox, depth=8)
        eventually(lambda: grab.grabbed == 4)
        self.stopped(grab)
        assert grab.grabbed == 4
        assert_accounted(grab, taken=0)

    def test_while_the_consumer_waits(self, start: Any) -> None:
        grab, _ = start(Scripted(1, gate=threading.Semaphore(0)))
        threading.Timer(0.1, grab.stop).start()
        assert grab.get(30.0) is None
        assert grab.ended

    def test_before_it_started_and_twice(self) -> None:
        source = Scripted(1)
        grab = Grab(source, CPU)
        grab.stop()
        grab.stop()
        assert source.closed == 2
        assert grab.ended
        assert (grab.grabbed, grab.dropped) == (0, {})

    def test_it_starts_once(self, start: Any) -> None:
        grab, _ = start(Scripted(1))
        with pytest.raises(RuntimeError, match="started before"):
            grab.start()

    def test_events_go_to_the_logger_of_the_context_it_was_started_in(self, start: Any) -> None:
        inside, context = Recorder(), copy_context()
        context.run(current_logger.set, inside)
        grab, outside = context.run(start, Scripted(2), mailbox="every")
        take_all(grab)
        assert Counter(state for state, _, _ in inside.states)["ended"] == 1
        assert outside.events == []
