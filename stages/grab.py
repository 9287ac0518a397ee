"""Grab: pictures of a source, one upload each, as frames on the device."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from kpi import emit
from kpi.events import DropReason, FrameDropped, SourceState, SourceStateChanged
from stages.base import Picture, SelfTelling, Source
from stages.copies import CopyCount
from stages.mailbox import Mailbox, MailboxPolicy
from stages.records import Frame
from stages.upload import Slot, UploadRing

_SLOTS_BESIDE_MAILBOX: Final = 3  # being written, being taken, and one for a device that lags
_POLL_S: Final = 0.0005
_STOP_S: Final = 0.6  # `stop` promises one second, of which closing the source takes some


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A picture whose upload is queued and that is not yet a frame."""

    frame_id: int
    picture: Picture
    grabbed_ns: int
    slot: Slot


class Grab:
    """Reads a source in a thread of its own and hands its pictures over as frames.

    ``mailbox`` `latest`: a picture that waits is replaced by a newer one, and counted as dropped
    (`mailbox`); `every`: up to ``depth`` pictures wait, then the source does. A picture that is
    older than ``max_age_ms`` when its turn comes is dropped (`stale`). ``frames`` ends the
    stream after so many pictures read. How memory and streams are kept apart is told in Note
    [Upload ring and streams] in `stages/upload.py`.

    The thread runs in a copy of the context of `start`, so that its events reach the run's
    logger: `frame_dropped` and `source_state` (connecting, streaming at each new epoch, ended,
    failed; of a `SelfTelling` source the last two). Frame ids count the pictures read, from 0;
    each becomes a frame that `get` returned, or is counted in `dropped`.

    `start`, `get` and `stop` belong to one thread; the numbers may be read from any.
    """

    def __init__(
        self,
        source: Source,
        device: torch.device,
        *,
        mailbox: MailboxPolicy = "latest",
        depth: int = 4,
        frames: int | None = None,
        max_age_ms: float | None = None,
    ) -> None:
        self.device = device
        self.grabbed = 0
        """Pictures read."""
        self._source = source
        self._frames = frames
        self._max_age_ms = math.inf if max_age_ms is None else max_age_ms
        self._source_tells = isinstance(source, SelfTelling)
        depth = 1 if mailbox == "latest" else depth
        self._replace = mailbox == "latest"
        self._mailbox: Mailbox[_Waiting] = Mailbox(mailbox, depth)
        self._ring = UploadRing(device, depth + _SLOTS_BESIDE_MAILBOX)
        self._lent: Slot | None = None
        self._dropped: Counter[DropReason] = Counter()
        self._lock = threading.Lock()
        self._epoch: int | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def ended(self) -> bool:
        """Whether the source has ended and every frame was taken; `get` raises after an error."""
        return self._mailbox.ended

    @property
    def dropped(self) -> dict[DropReason, int]:
        """Pictures read that did not become frames, by reason (`mailbox`, `stale`, `oom`,
        `stopped`)."""
        with self._lock:
            return dict(self._dropped)

    @property
    def copies(self) -> tuple[CopyCount, ...]:
        """The one named exit: `upload`."""
        return (self._ring.copies,)

    def start(self) -> None:
        """Begin to read; once."""
        if self._thread is not None:
            raise RuntimeError("Grab was started before")
        run = partial(copy_context().run, self._run)
        name = f"grab-{self._source.source_id}"
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()

    def get(self, timeout_s: float) -> Frame | None:
        """The next frame, safe on the caller's current stream; None where none came in time
        or the stream has ended (see `ended`), or one was dropped: too old, or no memory for it.

        Raises what the source raised: under `every` once the frames before it were taken, under
        `latest` at once.
        """
        waiting = self._mailbox.get(timeout_s)
        if waiting is None:
            return None
        if self.too_old(waiting.picture.captured_ns):
            self._drop(waiting, "stale")
            return None
        try:
            rgb = self._ring.take(waiting.slot)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._drop(waiting, "oom")
            return None
        except Exception:
            self._drop(waiting, "stopped")
            raise
        picture = waiting.picture
        return Frame(
            rgb=rgb,
            source_id=self._source.source_id,
            epoch=picture.epoch,
            frame_id=waiting.frame_id,
            captured_ns=picture.captured_ns,
            grabbed_ns=waiting.grabbed_ns,
            captured_unix_ns=picture.captured_unix_ns,
            spacing_mm=picture.spacing_mm,
            pose=picture.pose,
            origin_yx=picture.origin_yx,
            full_hw=picture.full_hw,
            boxes=picture.boxes,
        )

    def too_old(self, captured_ns: int) -> bool:
        """Whether what was captured then is older than ``max_age_ms`` by now."""
        return (time.monotonic_ns() - captured_ns) / 1e6 > self._max_age_ms

    def stop(self) -> None:
        """End within 1 s, also while the source or the mailbox is waited for; closes the source.

        What was read and not taken is dropped (`stopped`). May be called more than once.
        """
        self._stopping.set()
        self._mailbox.close()
        self._source.close()
        if self._thread is not None:
            self._thread.join(_STOP_S)
        while (waiting := self._mailbox.discard()) is not None:
            self._drop(waiting, "stopped")

    def _run(self) -> None:
        try:
            self._say_while_read("connecting")
            self._say("ended", self._pump())
        except Exception as error:
            self._say("failed", str(error) or type(error).__name__)
            self._mailbox.close(error)
        else:
            self._mailbox.close()

    def _pump(self) -> str:
        """Read until there is no more; why it ended."""
        while self.grabbed != self._frames:
            picture = self._source.read(self._buffer)
            if self._stopping.is_set():
                return "stopped"
            if picture is None:
                return "end of source"
            self._hand_over(picture, time.monotonic_ns())
        return "frame limit"

    def _buffer(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The `Buffer` of `Source.read`: memory of the ring, waiting until some is free."""
        if self._lent is not None:  # asked for twice in one read, or by one that gave nothing
            self._ring.give_back(self._lent)
            self._lent = None
        while not self._stopping.is_set():
            self._lent = self._ring.acquire(shape)
            if self._lent is not None:
                return self._lent.pixels
            oldest = self._mailbox.discard() if self._replace else None
            if oldest is not None:
                self._drop(oldest, "mailbox")
            else:
                self._stopping.wait(_POLL_S)
        return np.empty(shape, np.uint8)  # its picture will be thrown away

    def _hand_over(self, picture: Picture, grabbed_ns: int) -> None:
        slot, self._lent = self._lent, None
        if slot is None or not np.may_share_memory(picture.pixels, slot.array):
            raise TypeError(
                f"source {self._source.source_id}: the picture does not lie in the array that "
                "Buffer gave"
            )
        if picture.epoch != self._epoch:
            self._epoch = picture.epoch
            self._say_while_read("streaming")
        self._ring.upload(slot)
        waiting = _Waiting(self.grabbed, picture, grabbed_ns, slot)
        self.grabbed += 1
        lost = self._mailbox.put(waiting)
        if lost is not None:
            self._drop(lost, "stopped" if lost is waiting else "mailbox")

    def _drop(self, waiting: _Waiting, reason: DropReason) -> None:
        self._ring.give_back(waiting.slot)
        with self._lock:
            self._dropped[reason] += 1
        picture = waiting.picture
        emit(FrameDropped(self._source.source_id, picture.epoch, waiting.frame_id, reason))

    def _say_while_read(self, state: SourceState) -> None:
        if not self._source_tells:
            self._say(state)

    def _say(self, state: SourceState, reason: str | None = None) -> None:
        emit(SourceStateChanged(self._source.source_id, self._epoch or 0, state, reason))
