"""Sends test pictures and transforms with PyIGTL, in a process of its own (it takes the signals):

    python tests/pyigtl_sender.py server|client PORT KIND COUNT [HEADER_VERSION]

KIND: grey, rgb, grey16, or lps (grey, in that coordinate system; the others are in RAS).
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import pyigtl
from numpy.typing import NDArray

STAMP_S = 1_700_000_000.25
SHAPE = (6, 10)
SPACING_MM = (0.25, 0.5)


def pixels(index: int, kind: str) -> NDArray[Any]:
    """Picture `index`, (H, W) or (H, W, 3)."""
    components = 3 if kind == "rgb" else 1
    row, column, component = np.ogrid[: SHAPE[0], : SHAPE[1], :components]
    values = (31 * index + 7 * row + 3 * column + 50 * component) % 256
    values = values if components == 3 else values[..., 0]
    if kind == "grey16":
        return (values * 257).astype(np.uint16)
    return values.astype(np.uint8)


def matrix() -> NDArray[np.float64]:
    """Image indices (column, row, slice) to world: columns run along y, rows along -x."""
    return np.array(
        [
            [0, -SPACING_MM[0], 0, 10],
            [SPACING_MM[1], 0, 0, 20],
            [0, 0, 1, 30],
            [0, 0, 0, 1],
        ]
    )


def messages(index: int, kind: str, version: int) -> list[Any]:
    image = pyigtl.ImageMessage(
        pixels(index, kind)[np.newaxis],
        ijk_to_world_matrix=matrix(),
        world_coordinate_system="lps" if kind == "lps" else "ras",
        timestamp=STAMP_S + index,
        device_name="Image",
    )
    tool = np.eye(4)
    tool[2, 3] = index
    pose = pyigtl.TransformMessage(tool, timestamp=STAMP_S + index, device_name="Tool")
    for message in (image, pose):
        message.header_version = version
        message.metadata = {"FrameNumber": str(index), "Status": "OK"} if version > 1 else {}
    return [image, pose]


def main() -> None:
    role, port, kind, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    version = int(sys.argv[5]) if len(sys.argv) > 5 else 1
    if role == "server":
        peer = pyigtl.OpenIGTLinkServer(port=port, local_server=True)
    else:
        peer = pyigtl.OpenIGTLinkClient("127.0.0.1", port)
    while not peer.is_connected():
        time.sleep(0.01)
    for index in range(count):
        for message in messages(index, kind, version):
            peer.send_message(message, wait=True)
        time.sleep(0.02)
    time.sleep(60.0)


if __name__ == "__main__":
    main()
