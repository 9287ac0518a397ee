"""ToHost: what arrives is what was on the device, in bounded memory, and counted."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from result_packets import random_result

from stages.packets import HostPacket
from stages.records import ResultPacket
from stages.to_host import HEADER_BYTES, PendingPacket, ToHost

CPU = torch.device("cpu")
COLUMNS = (
    *("object_ids", "class_ids", "scores", "presence", "quality", "mask_age_frames"),
    *("mask_boxes_xyxy", "area_px", "centroids_xy"),
)


def assert_equal(got: HostPacket, sent: ResultPacket, valid: NDArray[Any]) -> None:
    for name in COLUMNS:
        want = getattr(sent, name).cpu().numpy()[valid]
        have = getattr(got, name)
        assert have.dtype == want.dtype, name
        assert np.array_equal(have, want), name


def arrived(pending: PendingPacket) -> HostPacket:
    deadline = time.monotonic() + 10
    while not pending.ready():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return pending.host_packet()


def check_many(to_host: ToHost, device: str) -> None:
    rng = np.random.default_rng(3)
    for turn in range(12):
        slots, masks, logits = int(rng.integers(1, 9)), turn % 2 == 0, turn % 3 == 0
        sent, valid = random_result(rng, slots, (7, 19 + turn), device, logits=True)
        got = arrived(to_host.submit(sent, masks=masks, logits=logits))
        assert got.info is sent.info
        assert_equal(got, sent, valid)
        assert (got.masks is not None, got.logits is not None) == (masks, logits)
        if got.masks is not None:
            assert np.array_equal(got.masks, sent.masks.cpu().numpy()[valid])
        if got.logits is not None and sent.logits is not None:
            assert np.array_equal(got.logits, sent.logits.cpu().numpy()[valid])


def test_valid_rows_arrive_unchanged() -> None:
    check_many(ToHost(CPU), "cpu")


def test_it_works_on_the_inference_tensors_of_the_frame_loop() -> None:
    with torch.inference_mode():
        sent, valid = random_result(np.random.default_rng(0), 4, (6, 6))
        pending = ToHost(CPU).submit(sent, masks=True)
    assert_equal(pending.host_packet(), sent, valid)


def test_the_header_of_64_objects_fits_4_kib_and_every_copy_is_counted() -> None:
    to_host = ToHost(CPU)
    sent, _ = random_result(np.random.default_rng(0), 64, (10, 20), logits=True)
    header, egress = to_host.copies
    assert (header.direction, header.where) == ("d2h", "header")
    assert (egress.direction, egress.where) == ("d2h", "egress")

    to_host.submit(sent, masks=False)
    assert header.copies == 1
    assert 64 * 50 < header.copied_bytes <= HEADER_BYTES == 4096
    assert egress.copies == 0

    to_host.submit(sent, masks=True, logits=True)
    assert (header.copies, egress.copies) == (2, 2)
    assert egress.copied_bytes == 64 * 10 * 3 + 64 * 8 * 8 * 4


def test_more_objects_than_the_header_was_made_for_still_fit() -> None:
    sent, valid = random_result(np.random.default_rng(0), 200, (4, 4))
    assert_equal(ToHost(CPU).submit(sent, masks=False).host_packet(), sent, valid)


def test_packets_in_flight_do_not_disturb_each_other_or_what_was_handed_out() -> None:
    to_host, rng = ToHost(CPU, slots=2), np.random.default_rng(1)
    sent = [random_result(rng, 5, (9, 9)) for _ in range(3)]
    first, second = (to_host.submit(packet, masks=True) for packet, _ in sent[:2])
    got = first.host_packet()
    third = to_host.submit(sent[2][0], masks=True)  # writes where `first` was
    for host, (packet, valid) in zip(
        (got, second.host_packet(), third.host_packet()), sent, strict=True
    ):
        assert_equal(host, packet, valid)
        assert np.array_equal(host.masks, packet.masks.numpy()[valid])


def test_wait_slot_waits_until_egress_released_one() -> None:
    to_host = ToHost(CPU, slots=2)
    sent, _ = random_result(np.random.default_rng(0), 3, (4, 4))
    pending = [to_host.submit(sent, masks=False) for _ in range(2)]
    assert not to_host.wait_slot(0.01)
    with pytest.raises(RuntimeError, match="no slot is free"):
        to_host.submit(sent, masks=False)

    release = threading.Timer(0.05, pending[0].host_packet)
    release.start()
    assert to_host.wait_slot(10.0)
    assert to_host.wait_slot(0.0)  # taken already: asking again does not take the next one
    to_host.submit(sent, masks=False)
    release.join()
    assert not to_host.wait_slot(0.0)
    pending[1].host_packet()
    assert to_host.wait_slot(0.0)


def test_a_failed_submit_keeps_its_slot() -> None:
    to_host = ToHost(CPU, slots=1)
    sent, valid = random_result(np.random.default_rng(0), 3, (4, 4))
    assert to_host.wait_slot(0.0)
    with pytest.raises(ValueError, match="carries none"):
        to_host.submit(sent, masks=False, logits=True)
    assert to_host.wait_slot(0.0)
    assert_equal(to_host.submit(sent, masks=False).host_packet(), sent, valid)


def test_a_packet_is_taken_once() -> None:
    to_host = ToHost(CPU, slots=1)
    pending = to_host.submit(random_result(np.random.default_rng(0), 3, (4, 4))[0], masks=False)
    pending.host_packet()
    with pytest.raises(RuntimeError, match="already taken"):
        pending.host_packet()
    assert to_host.wait_slot(0.0)
    assert not ToHost(CPU, slots=1)._free.empty()
    with pytest.raises(ValueError, match="slots"):
        ToHost(CPU, slots=0)


def test_memory_is_reused_and_made_anew_only_for_a_new_frame_size() -> None:
    to_host, rng = ToHost(CPU, slots=1), np.random.default_rng(0)

    def places(size_hw: tuple[int, int]) -> tuple[int, int]:
        assert to_host.wait_slot(0.0)
        slot = to_host._held
        to_host.submit(random_result(rng, 4, size_hw)[0], masks=True).host_packet()
        assert slot is not None
        assert slot.masks is not None
        return slot.header.data_ptr(), slot.masks.data_ptr()

    first = places((30, 30))
    assert all(places((30, 30)) == first for _ in range(20))
    places((60, 90))
    assert to_host.wait_slot(0.0)
    assert to_host._held is not None
    assert to_host._held.masks is not None
    assert to_host._held.masks.shape == (4, 60, 12)


@pytest.mark.gpu
def test_on_a_gpu_packets_arrive_though_their_tensors_were_dropped() -> None:
    check_many(ToHost(torch.device("cuda")), "cuda")
    to_host, rng = ToHost(torch.device("cuda")), np.random.default_rng(4)
    for _ in range(50):
        sent, valid = random_result(rng, 16, (480, 640), "cuda")
        want = sent.masks.cpu().numpy()[valid]
        assert to_host.wait_slot(10.0)
        pending = to_host.submit(sent, masks=True)
        size = sent.masks.shape
        del sent
        # Takes the dropped memory on the compute stream, if anyone let it go too early.
        torch.full(size, 255, dtype=torch.uint8, device="cuda")
        assert np.array_equal(arrived(pending).masks, want)


def test_what_the_segmenter_tells_its_host_side_comes_with_the_header() -> None:
    to_host = ToHost(CPU)
    sent, valid = random_result(np.random.default_rng(1), 5, (6, 9))
    told = torch.tensor([-3, 2**40, 7])
    with_feedback = to_host.submit(replace(sent, feedback=told), masks=False).host_packet()
    without = to_host.submit(sent, masks=False).host_packet()
    assert_equal(with_feedback, sent, valid)
    assert_equal(without, sent, valid)
    assert without.feedback is None
    assert with_feedback.feedback is not None
    assert with_feedback.feedback.tolist() == told.tolist()
    to_host.submit(replace(sent, feedback=told + 1), masks=False)
    assert with_feedback.feedback.tolist() == told.tolist()
