"""A writer that is killed loses nothing that it acknowledged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from recording_writer import check_log, check_npy, killed

from stages.recording.log_reader import LogRecording
from stages.recording.reading import open_recording


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
