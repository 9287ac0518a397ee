"""Decoding on the GPU's own video decoder: `NvdecTaker`, `nvdec`, `why_no_nvdec`.

FFmpeg, as PyAV brings it, drives NVDEC itself and leaves the pictures in GPU memory, where DLPack
shows them to torch: what is true of connections, keyframes, damaged packets and times on the host
holds here too, and no other package is needed. It has not run on a GPU yet.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

import torch
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.plane import VideoPlane
from torch.utils.dlpack import from_dlpack

from stages.errors import SourceError
from stages.sources.av_pictures import PictureWriter, Taken
from stages.sources.av_raw import read_as
from stages.ycbcr import DevicePlanes, whole_pairs

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from torch import Tensor

    from stages.base import Buffer
    from stages.window import Window

_LIBRARY: Final = "libnvcuvid.so.1"


def why_no_nvdec(device: torch.device) -> str | None:
    """What is missing to decode on ``device``, in a few words; None where nothing is."""
    if device.type != "cuda":
        return "the run is on the CPU"
    if "cuda" not in hwdevices_available() or not hasattr(VideoPlane, "__dlpack__"):
        return "this PyAV cannot, and pip install 'maskstream[nvdec]' brings one that can"
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return f"the driver's {_LIBRARY} is missing (in a container: the capability 'video')"
    return None


def nvdec(device: torch.device, *, or_host: bool) -> HWAccel:
    """What FFmpeg is to decode with; ``or_host``: on the host what the GPU cannot."""
    return HWAccel(
        "cuda", str(device.index or 0), allow_software_fallback=or_host, is_hw_owned=True
    )


class NvdecTaker(PictureWriter):
    """Lends pictures as NVDEC left them on the device; converts on the host what it did not decode.

    Of 10-bit pictures the upper 8 bits count.
    """

    def take_in(self, picture: VideoFrame, window: Window, buffer: Buffer) -> Taken:
        """See `PictureWriter.take_in`; raises `SourceError` for what cannot be made RGB there."""
        if picture.format.name != "cuda":
            return super().take_in(picture, window, buffer)
        return self.lend(picture, window)

    def lend(self, picture: VideoFrame, window: Window) -> Taken:
        """What of ``picture``, NV12 or P010 wherever it is, lies in ``window``, and the pixels that
        share its chroma. Copies nothing."""
        ycbcr = read_as("nv12", picture, window)
        try:
            y, cbcr = (_bytes(plane) for plane in picture.planes)
        except (NotImplementedError, ValueError):  # how PyAV says that a plane is no DLPack's
            ycbcr = None
        if ycbcr is None:
            raise SourceError(
                f"source {self._source_id}: these pictures cannot be converted on the GPU, "
                "expected 4:2:0 of 8 or 10 bits, even sides and BT.601, BT.709 or BT.2020 "
                "(decoder: host takes others)"
            )
        cut = whole_pairs(window, "nv12")
        (top, left), (height, width) = cut.origin_yx, cut.size_hw
        return Taken(
            DevicePlanes(
                y[top : top + height, left : left + width],
                cbcr[top // 2 : (top + height) // 2, left // 2 : (left + width) // 2],
            ),
            ycbcr,
        )


def _bytes(plane: VideoPlane) -> Tensor:
    """uint8 of (H, W) luma or (H / 2, W / 2, 2) chroma."""
    # The capsule, for torch would ask PyAV to order streams, which it cannot; the lane does.
    tensor = from_dlpack(plane.__dlpack__())
    return tensor if tensor.dtype == torch.uint8 else tensor.view(torch.uint8)[..., 1::2]
