"""What the frame loop saw of a frame, on its way to the host: `Looks`, a tap.

Tested on the CPU; its CUDA half (stream, event, pinned memory) has not yet run on a GPU.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.choices import Choice
from stages.copies import CopyCount
from stages.exits import named_exit
from stages.records import Detections, Frame

_POLL_S = 0.001


@dataclass(slots=True, eq=False)
class Looked:
    """One frame as the loop had it. Its tensors are on the host once `done` has passed."""

    epoch: int
    frame_id: int
    computed: bool
    """Of its `Detections`."""
    pixels: Tensor | None
    """uint8 (3, H, W)."""
    boxes: tuple[Tensor, ...] | None
    """Boxes, scores, class ids, valid and, where there are any, classes, as in `Detections`."""
    done: torch.cuda.Event | None
    copied: Detections | None = None
    """What is being copied: kept until it is, so that nothing rewrites it."""
    skipped: int = 0
    """Frames before it that were looked at and have no result."""
    choice: Choice | None = None

    @property
    def nbytes(self) -> int:
        """Of its pixels."""
        if self.pixels is None:
            return 0
        return self.pixels[0].numel() * (1 if self._is_grey else 3)

    @property
    def _is_grey(self) -> bool:
        """Whether its three planes are one."""
        return self.pixels is not None and self.pixels.stride(0) == 0

    def is_copied(self) -> bool:
        """Whether it is on the host; asks, never waits."""
        if self.done is not None and not self.done.query():
            return False
        self.copied = None
        return True

    def await_copy(self) -> None:
        """Wait until it is on the host."""
        while not self.is_copied():
            time.sleep(_POLL_S)

    def picture(self) -> NDArray[np.uint8] | None:
        """(H, W) grey or (H, W, 3) RGB; after `await_copy`."""
        if self.pixels is None:
            return None
        if self._is_grey:
            return np.asarray(self.pixels[0].contiguous().numpy())
        return np.asarray(self.pixels.permute(1, 2, 0).contiguous().numpy())


class Looks:
    """Begins the copies, and remembers who waits for a result. `look` and `chose` belong to the
    frame loop, `seen` to egress."""

    def __init__(self, *, pixels: bool, boxes: bool) -> None:
        """What is to be copied."""
        self.copies = CopyCount("d2h", "recorder")
        self.wanted = True
        """Whether anything would be written now; any thread may say."""
        self._pixels, self._boxes = pixels, boxes
        self._waiting: deque[Looked] = deque()  # append and popleft are atomic
        self._stream: torch.cuda.Stream | None = None

    def look(self, detections: Detections) -> None:
        """Called by the frame loop with each frame, before it is segmented."""
        self._waiting.append(self._copied(detections))

    def chose(self, frame: Frame, choice: Choice) -> None:
        """The `Journal` of the segmenter's choices."""
        newest = self._waiting[-1] if self._waiting else None
        if newest is not None and (newest.epoch, newest.frame_id) == (frame.epoch, frame.frame_id):
            newest.choice = choice

    def seen(self, epoch: int, frame_id: int) -> Looked | None:
        """The frame whose result is there; those before it will have none."""
        skipped = 0
        while self._waiting:
            looked = self._waiting.popleft()
            if (looked.epoch, looked.frame_id) == (epoch, frame_id):
                looked.skipped = skipped
                looked.is_copied()  # most often: then the device's memory is free again
                return looked
            skipped += 1
        return None

    def _copied(self, detections: Detections) -> Looked:
        frame, rgb = detections.frame, detections.frame.rgb
        name = frame.epoch, frame.frame_id, detections.computed
        pixels = rgb if self._pixels and self.wanted else None
        boxes = _rows(detections) if self._boxes and self.wanted else None
        if pixels is None and boxes is None:
            return Looked(*name, None, None, None)
        if not rgb.is_cuda:
            self._count(pixels, boxes)
            return Looked(*name, pixels, boxes, None)
        if self._stream is None:
            self._stream = torch.cuda.Stream(rgb.device)
        self._stream.wait_stream(torch.cuda.current_stream(rgb.device))
        with torch.cuda.stream(self._stream), named_exit("recorder"):
            pixels = None if pixels is None else _pinned(pixels)
            boxes = None if boxes is None else tuple(map(_pinned, boxes))
            done = torch.cuda.Event()
            done.record()
        self._count(pixels, boxes)
        return Looked(*name, pixels, boxes, done, detections)

    def _count(self, pixels: Tensor | None, boxes: tuple[Tensor, ...] | None) -> None:
        parts = (*(() if pixels is None else (pixels,)), *(boxes or ()))
        self.copies.add(sum(part.numel() * part.element_size() for part in parts))


def _rows(found: Detections) -> tuple[Tensor, ...]:
    rows = found.boxes_xyxy, found.scores, found.class_ids, found.valid
    return rows if found.classes is None else (*rows, found.classes)


def _pinned(values: Tensor) -> Tensor:
    """A copy in pinned memory, on its way; of one plane where the planes are one."""
    grey = values.ndim == 3 and values.stride(0) == 0
    source = values[:1] if grey else values
    copy = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
    copy.copy_(source, non_blocking=True)
    return copy.expand(values.shape) if grey else copy
