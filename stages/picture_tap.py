"""PictureTap: frames as JPEG for viewers, the one way by which pixels leave a run.

Tested on the CPU; its CUDA half (stream, event, pinned memory) has not yet run on a GPU.
"""

from __future__ import annotations

import contextvars
import io
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from kpi.emit import emit
from kpi.events import ErrorRaised
from stages.copies import CopyCount
from stages.exits import named_exit
from stages.pack import packet_info
from stages.packets import HostPacket, Identity, PacketInfo
from stages.pictures_config import PicturesConfig
from stages.records import Frame

_POLL_S = 0.001
_STOP_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Copy:
    """Pixels on their way to the host."""

    info: PacketInfo
    pixels: Tensor
    """uint8 (3, H, W); on CUDA, pinned, there once `done` has passed."""
    frame: Frame
    """Kept until then, so that nothing rewrites what is being copied."""
    done: torch.cuda.Event | None


class PictureTap:
    """Copies a frame now and then, where somebody wants one, and encodes it in a thread of its own.

    A tap of the frame loop and a sink of egress, for its end. One picture is on its way at a time:
    a viewer, however many, costs the loop one asynchronous copy.
    """

    wants_masks = False

    def __init__(
        self,
        config: PicturesConfig,
        identity: Identity,
        wanted: Callable[[], bool],
        publish: Callable[[PacketInfo, bytes], None],
    ) -> None:
        """`wanted`: whether there is a viewer now. `publish` is given each JPEG, by the thread."""
        self._config = config
        self._identity: Identity = identity
        self._wanted = wanted
        self._publish = publish
        self._next = 0.0
        self._stream: torch.cuda.Stream | None = None
        self._copies: queue.Queue[_Copy | None] = queue.Queue(maxsize=2)
        self._idle = threading.Event()
        self._idle.set()
        self.copies = CopyCount("d2h", "picture")
        self._thread: threading.Thread | None = None

    def offer(self, frame: Frame) -> None:
        """Called by the frame loop with each frame; begins a copy where one is due and wanted."""
        now = time.monotonic()
        if now < self._next or not self._wanted() or not self._idle.is_set():
            return
        self._next = now + 1 / self._config.fps
        if self._thread is None:
            self._thread = self._started()
        self._idle.clear()
        self._copies.put_nowait(self._copy(frame))

    def write(self, packet: HostPacket) -> None:
        """Nothing: pictures go their own way."""

    def poll(self) -> None:
        """Nothing to look after."""

    def close(self) -> None:
        """End the thread, waiting a second at most."""
        if self._thread is not None:
            self._copies.put(None)
            self._thread.join(_STOP_S)

    def _started(self) -> threading.Thread:
        """Only now: what the thread tells goes to the logger of whoever runs the frame loop."""
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._work,), name="pictures", daemon=True
        )
        thread.start()
        return thread

    def _copy(self, frame: Frame) -> _Copy:
        info = packet_info(frame, self._identity)
        if not frame.rgb.is_cuda:
            self.copies.add(frame.rgb.numel())
            return _Copy(info, frame.rgb, frame, None)
        if self._stream is None:
            self._stream = torch.cuda.Stream(frame.rgb.device)
        self._stream.wait_stream(torch.cuda.current_stream(frame.rgb.device))
        with torch.cuda.stream(self._stream), named_exit("picture"):
            pixels = torch.empty(frame.rgb.shape, dtype=torch.uint8, pin_memory=True)
            pixels.copy_(frame.rgb, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        self.copies.add(frame.rgb.numel())
        return _Copy(info, pixels, frame, done)

    def _work(self) -> None:
        while (copy := self._copies.get()) is not None:
            try:
                while copy.done is not None and not copy.done.query():
                    time.sleep(_POLL_S)
                self._publish(copy.info, self._jpeg(copy.pixels))
            except Exception as error:
                emit(ErrorRaised("pictures", f"{type(error).__name__}: {error}"))
            finally:
                del copy
                self._idle.set()

    def _jpeg(self, pixels: Tensor) -> bytes:
        file = io.BytesIO()
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        picture.save(file, format="JPEG", quality=self._config.quality)
        return file.getvalue()
