"""The recorder of a live run: `Recorder`, a sink that never delays who calls it.

A thread, and not a process, writes. What a crash of this process may lose is the same for both:
a record is acknowledged once the kernel has it, and the kernel outlives us; what still waits in
memory was not acknowledged. A process would keep what waits in shared memory, for one more copy of
each byte and a second interpreter. The thread's work (conversion, check sums, compression,
`writev`) leaves the interpreter to the others.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from kpi.edge_events import RecorderLoss
from stages.errors import RecordingError
from stages.packets import HostPacket
from stages.recorder.bundle import Bundle, stamp_of
from stages.recorder.config import RecorderConfig
from stages.recorder.counts import Counts
from stages.recorder.drain import Drain, Writer
from stages.recorder.looked import Looks
from stages.recorder.meter import RecorderMeter
from stages.recorder.report import RecorderReport
from stages.recorder.ring import Ring
from stages.recording.entries import VideoLogits
from stages.recording.entry import Entry, Stamp
from stages.wire_envelope import Kind

_BLOCK_S: Final = 2.0
"""Policy `block` waits for room so long: a disk that hangs must not stop the run for ever, nor have
it taken for one that hangs."""
_MESSAGES: Final = 64
"""Messages that may wait for the next frame; of more the oldest are lost, and stand in its gap."""
_DRAIN_S: Final = 10.0
"""For what waits to be written at the end."""


class Recorder:
    """A `Sink`. `looks` is the frame loop's part; `write` and `poll` are egress's, the rest belongs
    to whoever runs the run. Frames are offered with `write`, and each is written or dropped."""

    def __init__(self, config: RecorderConfig, *, masks: bool, logits: bool) -> None:
        """``masks``, ``logits``: what packets must carry for what is to be recorded."""
        self.config = config
        self.looks = Looks(pixels="frames" in config.record, boxes="detections" in config.record)
        self.wants_masks, self.wants_logits = masks, logits
        self._wants = masks, logits
        self._counts = Counts()
        self._ring: Ring[Bundle] = Ring(config.ring_bytes)
        self._messages: deque[bytes] = deque(maxlen=_MESSAGES)
        self._overrun = 0
        self._meter = RecorderMeter(self._counts)
        self._drain: Drain[Entry] | Drain[VideoLogits] | None = None
        self._path = ""
        self._closed = threading.Event()

    def open_log(self, writer: Writer[Entry], path: str) -> None:
        """Record with ``writer``, made for ``path``."""
        self._path = path
        parts = partial(Bundle.entries, config=self.config)
        self._drain = Drain(writer, parts, self._ring, self._counts)
        self._drain.on_state = self._want

    def open_npy(self, writer: Writer[VideoLogits], path: str) -> None:
        """Likewise, as npy."""
        self._path = path
        self._drain = Drain(writer, Bundle.video_logits, self._ring, self._counts)
        self._drain.on_state = self._want

    def start(self) -> None:
        """Begin to write; in the context whose logger shall be told."""
        self._opened.start()

    def published(self, kind: Kind, message: bytes) -> None:
        """A message as it goes out; recorded with the frame it comes before. Egress."""
        if "packets" in self.config.record and kind in ("result", "state"):
            self._overrun += len(self._messages) == _MESSAGES
            self._messages.append(message)

    def write(self, packet: HostPacket) -> None:
        """Offer one frame. Raises `RecordingError` where it is lost and the policy is `stop`."""
        info = packet.info
        looked = self.looks.seen(info.epoch, info.frame_id)
        bundle = Bundle(
            self._counts.offer(), self._kept(packet), looked, self._taken(stamp_of(packet.info))
        )
        reason = "paused" if self._lacks(packet) else self._refusal(bundle)
        if reason is not None:
            self._counts.drop(reason)
            self._opened.lost(reason, bundle.stamp)
        self._stop_where_lost()

    def _taken(self, stamp: Stamp) -> tuple[bytes, ...]:
        """The messages that waited for a frame."""
        if self._overrun:
            self._opened.lost("ring", stamp, self._overrun)
        messages = tuple(self._messages)
        self._messages.clear()
        self._overrun = 0
        return messages

    def _lacks(self, packet: HostPacket) -> bool:
        """Whether a packet has not what was to be recorded, be it in its message alone: it was
        submitted while the recorder was paused."""
        masks, logits = self._wants
        return (masks and packet.masks is None) or (logits and packet.logits is None)

    def _refusal(self, bundle: Bundle) -> RecorderLoss | None:
        """Why a frame cannot wait to be written; None where it does."""
        recording = self._opened.status.state == "recording"
        if not bundle.is_whole(self.config.record):
            return "paused"
        waits = self.config.policy == "block" and recording
        if self._ring.put(bundle, bundle.nbytes, _BLOCK_S if waits else 0.0):
            return None
        return "ring" if recording else "paused"

    def poll(self) -> None:
        """Tell once a second what became of the frames."""
        self._meter.tell_where_due(self._opened.status.written_bytes)

    def close(self) -> None:
        """Nothing more is offered; what waits is written until `finish`."""
        self._ring.close()

    def release(self) -> None:
        """The run ends: nobody waits for room any more; callable from any thread."""
        self._ring.release()

    def finish(self) -> None:
        """Write what waits, for 10 s at most, and settle the counts. Raises `RecordingError` where
        something was lost and the policy is `stop`."""
        if self._drain is None or self._closed.is_set():
            return
        self._closed.set()
        self._drain.finish(_DRAIN_S)
        self._counts.settle()
        self._meter.tell(self._drain.status.written_bytes)
        self._stop_where_lost()

    def finish_quietly(self) -> None:
        """`finish` for a run that ended in another way."""
        with suppress(RecordingError):
            self.finish()

    def report(self) -> RecorderReport:
        """Where it stands; any thread. While it goes on frames may be on their way."""
        status = self._opened.status
        return RecorderReport(
            self._path,
            "hung" if self._opened.hangs else status.state,
            self._opened.reason,
            self._counts.offered,
            self._counts.written,
            self._counts.dropped,
            status.written_bytes,
            status.pauses,
        )

    @property
    def _opened(self) -> Drain[Entry] | Drain[VideoLogits]:
        if self._drain is None:
            raise RuntimeError("the recorder was not opened")
        return self._drain

    def _kept(self, packet: HostPacket) -> HostPacket:
        """What others asked for does not wait here."""
        what = self.config.record
        masks = packet.masks if "masks" in what else None
        logits = packet.logits if "logits" in what else None
        return replace(packet, masks=masks, logits=logits)

    def _want(self, recording: bool) -> None:
        """While nothing would be written nothing is copied."""
        masks, logits = self._wants
        self.wants_masks, self.wants_logits = masks and recording, logits and recording
        self.looks.wanted = recording

    def _stop_where_lost(self) -> None:
        if self.config.policy == "stop" and self._counts.lost:
            reason = self._opened.reason
            why = ", ".join(f"{n} {name}" for name, n in self._counts.dropped.items())
            raise RecordingError(
                f"recorder: frames are lost ({why}{'' if reason is None else f': {reason}'}), and "
                "recorder.policy is stop"
            )
