"""`maskstream replay`: recorded packets for subscribers. Imports no torch."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from pipeline.signals import stop_on_signals
from stages.curve import Reach
from stages.errors import RecordingError
from stages.recording.entries import Packet
from stages.recording.log_reader import LogRecording
from stages.recording.reading import open_recording, recording_in
from stages.sinks.replay_socket import ReplaySocket
from stages.wire_replay import Replayed, names_told, replayed

_SLICE_S: Final = 0.1
_HWM: Final = 4
_PATIENCE_S: Final = 5.0
_ONE_ALONE_S: Final = 1.0
"""Period of a recording of one packet, in a loop."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What the command line says."""

    endpoint: str
    speed: float = 1.0
    """Times its own; 0: as fast as the slowest subscriber takes it, up to 5 s a message."""
    loop: bool = False
    wait_subscribers: int = 0
    insecure_bind: bool = False


def replay(path: Path, options: ReplayOptions) -> int:
    """Publish what was recorded, until its end or a signal; returns the exit code.

    That is 1 where packets could not be read: all others are sent, and it is told at the end.
    Raises `RecordingError` for what is no recording with packets, `ConfigError` or `BindError` for
    an endpoint that cannot be bound.
    """
    with stop_on_signals() as stop, _opened(path) as recording:
        first = next(_results(recording), None)
        if first is None and recording.damaged:
            raise RecordingError(f"{recording.path}: {recording.damaged[0]}")
        if first is None:
            raise RecordingError(
                f"{recording.path}: no packets were recorded "
                "(expected a run with packets among its recorder.record)"
            )
        manifest = recording.manifest
        socket = ReplaySocket(
            options.endpoint,
            Reach(insecure_bind=options.insecure_bind),
            manifest.source_id,
            manifest.class_names,
            run=first[0].run,
            hwm=_HWM,
            patience_s=0.0 if options.speed else _PATIENCE_S,
        )
        try:
            _play(recording, socket, options, stop)
        finally:
            socket.close()
        lost = (*map(str, recording.damaged), *recording.flaws)
        for each in lost:
            sys.stderr.write(f"maskstream: {each}\n")
        return 1 if lost else 0


def _play(
    recording: LogRecording, socket: ReplaySocket, options: ReplayOptions, stop: threading.Event
) -> None:
    _say(f"replay: {socket.endpoint}")
    if options.wait_subscribers:
        _say(f"waiting for {options.wait_subscribers} subscriber(s)")
    while socket.subscribers < options.wait_subscribers and not stop.is_set():
        socket.wait(time.monotonic() + _SLICE_S)
    times = _once(recording, socket, options.speed, stop)
    sent = len(times)
    while options.loop and times and not stop.is_set():
        if options.speed:
            _wait(socket, time.monotonic() + _period_s(times) / options.speed, stop)
        times = _once(recording, socket, options.speed, stop)
        sent += len(times)
    _say(f"{sent} packets")


def _once(
    recording: LogRecording, socket: ReplaySocket, speed: float, stop: threading.Event
) -> list[int]:
    """Send all, each at its time after the first; the times, in nanoseconds, of those sent."""
    times: list[int] = []
    start = time.monotonic()
    for item, class_names in _results(recording):
        first_ns = times[0] if times else item.published_ns
        due = start + (item.published_ns - first_ns) / 1e9 / speed if speed else start
        _wait(socket, due, stop)
        if stop.is_set():
            break
        socket.wait(due)
        socket.send(item, class_names)
        times.append(item.published_ns)
    return times


def _wait(socket: ReplaySocket, due: float, stop: threading.Event) -> None:
    while not stop.is_set() and time.monotonic() < due:
        socket.wait(min(due, time.monotonic() + _SLICE_S))


def _period_s(times: Sequence[int]) -> float:
    """The usual one, which the last packet takes before the first comes again."""
    steps = [after - before for before, after in pairwise(times) if after > before]
    return median(steps) / 1e9 if steps else _ONE_ALONE_S


def _results(recording: LogRecording) -> Iterator[tuple[Replayed, tuple[str, ...]]]:
    """Each with what class ids meant then: phrases come and go."""
    class_names = recording.manifest.class_names
    for record in recording.records("packet"):
        message = Packet.of(record).message
        item = replayed(message)
        if item is not None:
            yield item, class_names
        else:
            class_names = names_told(message) or class_names


def _opened(path: Path) -> LogRecording:
    found = open_recording(recording_in(path))
    if not isinstance(found, LogRecording):
        raise RecordingError(f"{path}: layout npy holds logits alone (expected layout log)")
    return found


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
