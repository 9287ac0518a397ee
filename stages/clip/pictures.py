"""The pictures of an open clip, on a device: `ClipPictures`."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.clip.frames import Frames, UploadedFrames
from stages.clip.prompts import whole_number
from stages.closing import Closing
from stages.errors import ClipError


class ClipPictures(Closing):
    """What a clip holds, and any of its pictures; closes what it was given."""

    def __init__(self, frames: Frames, device: torch.device) -> None:
        self.device = device
        """Where pictures and masks are."""
        self._frames = frames
        self._uploaded = UploadedFrames(frames, device)
        self._closed = False

    @property
    def num_frames(self) -> int:
        """At least 2."""
        return self._frames.count

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the pictures, pixels."""
        return self._frames.size_hw

    @property
    def fps(self) -> float | None:
        """Pictures a second on average, where that is known."""
        return self._frames.fps

    @property
    def trouble(self) -> str | None:
        """One line about pictures at the end that are missing; None: there are none that we
        know of."""
        return self._frames.trouble

    def picture(self, frame_idx: int) -> Tensor:
        """uint8 (3, H, W) on the device: a frame as it is stored.

        Raises `PromptError` for a frame that does not exist, `SourceError` for one that cannot be
        read.
        """
        self._check_open()
        return self._uploaded.read(self._frame(frame_idx))

    def spacing_mm(self, frame_idx: int) -> tuple[float, float] | None:
        """(y, x) millimetres per pixel of a frame, where it is calibrated; raises as `picture`."""
        self._check_open()
        return self._frames.spacing_mm(self._frame(frame_idx))

    def time_s(self, frame_idx: int) -> float | None:
        """Seconds from the first frame to another one, where the clip tells; raises
        `PromptError` for a frame that does not exist."""
        self._check_open()
        return self._frames.time_s(self._frame(frame_idx))

    def close(self) -> None:
        """Release everything; may be called more than once."""
        self._closed = True
        self._uploaded.close()

    def _frame(self, frame_idx: int, name: str = "frame_idx") -> int:
        return whole_number(frame_idx, name, 0, self.num_frames - 1)

    def _check_open(self) -> None:
        if self._closed:
            raise ClipError("the clip is closed, expected an open one")
