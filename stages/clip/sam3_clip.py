"""A clip that the native `sam3` package tracks through, with the records of our own: `Sam3Clip`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from os.path import expanduser
from pathlib import Path

import torch
from torch import Tensor

from stages.clip.frames import Frames, UploadedFrames
from stages.clip.opening import open_frames
from stages.clip.records import ClipFrame
from stages.closing import Closing
from stages.sam3_frames import SessionFrame, SessionPrompt, Size
from stages.sam3_predictor import OpenedSam3, Sam3ClipConfig
from stages.sam3_session import Direction, Sam3Session

_INSIDE = 10.0
"""Logit of a pixel of the package's masks, which are true or false."""
_SURE = 1e-6
"""Scores this close to 0 and 1 keep a finite logit."""


@contextmanager
def open_sam3_clip(
    config: Sam3ClipConfig,
    target: str | Path,
    opened: OpenedSam3,
    device: torch.device | None = None,
) -> Iterator[Sam3Clip]:
    """A clip in a session with the configuration's policy for empty frames; closed at the end.

    `target`: a video file or a folder of pictures, which the package reads itself: it counts a
    folder's pictures by the numbers that are their names, and sorts other names as text. `device`:
    where its frames are handed on (None: the first of `gpus_to_use`). Raises `SourceError` for
    the clip, `Sam3Error` where the package fails on it. CUDA only, and not yet run on a GPU.
    """
    place = Path(expanduser(target)).absolute()
    where = torch.device("cuda", config.gpus_to_use[0]) if device is None else device
    policy, retries = config.empty_output, config.retries
    with (
        closing(open_frames(place)) as frames,
        Sam3Session(
            opened.predictor, place, frames.size_hw, empty_output=policy, retries=retries
        ) as session,
        Sam3Clip(frames, session, where) as clip,
    ):
        yield clip


class Sam3Clip(Closing):
    """`Clip`'s `propagate` for objects that were named by words; see `Sam3Session`.

    The package reads the clip itself; `frames` are for whoever draws on its pictures.
    """

    def __init__(self, frames: Frames, session: Sam3Session, device: torch.device) -> None:
        """`frames` and `session` are closed with the clip."""
        self._host, self._session, self._device = frames, session, device
        self._frames = UploadedFrames(frames, device)
        self._prompted: int | None = None

    @property
    def num_frames(self) -> int:
        return self._host.count

    @property
    def size_hw(self) -> Size:
        """Height and width of the pictures, pixels."""
        return self._host.size_hw

    @property
    def fps(self) -> float | None:
        return self._host.fps

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def skipped(self) -> int:
        """Empty frames that were left out; see `Sam3ClipConfig.empty_output`."""
        return self._session.skipped

    def picture(self, frame_idx: int) -> Tensor:
        """uint8 (3, H, W) on the device; raises `SourceError`."""
        return self._frames.read(frame_idx)

    def spacing_mm(self, frame_idx: int) -> tuple[float, float] | None:
        """(y, x) millimetres per pixel, where the frame is calibrated; raises `SourceError`."""
        return self._host.spacing_mm(frame_idx)

    def say(self, frame_idx: int, text: str) -> ClipFrame:
        """Find what the words name, from this frame on; what was said before is forgotten."""
        found = self._session.add_prompt(frame_idx, SessionPrompt(text=text))
        self._prompted = frame_idx
        return self._frame(found)

    def propagate(
        self,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[ClipFrame]:
        """As `Clip.propagate`, but for objects that come and go: those of a frame are in its
        `obj_ids`; and in reverse the frame before the start is the first. Raises `Sam3Error`, the
        session then closed."""
        direction: Direction = "backward" if reverse else "forward"
        found = self._session.propagate(start_frame_idx, max_frame_num_to_track, direction)
        return (self._frame(each) for each in found)

    def close(self) -> None:
        """May be called more than once."""
        self._session.close()
        self._frames.close()

    def _frame(self, found: SessionFrame) -> ClipFrame:
        count, device = len(found.obj_ids), self._device
        masks = torch.from_numpy(found.masks).to(device)
        scores = torch.from_numpy(found.scores).to(device)
        return ClipFrame(
            frame_idx=found.frame_idx,
            obj_ids=tuple(found.obj_ids.tolist()),
            logits=torch.where(masks, _INSIDE, -_INSIDE),
            presence=torch.logit(scores, eps=_SURE),
            quality=scores,
            known=(True,) * count,
            prompted=(found.frame_idx == self._prompted,) * count,
            size_hw=self.size_hw,
        )
