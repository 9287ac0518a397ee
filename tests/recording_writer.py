"""A writer that is killed. As a command it writes a recording until then:

    python tests/recording_writer.py FOLDER LAYOUT SEED

For each entry that is acknowledged it writes its number, eight bytes, to standard output.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.recording.entries import Packet, VideoLogits
from stages.recording.entry import Entry, Stamp
from stages.recording.log_reader import LogRecording
from stages.recording.log_writer import LogOptions
from stages.recording.manifest import Manifest
from stages.recording.npy_reader import NpyRecording
from stages.recording.npy_writer import NpyOptions
from stages.recording.reading import open_recording
from stages.recording.segment_chain import SegmentOptions
from stages.recording.space import SpaceLimits
from stages.recording.verify import verify
from stages.recording.writing import create_log, create_npy

ROOT = Path(__file__).parent.parent
_NPY_FRAMES = 50
"""Written again and again."""


def killed(folder: Path, layout: str, seed: int, after_s: float) -> list[int]:
    """The numbers that a writer acknowledged before it was killed, so long after its first."""
    command = [sys.executable, __file__, str(folder), layout, str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None
        told = writer.stdout.read(8)
        time.sleep(after_s)
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.read()
    assert writer.returncode == -signal.SIGKILL
    return np.frombuffer(told, "<u8", len(told) // 8).tolist()


def check_log(path: Path, acknowledged: list[int]) -> int:
    """Each acknowledged record is there with its bytes, and what there is besides is whole; the
    bytes of the torn tail."""
    with open_recording(path) as recording:
        assert isinstance(recording, LogRecording)
        numbers = set()
        for record in recording.records("packet"):
            message = bytes(Packet.of(record).message)
            assert message == message_bytes(record.stamp.frame_id, len(message))
            numbers.add(record.seq)
    assert set(acknowledged) <= numbers
    assert len(numbers) - len(acknowledged) <= 1, "what was written and not yet acknowledged"
    verdict = verify(path)
    assert verdict.flaws == ()
    assert not verdict.closed
    return verdict.torn_bytes


def check_npy(path: Path, acknowledged: list[int]) -> int:
    """Each acknowledged frame is there, of that pass or the next; as `check_log`."""
    last = acknowledged[-1]
    with open_recording(path) as recording:
        assert isinstance(recording, NpyRecording)
        for frame_id in range(min(last + 1, _NPY_FRAMES)):
            found = recording.video_logits_at(frame_id)
            newest = last - (last - frame_id) % _NPY_FRAMES
            number = int(found.object_ids[0])
            assert number in (newest, newest + _NPY_FRAMES)
            assert (found.values == number).all()
    verdict = verify(path)
    assert verdict.flaws == ()
    return verdict.torn_bytes


def message_bytes(frame_id: int, nbytes: int) -> bytes:
    """Eight bytes of the frame's number, again and again."""
    return (frame_id.to_bytes(8, "little") * (nbytes // 8 + 1))[:nbytes]


def _messages(seed: int) -> Iterator[Entry]:
    """Of very different sizes."""
    sizes = np.random.default_rng(seed)
    frame_id = 0
    while True:
        data = message_bytes(frame_id, int(10 ** sizes.uniform(1, 6.3)))
        yield Packet(Stamp(0, frame_id), data).entry()
        frame_id += 1


def _frames(seed: int) -> Iterator[VideoLogits]:
    sizes = np.random.default_rng(seed)
    number = 0
    while True:
        side = int(10 ** sizes.uniform(0, 2.5))
        values = np.full((2, 1, side, side), number, np.float32)
        stamp = Stamp(0, number % _NPY_FRAMES, pass_index=number // _NPY_FRAMES)
        yield VideoLogits(stamp, np.array([number, 1]), values)
        number += 1


def main() -> None:
    folder, layout, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    anything = SpaceLimits(0, 0)
    if layout == "log":
        log = create_log(
            folder, Manifest("log", "s"), LogOptions(SegmentOptions(16 << 20), anything)
        )
        for entry in _messages(seed):
            _acknowledge(log.append(entry))
    npy = create_npy(folder, Manifest("npy", "s"), NpyOptions(space=anything))
    for frame in _frames(seed):
        _acknowledge(npy.append(frame))


def _acknowledge(number: int | None) -> None:
    if number is None:
        sys.exit("an entry was dropped")
    os.write(1, number.to_bytes(8, "little"))


if __name__ == "__main__":
    main()
