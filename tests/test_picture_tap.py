"""Pictures for viewers: only where somebody wants them, never faster than asked."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from result_packets import wait_until

from kpi.emit import current_logger
from kpi.events import ErrorRaised, Event
from pipeline.audit import residency_guard
from stages.packets import PacketInfo
from stages.picture_tap import PictureTap
from stages.pictures_config import PicturesConfig
from stages.records import Frame


def frame(frame_id: int = 0) -> Frame:
    y, x = np.mgrid[:24, :40]
    rgb = torch.from_numpy(np.stack((y * 10, x * 6, y * 0 + 128)).astype(np.uint8))
    return Frame(rgb, "cam1", 1, frame_id, 5, 6, origin_yx=(2, 4), full_hw=(30, 50))


class Viewer:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.wanted = True
        self.hold = threading.Event()
        self.hold.set()
        self.seen: list[tuple[PacketInfo, bytes]] = []

    def tap(self, publish: Callable[[PacketInfo, bytes], None] | None = None) -> PictureTap:
        config = PicturesConfig(fps=60.0, quality=95)
        return PictureTap(config, "tracked", lambda: self.wanted, publish or self.take)

    def take(self, info: PacketInfo, jpeg: bytes) -> None:
        self.hold.wait(10)
        self.seen.append((info, jpeg))


def test_a_picture_is_the_frame() -> None:
    viewer = Viewer()
    tap, shown_frame = viewer.tap(), frame(7)
    with residency_guard("raise"):
        tap.offer(shown_frame)
    wait_until(lambda: len(viewer.seen) == 1, lambda: None)
    tap.close()
    info, jpeg = viewer.seen[0]
    assert (info.source_id, info.epoch, info.frame_id) == ("cam1", 1, 7)
    assert (info.size_hw, info.window.origin_yx) == ((30, 50), (2, 4))
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert picture.format == "JPEG"
        shown = np.asarray(picture).astype(int)
    difference = np.abs(shown - frame().rgb.permute(1, 2, 0).numpy())
    assert difference.mean() < 4
    assert (tap.copies.direction, tap.copies.where, tap.copies.copies) == ("d2h", "picture", 1)
    assert tap.copies.copied_bytes == 3 * 24 * 40


def test_without_a_viewer_nothing_is_copied() -> None:
    viewer = Viewer()
    viewer.wanted = False
    tap = viewer.tap()
    for n in range(5):
        tap.offer(frame(n))
    assert tap.copies.copies == 0
    assert "pictures" not in {thread.name for thread in threading.enumerate()}
    tap.close()
    assert viewer.seen == []


def test_one_at_a_time_and_not_faster_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("stages.picture_tap.time.monotonic", lambda: now[0])
    viewer = Viewer()
    tap = viewer.tap()
    viewer.hold.clear()
    tap.offer(frame(0))
    now[0] += 1.0
    tap.offer(frame(1))  # the first is still on its way
    assert tap.copies.copies == 1
    viewer.hold.set()
    assert tap._idle.wait(10)
    tap.offer(frame(2))
    assert tap._idle.wait(10)
    now[0] += 0.5 / 60
    tap.offer(frame(3))  # too soon
    assert tap.copies.copies == 2
    now[0] += 1 / 60
    tap.offer(frame(4))
    assert tap._idle.wait(10)
    monkeypatch.undo()
    tap.close()
    assert [info.frame_id for info, _ in viewer.seen] == [0, 2, 4]


def test_what_fails_is_told_and_the_next_picture_is_not_lost() -> None:
    events: list[Event] = []

    class Logger:
        def emit(self, event: Event) -> None:
            events.append(event)

    def fail(info: PacketInfo, jpeg: bytes) -> None:
        raise OSError("no room")

    tap = Viewer().tap(fail)
    token = current_logger.set(Logger())
    try:
        for n in (1, 2):
            wait_until(
                lambda n=n: len(events) == n,  # type: ignore[misc]
                lambda: tap.offer(frame()),
            )
    finally:
        current_logger.reset(token)
        tap.close()
    assert events[0] == ErrorRaised("pictures", "OSError: no room")
