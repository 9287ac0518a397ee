"""The recorder of a live run: never in the way, and every frame accounted for."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from recorders import Rig, eventually, packet, recording
from tiny_sam2 import detections, frame, listening

from kpi.edge_events import RecorderFrames, RecorderState
from kpi.events import ErrorRaised
from pipeline.health import Health
from pipeline.status import RunStatus
from pipeline.tally import Tally
from stages.choices import Choice
from stages.errors import RecordingError
from stages.recorder.config import RecorderConfig
from stages.recorder.counts import Counts
from stages.recorder.looked import Looks
from stages.recorder.recorder import RecorderReport
from stages.recorder.ring import Ring
from stages.recording.entries import Packet
from stages.recording.ledger import Clock
from stages.recording.log_reader import LogRecording
from stages.wire import decode, encode_result, encode_state

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")


def ended(rig: Rig) -> RecorderReport:
    """The books after the end, which balance."""
    rig.recorder.close()
    rig.recorder.finish()
    report = rig.recorder.report()
    assert report.offered == report.written + sum(report.dropped.values())
    return report


def frames_of(rig: Rig) -> list[int]:
    with LogRecording(rig.path) as log:
        assert not log.flaws
        return [frame for _, frame in log.frames("logits")]


def states(events: list[Any]) -> list[tuple[str, str | None]]:
    return [(event.state, event.reason) for event in events if isinstance(event, RecorderState)]


def test_what_is_offered_is_written_as_it_was(tmp_path: Path) -> None:
    with listening() as events, recording(tmp_path) as rig:
        rig.offer(20)
        report = ended(rig)
    assert (report.offered, report.written, report.dropped) == (20, 20, {})
    assert frames_of(rig) == list(range(20))
    with LogRecording(rig.path) as log:
        kept, wanted = log.logits_at(7), packet(7)
        assert wanted.logits is not None
        assert (kept.values == wanted.logits).all()
        assert (kept.object_ids == wanted.object_ids).all()
        assert kept.stamp.frame_id == 7
    assert states(events) == [("recording", None), ("stopped", None)]
    told = [event for event in events if isinstance(event, RecorderFrames)]
    assert sum(event.offered for event in told) == sum(event.written for event in told) == 20
    assert sum(event.written_bytes for event in told) == report.bytes > 20 * 2 * 32 * 32 * 4


def test_a_disk_that_hangs_delays_nobody_and_costs_what_does_not_fit(tmp_path: Path) -> None:
    """1 MiB holds 98 of these frames, and one is being written."""
    with listening() as events, recording(tmp_path, ring_bytes=1 << 20) as rig:
        rig.disk.hangs.clear()
        began = time.monotonic()
        rig.offer(200)
        assert time.monotonic() - began < 20, "it waited for the disk, which hangs for 30 s"
        held = rig.recorder.report().offered - sum(rig.recorder.report().dropped.values())
        assert 90 <= held <= 110
        rig.disk.hangs.set()
        report = ended(rig)
    assert report.dropped == {"ring": 200 - held}
    assert frames_of(rig) == list(range(held))
    with LogRecording(rig.path) as log:
        gap = log.gaps()[-1]
        assert (gap.reason, gap.dropped) == ("ring", 200 - held)
        assert (gap.first.frame_id, gap.last.frame_id) == (held, 199)
    told = [event for event in events if isinstance(event, RecorderFrames)]
    assert sum(event.dropped.get("ring", 0) for event in told) == 200 - held


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is."""
    monkeypatch.setattr("stages.recorder.recorder._BLOCK_S", 60)


@pytest.mark.usefixtures("patient")
def test_policy_block_waits_for_room(tmp_path: Path) -> None:
    with recording(tmp_path, ring_bytes=1 << 20, policy="block") as rig:
        rig.disk.hangs.clear()
        offering = threading.Thread(target=rig.offer, args=(200,))
        offering.start()
        eventually(lambda: rig.recorder.report().offered > 90)
        time.sleep(0.1)
        assert rig.recorder.report().offered < 200, "it waits"
        rig.disk.hangs.set()
        offering.join(30)
        report = ended(rig)
    assert (report.offered, report.dropped) == (200, {})
    assert frames_of(rig) == list(range(200))


@pytest.mark.usefixtures("patient")
def test_the_end_of_a_run_ends_the_waiting_of_block(tmp_path: Path) -> None:
    with recording(tmp_path, ring_bytes=1 << 20, policy="block") as rig:
        rig.disk.hangs.clear()
        offering = threading.Thread(target=rig.offer, args=(150,))
        offering.start()
        eventually(lambda: rig.recorder.report().offered > 90)
        rig.recorder.release()
        offering.join(30)
        assert not offering.is_alive()
        rig.disk.hangs.set()
        assert ended(rig).dropped["ring"] > 0


@pytest.mark.parametrize("fault", ["full", "hangs"])
def test_policy_stop_ends_the_run_with_one_line(tmp_path: Path, fault: str) -> None:
    with recording(tmp_path, ring_bytes=1 << 20, policy="stop") as rig:
        rig.offer(3)
        if fault == "full":
            rig.disk.error = NO_SPACE
        else:
            rig.disk.hangs.clear()
        with pytest.raises(RecordingError, match=r"^recorder: frames are lost .*policy is stop$"):
            rig.offer(100_000, 3)
        rig.disk.hangs.set()
        rig.recorder.close()
        with pytest.raises(RecordingError, match="frames are lost"):
            rig.recorder.finish()


@pytest.mark.parametrize("error", [NO_SPACE, BROKEN], ids=["ENOSPC", "EIO"])
def test_a_disk_that_fails_pauses_it_and_is_told_and_it_goes_on(
    tmp_path: Path, error: OSError
) -> None:
    with listening() as events, recording(tmp_path) as rig:
        rig.offer(5)
        eventually(lambda: rig.recorder.report().written == 5)
        rig.disk.error = error
        rig.offer(1, 5)
        eventually(lambda: rig.recorder.report().state == "paused")
        eventually(lambda: not rig.recorder.wants_logits)  # nothing is copied from the device
        assert not rig.recorder.looks.wanted
        rig.disk.error = None
        eventually(lambda: rig.recorder.report().state == "recording")
        eventually(lambda: rig.recorder.wants_logits)
        rig.offer(4, 6)
        report = ended(rig)
    assert report.pauses >= 1
    assert report.dropped == {"paused": 1}
    assert frames_of(rig) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    with LogRecording(rig.path) as log:
        assert [gap.dropped for gap in log.gaps() if gap.dropped]
    told = states(events)
    assert [state for state, _ in told] == ["recording", "paused", "recording", "stopped"]
    assert told[1][1] == error.strerror


def test_what_was_not_copied_during_a_pause_is_no_frame(tmp_path: Path) -> None:
    with recording(tmp_path) as rig:
        rig.offer(1)
        rig.recorder.write(replace(packet(1), logits=None))
        rig.offer(1, 2)
        assert ended(rig).dropped == {"paused": 1}
    assert frames_of(rig) == [0, 2]


def test_a_packet_whose_masks_were_not_copied_during_a_pause_is_none(tmp_path: Path) -> None:
    with recording(tmp_path, masks=True, record=("packets",)) as rig:
        for number in range(3):
            made = replace(packet(number), masks=np.zeros((2, 60, 10), np.uint8))
            if number == 1:
                made = replace(made, masks=None)
            encoding = "none" if made.masks is None else "bits"
            rig.recorder.published("result", encode_result(made, number, (), encoding))
            rig.recorder.write(made)
        assert ended(rig).dropped == {"paused": 1}
    with LogRecording(rig.path) as log:
        sent = [decode(bytes(Packet.of(record).message)) for record in log.records("packet")]
    assert [(each.frame_id, each.has_masks) for each in sent] == [(0, True), (2, True)]


def test_messages_that_wait_for_no_frame_are_lost_on_record(tmp_path: Path) -> None:
    with recording(tmp_path, record=("packets",)) as rig:
        for last_seq in range(70):
            rig.recorder.published("state", encode_state("cam1", 0, "stale", last_seq, ()))
        rig.offer(1)
        rig.recorder.published("state", encode_state("cam1", 0, "streaming", 70, ()))
        rig.offer(1, 1)
        report = ended(rig)
    assert (report.written, report.dropped) == (2, {}), "no frame was"
    with LogRecording(rig.path) as log:
        told = [decode(bytes(Packet.of(record).message)) for record in log.records("packet")]
        (gap,) = log.gaps()
    assert [getattr(each, "last_seq", None) for each in told] == list(range(6, 71))
    assert (gap.reason, gap.dropped, gap.first.frame_id) == ("ring", 6, 0)


def test_what_waits_when_the_disk_fails_is_written_when_it_is_back(tmp_path: Path) -> None:
    with recording(tmp_path) as rig:
        rig.disk.error = NO_SPACE
        rig.offer(1)
        eventually(lambda: rig.recorder.report().state == "paused")
        rig.offer(10, 1)
        rig.disk.error = None
        eventually(lambda: rig.recorder.report().written == 10)
        assert ended(rig).dropped == {"paused": 1}
    assert frames_of(rig) == list(range(1, 11))


def test_the_end_waits_for_no_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.recorder.recorder._DRAIN_S", 600)
    with listening() as events, recording(tmp_path) as rig:
        rig.disk.error = NO_SPACE
        rig.offer(1)
        eventually(lambda: rig.recorder.report().state == "paused")
        rig.offer(10, 1)
        report = ended(rig)
    assert report.dropped == {"paused": 11}
    assert [state for state, _ in states(events)] == ["recording", "paused", "stopped"]


def test_a_disk_that_hangs_at_the_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.recorder.recorder._DRAIN_S", 0.2)
    with recording(tmp_path) as rig:
        rig.offer(2)
        eventually(lambda: rig.recorder.report().written == 2)
        rig.disk.hangs.clear()
        rig.offer(5, 2)
        report = ended(rig)
        assert (report.dropped, report.state) == ({"stopped": 5}, "hung")
        rig.disk.hangs.set()
        eventually(lambda: rig.recorder.report().state == "closed")
        assert rig.recorder.report().dropped == {"stopped": 5}, "what comes late changes no books"


def test_little_room_on_the_disk_pauses_it(tmp_path: Path) -> None:
    with listening() as events, recording(tmp_path, min_free_bytes=1 << 30) as rig:
        rig.offer(3)
        eventually(lambda: rig.recorder.report().written == 3)
        rig.disk.free = 1 << 20
        number = iter(range(3, 100_000))

        def offered_until_paused() -> bool:
            rig.offer(1, next(number))
            return rig.recorder.report().state == "paused"

        eventually(offered_until_paused)
        rig.disk.free = 2 << 30
        eventually(lambda: rig.recorder.report().state == "recording")
        ended(rig)
    reasons = [reason for state, reason in states(events) if state == "paused"]
    assert reasons
    assert "bytes free on the disk" in str(reasons[0])


def test_a_quota_pauses_it_for_good(tmp_path: Path) -> None:
    with recording(tmp_path, quota_bytes=1 << 20) as rig:
        rig.offer(300)
        report = ended(rig)
    assert "quota" in str(report.reason)
    assert 100 < report.written < 130  # of 8 KiB each
    assert sum(entry.stat().st_size for entry in rig.path.iterdir()) < 1.1 * (1 << 20)
    assert report.dropped["paused"] == 300 - report.written


def test_a_frame_that_cannot_be_written_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as events, recording(tmp_path) as rig:
        monkeypatch.setattr("stages.recording.encode.MAX_PAYLOAD_BYTES", 2 * 40 * 40 * 4)
        rig.offer(2)
        for number in (2, 3):
            rig.recorder.write(packet(number, side=64))
        rig.offer(2, 4)
        assert ended(rig).dropped == {"failed": 2}
    errors = [event for event in events if isinstance(event, ErrorRaised)]
    assert len(errors) == 1, "told once"
    assert frames_of(rig) == [0, 1, 4, 5]


def test_a_fault_of_ours_ends_the_recording_and_the_books_balance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as events, recording(tmp_path) as rig:
        monkeypatch.setattr("stages.recorder.bundle.Logits", None)
        rig.offer(3)
        eventually(lambda: any(isinstance(event, ErrorRaised) for event in events))
        rig.offer(3, 3)
        report = ended(rig)
    assert report.written == 0
    assert sum(report.dropped.values()) == 6


def test_a_wall_clock_that_jumps_changes_no_order(tmp_path: Path) -> None:
    jumps = iter(range(10**18, 0, -(10**12)))
    with recording(tmp_path, clock=Clock(unix_ns=lambda: next(jumps))) as rig:
        rig.offer(20)
        assert ended(rig).written == 20
    assert frames_of(rig) == list(range(20))
    with LogRecording(rig.path) as log:
        assert [r.stamp.frame_id for r in log.records("logits")] == list(range(20))


def test_a_ring_holds_so_many_bytes_and_one_item_of_any_size() -> None:
    ring: Ring[str] = Ring(100)
    assert ring.put("large", 500)
    assert not ring.put("small", 1)
    taken = ring.take(0)
    assert taken == ("large", 500)
    assert not ring.put("small", 1), "what is being written still takes its memory"
    ring.done(500)
    assert ring.put("a", 60)
    assert ring.put("b", 40)
    assert not ring.put("c", 1)
    assert ring.held_bytes == 100
    ring.close()
    assert not ring.ended
    assert ring.clear() == ["a", "b"]
    assert ring.ended
    assert ring.take(0) is None
    assert not ring.put("d", 1)


def test_books_that_are_settled_change_no_more() -> None:
    counts = Counts()
    for _ in range(3):
        counts.offer()
    counts.wrote()
    counts.settle()
    counts.wrote()
    counts.drop("ring")
    assert (counts.offered, counts.written, counts.dropped) == (3, 1, {"stopped": 2})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"layout": "npy"}, r"layout npy holds logits as float32, expected record: \[logits\]"),
        ({"layout": "npy", "record": ["logits"], "dtype": "int8"}, "layout npy holds logits"),
        ({"layout": "npy", "record": ["logits"], "zstd": True}, "expected layout: log"),
        ({"record": []}, "at least 1 item"),
        ({"record": ["logits", "logits"]}, "expected each once"),
        ({"record": ["pixels"]}, "'logits', 'masks', 'packets'"),
        ({"policy": "wait"}, "'drop', 'block' or 'stop'"),
        ({"session": "../other"}, "String should match pattern"),
        ({"ring_bytes": 0}, "greater than or equal to 1048576"),
        ({"quota_bytes": -1}, "greater than or equal to"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        RecorderConfig(**settings)


def test_what_the_frame_loop_saw_meets_its_result() -> None:
    looks = Looks(pixels=True, boxes=True)
    for number in range(4):
        looks.look(detections(frame(frame_id=number, grey=number == 3), [[1.0, 2.0, 3.0, 4.0]]))
        looks.chose(frame(frame_id=number), Choice(True, live=number))
    looks.chose(frame(frame_id=9), Choice(False))
    first, third = looks.seen(0, 0), looks.seen(0, 2)
    assert first is not None
    assert third is not None
    assert (first.skipped, third.skipped) == (0, 1), "frame 1 has no result"
    assert third.choice is not None
    assert third.choice.live == 2
    colour, grey = third.picture(), looks.seen(0, 3)
    assert colour is not None
    assert (colour == frame(frame_id=2).rgb.permute(1, 2, 0).numpy()).all()
    assert third.nbytes == colour.nbytes
    assert grey is not None
    assert grey.picture() is not None
    assert grey.nbytes * 3 == third.nbytes
    assert grey.choice is not None
    assert grey.choice.live == 3
    assert looks.seen(0, 4) is None
    assert (looks.copies.copies, looks.wanted) == (4, True)
    looks.wanted = False
    looks.look(detections(frame(frame_id=5), []))
    unwanted = looks.seen(0, 5)
    assert unwanted is not None
    assert unwanted.picture() is None
    assert looks.copies.copies == 4, "nothing is copied that nobody would write"


def test_the_status_of_a_run_tells_of_its_recorder(tmp_path: Path) -> None:
    tally = Tally(())
    status = RunStatus("run", "cam", tally, Health(tally, stale_after_s=1, hung_after_s=1))
    assert status.snapshot()["recorder"] is None
    with recording(tmp_path) as rig:
        status.recorder = rig.recorder.report
        rig.offer(3)
        eventually(lambda: rig.recorder.report().written == 3)
        told = status.snapshot()["recorder"]
    assert isinstance(told, dict)
    assert (told["state"], told["offered"], told["written"]) == ("recording", 3, 3)


def test_frames_are_off_unless_they_are_asked_for() -> None:
    assert "frames" not in RecorderConfig().record
    assert np.array(RecorderConfig().ring_bytes) < 1 << 30
