"""A writer that is killed loses nothing that it acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import recordings
from conftest import ROOT

from stages.recording.entries import Packet
from stages.recording.log_reader import LogRecording
from stages.recording.npy_reader import NpyRecording
from stages.recording.reading import open_recording
from stages.recording.verify import verify


def killed(folder: Path, layout: str, seed: int, after_s: float) -> list[int]:
    """The numbers that a writer acknowledged before it was killed, so long after its first."""
    command = [sys.executable, str(Path(recordings.__file__)), str(folder), layout, str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        told = writer.stdout.read(8)
        time.sleep(after_s)
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.read()
    assert writer.returncode == -signal.SIGKILL
    return np.frombuffer(told, "<u8", len(told) // 8).tolist()


def check_log(path: Path, acknowledged: list[int]) -> None:
    """Each acknowledged record is there with its bytes, and what there is besides is whole."""
    with open_recording(path) as recording:
        assert isinstance(recording, LogRecording)
        numbers = set()
        for record in recording.records("packet"):
            message = bytes(Packet.of(record).message)
            assert message == recordings.message_bytes(record.stamp.frame_id, len(message))
            numbers.add(record.seq)
    assert set(acknowledged) <= numbers
    assert len(numbers) - len(acknowledged) <= 1, "what was written and not yet acknowledged"
    verdict = verify(path)
    assert verdict.flaws == ()
    assert not verdict.closed


def check_npy(path: Path, acknowledged: list[int]) -> None:
    last = acknowledged[-1]
    with open_recording(path) as recording:
        assert isinstance(recording, NpyRecording)
        for frame_id in range(min(last + 1, 50)):
            found = recording.video_logits_at(frame_id)
            newest = last - (last - frame_id) % 50
            number = int(found.object_ids[0])
            assert number in (newest, newest + 50)
            assert (found.values == number).all()
    assert verify(path).flaws == ()


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_log_holds_what_was_acknowledged(tmp_path: Path, seed: int) -> None:
    wait_s = float(np.random.default_rng(seed).uniform(0, 0.25))
    check_log(tmp_path / "s", killed(tmp_path, "log", seed, wait_s))


def test_killed_npy_files_are_those_that_were_acknowledged(tmp_path: Path) -> None:
    check_npy(tmp_path / "predictions" / "s", killed(tmp_path, "npy", 9, 0.2))


def test_a_lost_record_would_be_seen(tmp_path: Path) -> None:
    acknowledged = killed(tmp_path, "log", 1, 0.05)
    check_log(tmp_path / "s", acknowledged)
    with open_recording(tmp_path / "s") as recording:
        assert isinstance(recording, LogRecording)
        record = recording.at("packet", len(acknowledged) - 1)
    name, _, at = record.where.partition(" byte ")
    os.truncate(tmp_path / "s" / name, int(at) + 10)
    with pytest.raises(AssertionError):
        check_log(tmp_path / "s", acknowledged)
