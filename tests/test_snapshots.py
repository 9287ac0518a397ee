"""Snapshots: one frame when asked, whole files or none, and nobody waits for them."""

from __future__ import annotations

import json
import stat
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from result_packets import random_packet

from pipeline.control import snapshots
from pipeline.control.snapshots import Snapshots, Taken
from stages.packets import HostPacket
from stages.records import Frame

SIZE_HW = (48, 64)


def frame(frame_id: int) -> Frame:
    return Frame(torch.full((3, *SIZE_HW), 90, dtype=torch.uint8), "cam1", 0, frame_id, 0, 0)


def packet(frame_id: int, with_masks: bool = True) -> HostPacket:
    found, _ = random_packet(
        np.random.default_rng(1), 2, SIZE_HW, frame_id=frame_id, with_masks=with_masks
    )
    return replace(found, class_ids=np.zeros(2, np.int32))


@pytest.fixture
def taking(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path, ("vessel",))


def asked(of: Snapshots) -> Future[Taken]:
    future = of.ask()
    assert future is not None
    return future


def test_nothing_is_kept_unless_asked(taking: Snapshots, tmp_path: Path) -> None:
    taking.offer(frame(0))
    assert not taking.wants_masks
    taking.write(packet(0))
    assert not any(tmp_path.iterdir())


def test_what_was_taken_back_is_not_taken_and_another_may_be(
    taking: Snapshots, tmp_path: Path
) -> None:
    first = asked(taking)
    taking.offer(frame(0))
    assert first.cancel()
    taking.write(packet(0))
    assert not any(tmp_path.iterdir())
    second = asked(taking)
    taking.offer(frame(1))
    taking.write(packet(1))
    assert second.result(10).frame_id == 1


def test_the_next_frame_becomes_a_picture_and_its_state(taking: Snapshots, tmp_path: Path) -> None:
    told = asked(taking)
    taking.write(packet(6))
    taking.offer(frame(7))
    assert taking.wants_masks
    taking.offer(frame(8))
    assert not taking.wants_masks, "of one frame only"
    taking.write(packet(6))
    taking.write(packet(7))
    taken = told.result(10)
    assert (taken.frame_id, taken.epoch) == (7, 0)
    picture, state = (tmp_path / name for name in taken.files)
    assert Image.open(picture).size == (64, 48)
    assert json.loads(state.read_text())["frame_id"] == 7
    found = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert found == ["frame_00000007.json", "frame_00000007.png"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in (picture, state)} == {0o600}


@pytest.mark.parametrize("why", ["dropped", "without masks"])
def test_a_frame_that_did_not_come_gives_way_to_another(taking: Snapshots, why: str) -> None:
    told = asked(taking)
    taking.offer(frame(3))
    taking.write(packet(4) if why == "dropped" else packet(3, with_masks=False))
    assert not told.done()
    taking.offer(frame(5))
    taking.write(packet(5))
    assert told.result(10).frame_id == 5


def test_one_at_a_time_and_not_without_end(
    taking: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_MOST", 2)
    for number in range(2):
        told = asked(taking)
        assert taking.ask() is None
        taking.offer(frame(number))
        taking.write(packet(number))
        told.result(10)
    assert taking.ask() is None


def test_what_cannot_be_written_costs_the_snapshot_alone(taking: Snapshots, tmp_path: Path) -> None:
    (tmp_path / "snapshots").write_text("in the way")
    told = asked(taking)
    taking.offer(frame(0))
    taking.write(packet(0))
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        told.result(10)
    assert taking.ask() is not None
