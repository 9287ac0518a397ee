"""Results as OpenIGTLink messages: IMAGE, POINT and STATUS, versions 1 and 2 of the header.

http://openigtlink.org/developers/spec; what surrounds a body is in `stages/sources/igtl_header.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stages.packets import PacketInfo
from stages.sources.igtl_header import EXTENDED, HEADER, crc64
from stages.sources.igtl_image import IMAGE

Version = Literal[1, 2]
"""Of the header; metadata comes with 2."""

OK: Final = 1
"""The STATUS of a stream in which everything is well."""

_POINT: Final = struct.Struct(">64s32s4B3ff20s")
"""Name, group, colour, position, radius and the image that it belongs to."""
_STATUS: Final = struct.Struct(">Hq20s")
_ASCII: Final = 3  # of IANA's numbers of character sets
_UINT8: Final = 3
_BIG, _RAS = 1, 1


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every message of one moment shares."""

    version: Version
    unix_ns: int
    """Time stamp, nanoseconds of Unix time, 0 to 2^32 s."""

    def around(
        self, kind: str, device: str, content: bytes, metadata: Mapping[str, str] | None = None
    ) -> bytes:
        """The whole message; metadata (printable ASCII) goes along where the version has any."""
        body = content
        if self.version > 1:
            body = _extended(content, metadata or {})
        seconds, rest_ns = divmod(self.unix_ns, 1_000_000_000)
        fraction = (rest_ns << 32) // 1_000_000_000
        return (
            HEADER.pack(
                self.version,
                kind.encode("ascii"),
                device.encode("ascii"),
                seconds,
                fraction,
                len(body),
                crc64(body),
            )
            + body
        )


class Placement:
    """Where the pixels of a picture lie in the world, which is RAS, in millimetres.

    A picture without a spacing counts as one of 1 mm a pixel, and one without a pose lies in the
    plane of the first two axes, its first pixel at the origin.
    """

    def __init__(self, info: PacketInfo) -> None:
        y_mm, x_mm = info.spacing_mm or (1.0, 1.0)
        pose = np.eye(4) if info.pose is None else info.pose
        self._size_hw = info.size_hw
        self._to_world: NDArray[np.float64] = pose @ np.diag([x_mm, y_mm, 1.0, 1.0])

    def world(self, xy: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, 3) from (n, 2) in pixels, where the centre of the first pixel is (0.5, 0.5)."""
        index = np.zeros((len(xy), 4))
        index[:, :2] = xy - 0.5
        index[:, 3] = 1.0
        placed: NDArray[np.float64] = (index @ self._to_world.T)[:, :3]
        return placed

    def image(self, pixels: NDArray[np.uint8]) -> bytes:
        """The content of an IMAGE of (H, W) pixels, with vectors i, j, k and the centre, as the
        inverse of `stages.sources.igtl_image.image_to_ras`; a slice is 1 mm thick."""
        height, width = self._size_hw
        centre = self.world(np.array([[width / 2, height / 2]], np.float32))[0]
        vectors = self._to_world[:3, :3].T.reshape(-1)
        size = (width, height, 1)
        head = (1, 1, _UINT8, _BIG, _RAS, *size, *vectors, *centre, 0, 0, 0, *size)
        return IMAGE.pack(*head) + pixels.tobytes()


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a POINT message."""

    name: str
    """Printable ASCII, 63 characters at most."""
    group: str
    """Likewise, 31."""
    rgba: tuple[int, int, int, int]
    xyz: tuple[float, float, float]
    """World, millimetres."""


def points(found: Sequence[Point], owner: str) -> bytes:
    """The content of a POINT; ``owner`` names the IMAGE. Radii are 0: receivers do not agree on
    whether that number is one or a diameter."""
    return b"".join(
        _POINT.pack(
            ascii_bytes(each.name, 63),
            ascii_bytes(each.group, 31),
            *each.rgba,
            *each.xyz,
            0.0,
            owner.encode("ascii"),
        )
        for each in found
    )


def status(code: int, name: str, text: str) -> bytes:
    """The content of a STATUS; ``name`` has up to 19 characters, printable ASCII as ``text``."""
    return _STATUS.pack(code, 0, ascii_bytes(name, 19)) + ascii_bytes(text, 200) + b"\0"


def ascii_bytes(text: str, most: int) -> bytes:
    """``text``, cut to ``most`` bytes; what is not printable ASCII becomes a question mark."""
    text = text[:most]
    if not (text.isascii() and text.isprintable()):
        text = "".join(each if each.isascii() and each.isprintable() else "?" for each in text)
    return text.encode("ascii")


def _extended(content: bytes, metadata: Mapping[str, str]) -> bytes:
    pairs = [(ascii_bytes(k, 255), ascii_bytes(v, 60_000)) for k, v in metadata.items()]
    head = struct.pack(">H", len(pairs))
    head += b"".join(struct.pack(">HHI", len(key), _ASCII, len(value)) for key, value in pairs)
    tail = b"".join(key + value for key, value in pairs)
    return EXTENDED.pack(EXTENDED.size, len(head), len(tail), 0) + content + head + tail
