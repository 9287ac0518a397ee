"""Video4Linux devices: `V4l2Device`, what this machine has of one.

FFmpeg reads the pictures; asking what a device is and setting its controls goes to the kernel by
ioctl. Numbers and layouts are those of linux/videodev2.h, which are the same on every 64-bit Linux.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Mapping
from typing import Final

from stages.sources.av_open import Address
from stages.sources.av_raw import Colours
from stages.sources.feed import FeedError
from stages.ycbcr import Matrix

_QUERYCAP: Final = 0x80685600
_CAPABILITY: Final = struct.Struct("=16s32s32sIII12x")
_CAPTURE: Final = 0x1  # V4L2_CAP_VIDEO_CAPTURE
_DEVICE_CAPS: Final = 0x80000000  # V4L2_CAP_DEVICE_CAPS: the last field is filled
_QUERYCTRL: Final = 0xC0445624
_CONTROL_INFO: Final = struct.Struct("=II32siiiiI8x")
_NEXT: Final = 0x80000000  # V4L2_CTRL_FLAG_NEXT_CTRL
_MOST_CONTROLS: Final = 500
_SET: Final = 0xC008561C
_NO_WAIT: Final = {
    "fflags": "+4",  # AVFMT_FLAG_NONBLOCK (avformat.h), which has no name there
    "max_ts_probe": "0",  # nor for a first picture while it looks at the streams, where it can
}
_CONTROL: Final = struct.Struct("=Ii")
_GET_FORMAT: Final = 0xC0D05604
_FORMAT: Final = struct.Struct("=I4x6I6I152x")
"""The buffer's type; width to sizeimage; colorspace, priv, flags, ycbcr_enc, quantization,
xfer_func (V4L2_PIX_FMT_PRIV_MAGIC in `priv` says that those behind it are filled)."""
_CAPTURE_BUFFER: Final = 1  # V4L2_BUF_TYPE_VIDEO_CAPTURE
_PRIV_MAGIC: Final = 0xFEEDCAFE
_JPEG: Final = 7  # V4L2_COLORSPACE_JPEG, whose levels are 0..255 unless told otherwise
_FULL_RANGE: Final = 1  # V4L2_QUANTIZATION_FULL_RANGE
_OF_ENCODING: Final[Mapping[int, Matrix]] = {
    1: "bt601", 2: "bt709", 3: "bt601", 4: "bt709", 6: "bt2020",
}  # fmt: skip
_OF_COLORSPACE: Final[Mapping[int, Matrix]] = {3: "bt709", 10: "bt2020", 12: "bt709"}
"""Where the encoding is the default one: V4L2_MAP_YCBCR_ENC_DEFAULT; all others are BT.601."""


class V4l2Device:
    """The device at ``path``, which may be there or not. Every error is a `FeedError`."""

    def __init__(self, path: str) -> None:
        self.path = path

    def prepare(self, controls: Mapping[str, int]) -> None:
        """Check that the device takes pictures, and set its controls by their names."""
        try:
            if not stat.S_ISCHR(os.stat(self.path).st_mode):
                raise self._is_none()
            handle = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise FeedError(f"{self.path} is not there") from None
        except OSError as error:
            raise FeedError(f"{self.path}: {error.strerror}") from None
        try:
            self._check(handle)
            known = _controls(handle) if controls else {}
            for name, value in controls.items():
                self._set(handle, known, name, value)
        finally:
            os.close(handle)

    def address(self, options: Mapping[str, str]) -> Address:
        """What FFmpeg is to open, asking the device for ``options``, and never to wait for it:
        what a stalled device makes it wait for, in the kernel, nothing would end."""
        return Address(self.path, {**options, **_NO_WAIT}, "v4l2")

    def colours(self) -> Colours | None:
        """What the driver says of the pictures that it gives now; None where it does not."""
        asked = bytearray(_FORMAT.pack(_CAPTURE_BUFFER, *[0] * 12))
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.ioctl(handle, _GET_FORMAT, asked)
        except OSError:
            return None
        finally:
            os.close(handle)
        *_, space, priv, _, encoding, levels, _ = _FORMAT.unpack(asked)
        if not space:
            return None
        if priv != _PRIV_MAGIC or not encoding:
            matrix = _OF_COLORSPACE.get(space, "bt601")
        elif encoding in _OF_ENCODING:
            matrix = _OF_ENCODING[encoding]
        else:
            return None
        told = levels if priv == _PRIV_MAGIC else 0
        return Colours(matrix, told == _FULL_RANGE or (not told and space == _JPEG))

    def _check(self, handle: int) -> None:
        answer = bytearray(_CAPABILITY.size)
        try:
            fcntl.ioctl(handle, _QUERYCAP, answer)
        except OSError as error:
            if error.errno == errno.ENOTTY:
                raise self._is_none() from None
            raise FeedError(f"{self.path}: {error.strerror}") from None
        *_, whole, own = _CAPABILITY.unpack(answer)
        if not (own if whole & _DEVICE_CAPS else whole) & _CAPTURE:
            raise FeedError(
                f"{self.path} gives no pictures, expected the camera's capture node; cameras have "
                "a second one for metadata"
            )

    def _set(self, handle: int, known: Mapping[str, int], name: str, value: int) -> None:
        if name not in known:
            raise FeedError(f"controls: {name} is none of {self.path}: {', '.join(known)}")
        try:
            fcntl.ioctl(handle, _SET, _CONTROL.pack(known[name], value))
        except OSError as error:
            raise FeedError(f"controls: {name}: {value} is refused: {error.strerror}") from None

    def _is_none(self) -> FeedError:
        return FeedError(f"{self.path} is no video device, expected one such as /dev/video0")


def _controls(handle: int) -> dict[str, int]:
    """The numbers of the device's controls by their names, written as v4l2-ctl writes them."""
    found: dict[str, int] = {}
    number = 0
    for _ in range(_MOST_CONTROLS):
        answer = bytearray(_CONTROL_INFO.pack(number | _NEXT, 0, b"", 0, 0, 0, 0, 0))
        try:
            fcntl.ioctl(handle, _QUERYCTRL, answer)
        except OSError:  # EINVAL: there are no more
            break
        number, _, name, *_ = _CONTROL_INFO.unpack(answer)
        found[control_name(name.partition(b"\0")[0].decode("latin-1"))] = number
    return found


def control_name(text: str) -> str:
    """``White Balance, Auto`` is ``white_balance_auto``."""
    words = "".join(c.lower() if c.isalnum() else " " for c in text).split()
    return "_".join(words)
