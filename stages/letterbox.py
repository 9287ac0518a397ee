"""Fitting a frame of any size into a network's fixed input, on the frame's device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAD_VALUE = 114 / 255
"""The grey that YOLO models were trained to see around a picture."""


class Letterbox:
    """Scales a frame to fit `input_hw`, keeps its aspect ratio, centres it and pads with grey.

    The geometry is that of ultralytics' `LetterBox` (sizes and paddings rounded alike). The
    resampling is antialiased where that one, plain bilinear, skips pixels: fine structure such
    as speckle then does not alias (the demo weights were trained on such pictures), for about
    a millisecond of one CPU core at 480 x 640. Where the frame is not shrunk the two agree.
    """

    def __init__(
        self,
        frame_hw: tuple[int, int],
        input_hw: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        """`frame_hw` and `input_hw` are (height, width) in pixels; constants go to `device`."""
        height, width = frame_hw
        scale = min(input_hw[0] / height, input_hw[1] / width)
        self.frame_hw = frame_hw
        self.input_hw = input_hw
        self.inner_hw = (max(round(height * scale), 1), max(round(width * scale), 1))
        """Size of the scaled frame inside the input."""
        free_y, free_x = input_hw[0] - self.inner_hw[0], input_hw[1] - self.inner_hw[1]
        self.top, self.left = round(free_y / 2 - 0.1), round(free_x / 2 - 0.1)
        self._pads = (self.left, free_x - self.left, self.top, free_y - self.top)
        # The real scale of each axis: rounding makes it differ a little from `scale`.
        step_y, step_x = height / self.inner_hw[0], width / self.inner_hw[1]
        self._offset = _twice(self.left, self.top, device)
        self._step = _twice(step_x, step_y, device)
        self._limit = _twice(width, height, device)

    def fit(self, rgb: Tensor) -> Tensor:
        """uint8 (3, *frame_hw) to float32 (1, 3, *input_hw), 0..1.

        A grey frame expanded to three channels is resampled once and comes back expanded.
        """
        grey = rgb.stride(0) == 0
        picture = (rgb[:1] if grey else rgb)[None].float()
        if self.inner_hw != self.frame_hw:
            picture = F.interpolate(
                picture, self.inner_hw, mode="bilinear", antialias=True, align_corners=False
            )
        picture = picture / 255
        if any(self._pads):
            picture = F.pad(picture, self._pads, value=PAD_VALUE)
        return picture.expand(-1, 3, -1, -1)

    def to_frame(self, boxes_xyxy: Tensor) -> Tensor:
        """float32 (K, 4) in input pixels to frame pixels, cut off at the frame's edges."""
        boxes = (boxes_xyxy - self._offset) * self._step
        return torch.minimum(boxes.clamp(min=0), self._limit)


def _twice(x: float, y: float, device: torch.device | str) -> Tensor:
    """float32 (4,): x, y, x, y, filled in on the device, for a stream may change its size under
    an audit."""
    made = torch.empty(4, dtype=torch.float32, device=device)
    made[0::2].fill_(x)
    made[1::2].fill_(y)
    return made
