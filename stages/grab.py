"""Grab: pictures of a source, one upload each, as frames on the device."""

from __future__ import annotations

import math
import threading
import time
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Final

import torch

from kpi import emit
from kpi.events import DropReason, SourceState, SourceStateChanged
from stages.base import Picture, SelfTelling, Source
from stages.copies import CopyCount
from stages.drops import Drops
from stages.intake import Intake
from stages.mailbox import Mailbox, MailboxPolicy
from stages.records import Frame
from stages.upload import UploadRing
from stages.waiting import Waiting
from stages.ycbcr import DevicePlanes

_SLOTS_BESIDE_MAILBOX: Final = 3  # being written, being taken, and one for a device that lags
_STOP_S: Final = 0.6  # `stop` promises one second, of which closing the source takes some


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
        self._mailbox: Mailbox[Waiting] = Mailbox(mailbox, depth)
        self._ring = UploadRing(device, depth + _SLOTS_BESIDE_MAILBOX)
        self._drops = Drops(source.source_id)
        self._epoch: int | None = None
        self._stopping = threading.Event()
        self._intake = Intake(self._ring, self._give_up_waiting, self._stopping)
        self._thread: threading.Thread | None = None

    @property
    def ended(self) -> bool:
        """Whether the source has ended and every frame was taken; `get` raises after an error."""
        return self._mailbox.ended

    @property
    def dropped(self) -> dict[DropReason, int]:
        """Pictures read that did not become frames, by reason (`mailbox`, `stale`, `oom`,
        `stopped`)."""
        return self._drops.counts

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
        rgb = self._taken(waiting)
        return None if rgb is None else waiting.frame(rgb, self._source.source_id)

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

    def _taken(self, waiting: Waiting) -> torch.Tensor | None:
        try:
            return self._ring.take(waiting.slot)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            self._drop(waiting, "oom")
            return None
        except Exception:
            self._drop(waiting, "stopped")
            raise

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
            picture = self._source.read(self._intake.lend)
            if self._stopping.is_set():
                return "stopped"
            if picture is None:
                return "end of source"
            self._hand_over(picture, time.monotonic_ns())
        return "frame limit"

    def _hand_over(self, picture: Picture, grabbed_ns: int) -> None:
        if picture.epoch != self._epoch:
            self._epoch = picture.epoch
            self._say_while_read("streaming")
        slot = self._intake.bring(picture)
        if slot is None:  # all is stopping
            return
        if isinstance(picture.pixels, DevicePlanes):  # which the decoder wants back
            picture = replace(picture, pixels=slot.pixels)
        waiting = Waiting(self.grabbed, picture, grabbed_ns, slot)
        self.grabbed += 1
        lost = self._mailbox.put(waiting)
        if lost is not None:
            self._drop(lost, "stopped" if lost is waiting else "mailbox")

    def _give_up_waiting(self) -> bool:
        """Drop the picture that waits, under `latest`; whether there was one."""
        oldest = self._mailbox.discard() if self._replace else None
        if oldest is not None:
            self._drop(oldest, "mailbox")
        return oldest is not None

    def _drop(self, waiting: Waiting, reason: DropReason) -> None:
        self._ring.give_back(waiting.slot)
        self._drops.add(waiting.picture.epoch, waiting.frame_id, reason)

    def _say_while_read(self, state: SourceState) -> None:
        if not self._source_tells:
            self._say(state)

    def _say(self, state: SourceState, reason: str | None = None) -> None:
        emit(SourceStateChanged(self._source.source_id, self._epoch or 0, state, reason))
