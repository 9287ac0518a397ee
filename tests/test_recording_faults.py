"""Disks that are full, failing or taken away: the writer pauses, counts, tells and goes on."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recordings import (
    PLAYED_FRAMES,
    FailingFiles,
    Played,
    StandingClock,
    log_options,
    logits,
    manifest,
    play_log,
    play_npy,
    video,
)

from stages.errors import RecordingError
from stages.recording.entry import Stamp
from stages.recording.ledger import Clock, WriterStatus
from stages.recording.log_reader import LogRecording
from stages.recording.log_writer import LogWriter
from stages.recording.npy_reader import NpyRecording
from stages.recording.npy_writer import NpyWriter
from stages.recording.reading import open_recording
from stages.recording.retention import Keep
from stages.recording.space import SpaceLimits
from stages.recording.verify import verify
from stages.recording.writing import create_log


def calls_of(played: Callable[[Path, FailingFiles], Played], root: Path) -> list[str]:
    files = FailingFiles()
    assert played(root, files).status.dropped == 0
    return files.calls


def check_books(played: Played) -> None:
    status = played.status
    assert status.offered == PLAYED_FRAMES
    assert status.written == len(played.acknowledged)
    assert status.written + status.dropped == status.offered


@pytest.mark.parametrize(("code", "times"), [(errno.EIO, 1), (errno.ENOSPC, 3)])
def test_a_fault_at_any_call_of_a_log_pauses_it_for_a_while(
    tmp_path: Path, code: int, times: int
) -> None:
    calls = calls_of(play_log, tmp_path / "calm")
    first = calls.index("replace") + 2  # the manifest is there: a recording has begun
    assert {"create", "write", "sync", "free_bytes"} <= set(calls[first:])
    for at in range(first, len(calls)):
        files = FailingFiles(code=code, fail_at=at, times=times)
        played = play_log(tmp_path / str(at), files)
        check_books(played)
        assert played.status.pauses >= 1, calls[at]
        assert PLAYED_FRAMES - 1 in played.acknowledged or not played.healed, calls[at]
        verdict = verify(played.path)
        assert verdict.flaws == (), calls[at]
        assert verdict.entries == len(played.acknowledged), calls[at]
        if played.healed:
            assert (verdict.dropped, verdict.closed) == (played.status.dropped, True)
        with open_recording(played.path) as recording:
            assert isinstance(recording, LogRecording)
            assert [i for _, i in recording.frames()] == played.acknowledged
            for frame_id in played.acknowledged:
                values = recording.logits_at(frame_id).values
                np.testing.assert_array_equal(values, logits(frame_id).values)
            if played.healed:
                assert os.strerror(code) in {gap.reason for gap in recording.gaps()}


@pytest.mark.parametrize(("code", "times"), [(errno.EIO, 1), (errno.ENOSPC, 3)])
def test_a_fault_at_any_call_of_npy_files_pauses_them_for_a_while(
    tmp_path: Path, code: int, times: int
) -> None:
    calls = calls_of(play_npy, tmp_path / "calm")
    first = calls.index("replace") + 1
    assert {"create", "write", "sync_named", "replace"} <= set(calls[first:])
    for at in range(first, len(calls)):
        if calls[at] == "remove":  # of a file that is not there: whether it fails is no matter
            continue
        files = FailingFiles(code=code, fail_at=at, times=times)
        played = play_npy(tmp_path / str(at), files)
        check_books(played)
        assert played.status.pauses >= 1, calls[at]
        assert PLAYED_FRAMES - 1 in played.acknowledged or not played.healed, calls[at]
        verdict = verify(played.path)
        assert verdict.flaws == (), calls[at]
        with open_recording(played.path) as recording:
            assert isinstance(recording, NpyRecording)
            for frame_id in range(4):
                passes = [n // 4 for n in played.acknowledged if n % 4 == frame_id]
                if passes:
                    found, wanted = recording.video_logits_at(frame_id), video(frame_id, passes[-1])
                    np.testing.assert_array_equal(found.values, wanted.values)
                    np.testing.assert_array_equal(found.object_ids, wanted.object_ids)


def test_a_recording_that_cannot_begin_is_refused(tmp_path: Path) -> None:
    for at in range(4):  # of the manifest
        files = FailingFiles(fail_at=at, times=100)
        with pytest.raises(RecordingError, match="No space left on device"):
            create_log(tmp_path / str(at), manifest(), log_options(), files=files)


def test_a_first_segment_that_cannot_be_made_is_a_pause(tmp_path: Path) -> None:
    calls = calls_of(play_log, tmp_path / "calm")
    begin = calls.index("replace") + 1
    files = FailingFiles(fail_at=begin, times=2)
    clock = StandingClock()
    log = create_log(tmp_path, manifest(), log_options(), files=files, clock=clock.clock)
    assert log.status.state == "paused"
    assert log.append(logits(0).entry()) is None
    files.heal()
    assert log.append(logits(1).entry()) is None, "it rests before it tries again"
    clock.now_s += 1
    assert log.append(logits(2).entry()) is not None
    assert log.status.state == "recording"
    assert log.close().dropped == 2
    (gap,) = open_recording(tmp_path / "s").gaps()
    assert (gap.dropped, gap.first.frame_id, gap.last.frame_id) == (2, 0, 1)


def test_a_full_disk_is_left_before_it_is_full_and_used_again_with_room(tmp_path: Path) -> None:
    files, clock = FailingFiles(free=10_000), StandingClock()
    options = replace(log_options(), space=SpaceLimits(5_000, 8_000))
    log = create_log(tmp_path, manifest(), options, files=files, clock=clock.clock)
    states = []
    for frame_id, free in enumerate([9_000, 4_000, 6_000, 7_900, 8_100, 6_000]):
        files.free = free
        clock.now_s += 1.5
        log.append(logits(frame_id).entry())
        states.append((log.status.state, log.status.reason))
    low = "less than 5000 bytes free on the disk"
    wanted = "less than 8000 bytes free on the disk"
    assert states == [
        ("recording", None),
        ("paused", low),
        ("paused", wanted),
        ("paused", wanted),
        ("recording", None),
        ("recording", None),
    ]
    assert log.close().dropped == 3
    assert verify(tmp_path / "s").dropped == 3


def test_a_quota_is_not_exceeded(tmp_path: Path) -> None:
    quota = 4000
    options = replace(log_options(1500), space=SpaceLimits(0, 0, quota))
    played = play_log(tmp_path, FailingFiles(), options)
    assert 0 < played.status.written < PLAYED_FRAMES
    assert played.status.reason == "quota of 4000 bytes used up"
    logs = sum(path.stat().st_size for path in played.path.glob("segment-*"))
    assert logs <= quota


def test_old_segments_are_deleted_whole(tmp_path: Path) -> None:
    options = log_options(1800, keep=Keep(nbytes=5000))
    played = play_log(tmp_path, FailingFiles(), options)
    assert played.status.dropped == 0
    names = sorted(path.name for path in played.path.glob("segment-*"))
    assert names[0] != "segment-000000.log"
    verdict = verify(played.path)
    assert verdict.flaws == ()
    assert verdict.retired_segments >= 1
    assert 0 < verdict.frames < PLAYED_FRAMES
    os.remove(played.path / names[0])
    assert any("earlier ones are gone" in flaw for flaw in verify(played.path).flaws)


def test_segments_of_an_age_are_deleted(tmp_path: Path) -> None:
    options = log_options(1800, keep=Keep(seconds=1.0))
    played = play_log(tmp_path, FailingFiles(), options)
    assert verify(played.path).flaws == ()
    assert not (played.path / "segment-000000.log").exists()


def test_a_clock_that_is_set_deletes_nothing(tmp_path: Path) -> None:
    clock, jump = StandingClock(), [0]
    jumping = Clock(lambda: clock.now_s, lambda: int(clock.now_s * 1e9) + jump[0])
    options = log_options(1800, keep=Keep(seconds=3600.0))
    log = create_log(tmp_path, manifest(), options, clock=jumping)
    for frame_id in range(PLAYED_FRAMES):
        jump[0] = (-1) ** frame_id * 10**18
        assert log.append(logits(frame_id).entry()) is not None
    log.close()
    verdict = verify(tmp_path / "s")
    assert (verdict.frames, verdict.flaws) == (PLAYED_FRAMES, ())


def test_a_segment_ends_by_its_age_also_when_nothing_comes(tmp_path: Path) -> None:
    clock = StandingClock()
    log = create_log(tmp_path, manifest(), log_options(seconds=60.0), clock=clock.clock)
    log.append(logits(0).entry())
    clock.now_s += 61
    log.poll()
    assert len(list((tmp_path / "s").glob("segment-*"))) == 2
    with open_recording(tmp_path / "s") as recording:
        assert isinstance(recording, LogRecording)
        assert recording.tables[0].is_sealed
    log.close()


def test_a_sync_that_failed_is_told_with_what_it_leaves_in_doubt(tmp_path: Path) -> None:
    files, clock = FailingFiles(), StandingClock()
    log = create_log(tmp_path, manifest(), log_options(), files=files, clock=clock.clock)
    log.append(logits(0).entry())
    clock.now_s += 1.5
    log.append(logits(1).entry())  # synced
    log.append(logits(2).entry())
    clock.now_s += 1.5
    files.fail_at = len(files.calls) + 2  # free_bytes, write, and then
    assert log.append(logits(3).entry()) is not None
    assert files.calls[-1] == "sync"
    assert log.status.state == "paused"
    clock.now_s += 1.5
    log.append(logits(4).entry())
    log.close()
    (gap,) = open_recording(tmp_path / "s").gaps()
    assert (gap.reason, gap.dropped) == (os.strerror(errno.ENOSPC), 0)
    assert gap.unsynced_from_seq == 3
    assert len(list((tmp_path / "s").glob("segment-*"))) == 2
    assert verify(tmp_path / "s").flaws == ()


def test_what_was_lost_before_it_came_is_in_a_gap(tmp_path: Path) -> None:
    log = create_log(tmp_path, manifest(), log_options())
    log.drop("ring full", Stamp(0, 3))
    log.drop("ring full", Stamp(0, 5), 2)
    log.drop("stopped", Stamp(0, 6))
    log.append(logits(7).entry())
    assert log.close() == WriterStatus("closed", None, 5, 1, 4, 0, log.status.written_bytes)
    gaps = open_recording(tmp_path / "s").gaps()
    assert [(gap.reason, gap.dropped) for gap in gaps] == [("ring full", 3), ("stopped", 1)]
    assert (gaps[0].first, gaps[0].last) == (Stamp(0, 3), Stamp(0, 5))


@pytest.mark.parametrize("what", ["segment", "folder"])
def test_what_is_taken_away_is_noticed_within_a_second(tmp_path: Path, what: str) -> None:
    clock = StandingClock()
    log = create_log(tmp_path, manifest(), log_options(), clock=clock.clock)
    log.append(logits(0).entry())
    if what == "folder":
        shutil.rmtree(tmp_path / "s")
    else:
        os.remove(tmp_path / "s" / "segment-000000.log")
    clock.now_s += 1
    log.poll()
    assert log.status.state == "paused"
    assert "deleted" in (log.status.reason or "")
    clock.now_s += 1
    acknowledged = log.append(logits(1).entry())
    if what == "folder":
        assert acknowledged is None
        assert log.close().reason == "No such file or directory"
        assert not (tmp_path / "s").exists()
    else:
        assert acknowledged is not None
        log.close()
        with open_recording(tmp_path / "s") as recording:
            assert [i for _, i in recording.frames()] == [1]


def test_a_disk_that_stays_broken_ends_a_recording_that_can_be_read(tmp_path: Path) -> None:
    files, clock = FailingFiles(), StandingClock()
    log = create_log(tmp_path, manifest(), log_options(), files=files, clock=clock.clock)
    log.append(logits(0).entry())
    files.break_now()
    for frame_id in range(1, 5):
        clock.now_s += 1
        assert log.append(logits(frame_id).entry()) is None
    status = log.close()
    assert (status.state, status.reason) == ("closed", os.strerror(errno.ENOSPC))
    assert (status.offered, status.written, status.dropped, status.pauses) == (5, 1, 4, 1)
    verdict = verify(tmp_path / "s")
    assert (verdict.frames, verdict.closed, verdict.flaws) == (1, False, ())
    with pytest.raises(ValueError, match="closed"):
        log.append(logits(9).entry())


def test_a_real_disk_that_takes_no_more(tmp_path: Path) -> None:
    """A limit on the size of files, which a process of its own has."""
    command = [sys.executable, __file__, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == (f"acknowledged, {os.strerror(errno.EFBIG)}\n", "")
    verdict = verify(tmp_path / "s")
    assert verdict.flaws == ()
    assert (verdict.entries, verdict.dropped) == (2, 1)


def write_small_files(root: Path) -> None:
    """One frame too many, then room again."""
    clock = StandingClock()
    log = create_log(root, manifest(), log_options(), clock=clock.clock)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    first = "refused" if log.append(logits(0).entry()) is None else "acknowledged"
    log.append(logits(1, objects=50).entry())
    reason = log.status.reason
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    clock.now_s += 1
    log.append(logits(2).entry())
    log.close()
    sys.stdout.write(f"{first}, {reason}\n")


def test_writers_tell_the_same_of_themselves() -> None:
    for name in ("status", "append", "drop", "poll", "close"):
        assert hasattr(LogWriter, name)
        assert hasattr(NpyWriter, name)


if __name__ == "__main__":
    write_small_files(Path(sys.argv[1]))
