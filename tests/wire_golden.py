"""Messages of version 1 with fixed content, and the files in `tests/golden/` that hold them.

python -m tests.wire_golden    # writes the files anew: only for a new version of the format
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.packets import HostPacket, PacketInfo
from stages.window import Window
from stages.wire import encode_kpi, encode_picture, encode_result, encode_state
from stages.wire_frames import FrameMessage, encode_frame
from stages.wire_masks import Encoding

FOLDER = Path(__file__).parent / "golden"
NAMES = ("vessel", "needle")
SIZE = (24, 37)
WINDOW = Window((20, 29), (3, 5), SIZE)
CLOCKS = {"published_ns": 1_010_000_000, "published_unix_ns": 1 << 60}
RUN = 1 << 52
JPEG = bytes.fromhex("ffd8ffd9")
"""The shortest that begins and ends as a JPEG does; nobody here opens it."""


def masks() -> NDArray[np.bool_]:
    """bool (4, H, W) of `SIZE`: a disc, a striped corner at the window's edge, one that fills the
    window, an empty one."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = (y - 11) ** 2 + (x - 17) ** 2 < 40
    stripes = (y > 14) & (x > 24) & ((x + y) % 3 > 0)
    all_ = np.ones(SIZE, np.bool_)
    found = np.stack((disc, stripes, all_, np.zeros(SIZE, np.bool_)))
    inside = np.zeros(SIZE, np.bool_)
    WINDOW.cut(inside)[...] = True
    return found & inside


def logits() -> NDArray[np.float32]:
    """float32 (4, 6, 8), with what is not finite, too."""
    wave = np.arange(4 * 6 * 8, dtype=np.float32).reshape(4, 6, 8)
    values = np.sin(wave * np.float32(0.7)).astype(np.float32) * np.float32(8)
    values[3, 2, 3], values[3, 4, 4], values[3, 0, 7] = np.inf, np.nan, -np.inf
    # sin differs in its last bits from one machine to the next: what is kept, all have alike
    return np.round(values * 64).astype(np.float32) / np.float32(64)


def packet() -> HostPacket:
    """Four objects in a region of the picture."""
    info = PacketInfo(
        source_id="cam1",
        epoch=2,
        frame_id=17,
        captured_ns=1_000_000_000,
        grabbed_ns=1_002_000_000,
        captured_unix_ns=(1 << 60) - 10_000_000,
        size_hw=SIZE,
        spacing_mm=(0.5, 0.25),
        pose=np.arange(16, dtype=np.float64).reshape(4, 4) / 8,
        identity="tracked",
        region=WINDOW,
    )
    found = masks()
    boxes = np.array([_box(mask) for mask in found], np.int32)
    return HostPacket(
        info=info,
        object_ids=np.array([4, 1 << 40, 6, 7]),
        class_ids=np.array([0, 1, -1, 1], np.int32),
        scores=np.array([0.9, 0.5, 1.0, np.nan], np.float32),
        presence=np.array([8.5, -2.25, 0.0, -1024], np.float32),
        quality=np.array([0.75, 0.5, 0.1, 0.0], np.float32),
        mask_age_frames=np.array([0, 1, 2, 3], np.int32),
        mask_boxes_xyxy=boxes,
        area_px=found.sum((1, 2)).astype(np.int32),
        centroids_xy=np.array([[17.5, 11.5], [30.5, 19.0], [19.5, 13.0], [0, 0]], np.float32),
        masks=np.packbits(np.stack([WINDOW.cut(mask) for mask in found]), axis=-1),
        logits=logits(),
    )


def messages() -> dict[str, bytes]:
    """By the name of their file."""
    encodings: tuple[Encoding, ...] = ("bits", "rle", "logits", "none")
    results = {
        f"result_{encoding}": encode_result(
            packet(), 41, NAMES, encoding, threshold=0.5, run=RUN, **CLOCKS
        )
        for encoding in encodings
    }
    old = dataclasses.replace(packet(), info=dataclasses.replace(packet().info, epoch=1))
    unix = CLOCKS["published_unix_ns"]
    frame = FrameMessage(
        session=1234, seq=17, pixels=np.arange(18, dtype=np.uint8).reshape(2, 3, 3), captured_ns=5
    )
    return {
        **results,
        "result_stale": encode_result(old, 42, NAMES, "none", stale=True, run=RUN, **CLOCKS),
        "state": encode_state("cam1", 2, "stale", 41, NAMES, run=RUN, published_unix_ns=unix),
        "kpi": encode_kpi(
            "cam1", "source_state", b'{"ts":1.5,"event":"source_state"}', published_unix_ns=unix
        ),
        "picture": encode_picture(packet().info, JPEG, **CLOCKS),
        "frame": encode_frame("cam1", frame),
    }


messages_once = functools.cache(messages)


def _box(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(exist_ok=True)
    for name, message in messages().items():
        (FOLDER / f"{name}.bin").write_bytes(message)


if __name__ == "__main__":
    main()
