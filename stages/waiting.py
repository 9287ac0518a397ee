"""A picture between the source and its place in the stream: `Waiting`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stages.base import Picture
from stages.records import Frame
from stages.upload import Slot


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A picture whose upload is queued and that is not yet a frame."""

    frame_id: int
    picture: Picture
    grabbed_ns: int
    slot: Slot

    def frame(self, rgb: Tensor, source_id: str) -> Frame:
        """It, now that ``rgb``, uint8 (3, H, W), is on the device."""
        picture = self.picture
        return Frame(
            rgb=rgb,
            source_id=source_id,
            epoch=picture.epoch,
            frame_id=self.frame_id,
            captured_ns=picture.captured_ns,
            grabbed_ns=self.grabbed_ns,
            captured_unix_ns=picture.captured_unix_ns,
            spacing_mm=picture.spacing_mm,
            pose=picture.pose,
            origin_yx=picture.origin_yx,
            full_hw=picture.full_hw,
            boxes=picture.boxes,
        )
