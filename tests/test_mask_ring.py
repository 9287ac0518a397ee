"""The ring of masks: which result lies where, and what a header tells of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host_ring import HostMemory, HostView
from result_packets import random_result

from pipeline.audit import residency_guard
from pipeline.fake_cuda import fake_cuda
from stages.errors import ResidencyError
from stages.mask_ring import MaskRing
from stages.records import ResultPacket
from stages.ring_block import RingBlock
from stages.ring_place import FIELD, RingError, RingLayout, RingPlace, read_place
from stages.to_host import ToHost
from stages.window import Window
from stages.wire import decode, encode_result
from stages.wire_envelope import opened

SIZE_HW = (20, 30)


def result(seed: int = 0, size_hw: tuple[int, int] = SIZE_HW) -> ResultPacket:
    return random_result(np.random.default_rng(seed), 4, size_hw)[0]


@pytest.fixture
def ring(tmp_path: Path) -> MaskRing:
    made = MaskRing(lambda layout: HostMemory(tmp_path, layout), 3)
    made.wanted = True
    return made


def memory_of(ring: MaskRing) -> HostMemory:
    assert isinstance(ring.memory, HostMemory)
    return ring.memory


@pytest.mark.parametrize(("slots", "slot_bytes"), [(2, 1), (3, 191), (16, 192), (5, 307_200)])
def test_slots_lie_side_by_side_and_aligned(slots: int, slot_bytes: int) -> None:
    layout = RingLayout(slots, slot_bytes)
    for slot in range(slots):
        assert layout.word_at(slot) % 256 == 0
        assert layout.word_at(slot) + 8 <= layout.data_at(slot)
        end = layout.data_at(slot) + slot_bytes
        assert end <= (layout.word_at(slot + 1) if slot + 1 < slots else layout.nbytes)


def test_nothing_is_copied_before_somebody_asks(tmp_path: Path) -> None:
    ring = MaskRing(lambda layout: HostMemory(tmp_path, layout), 3)
    packet = result()
    ring.prepare(packet)
    assert ring.put(packet) is packet
    assert not memory_of(ring).memory.any()
    ring.wanted = True
    assert ring.put(packet).ring is not None
    assert memory_of(ring).memory.any()


def test_results_go_round_and_generations_rise(ring: MaskRing) -> None:
    places = []
    for seed in range(7):
        packet = ring.put(result(seed))
        place = packet.ring
        assert place is not None
        places.append(place)
        view = HostView(memory_of(ring).tell())
        copied = view.copy(place.slot, place.nbytes)
        assert copied.before == copied.after == place.generation
        assert torch.equal(copied.data.view(place.shape), packet.masks)
    assert [place.generation for place in places] == [1, 2, 3, 4, 5, 6, 7]
    assert [place.slot for place in places] == [1, 2, 0, 1, 2, 0, 1]
    assert len({place.ring for place in places}) == 1
    assert all(p.offset == memory_of(ring).layout.data_at(p.slot) for p in places)


def test_an_overwritten_slot_has_another_generation(ring: MaskRing) -> None:
    first = ring.put(result(0)).ring
    for seed in range(1, 4):
        ring.put(result(seed))
    assert first is not None
    copied = HostView(memory_of(ring).tell()).copy(first.slot, first.nbytes)
    assert copied.before == copied.after == first.generation + 3


def test_a_slot_that_is_being_written_says_so(
    ring: MaskRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between, a reader sees a generation that belongs to no result."""
    ring.put(result(0))
    memory, seen, copy = memory_of(ring), list[int](), torch.Tensor.copy_

    def watched(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(memory.word(2))
        return copy(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "copy_", watched)
    memory.write(2, 2, result(1).masks)
    assert seen == [-2]
    assert memory.word(2) == 2


@pytest.mark.parametrize(("slot", "nbytes"), [(2, 1), (0, 9)])
def test_what_does_not_lie_in_the_ring_is_not_read(slot: int, nbytes: int) -> None:
    layout = RingLayout(2, 8)
    block = RingBlock(torch.zeros(layout.nbytes, dtype=torch.uint8), layout)
    assert block.read(1, 8).before == 0
    with pytest.raises(RingError, match="is not in"):
        block.read(slot, nbytes)


def test_memory_that_is_too_small_for_a_ring_is_refused() -> None:
    layout = RingLayout(2, 8)
    for wrong in (
        torch.zeros(layout.nbytes - 1, dtype=torch.uint8),
        torch.zeros(layout.nbytes),
        torch.zeros(1, layout.nbytes, dtype=torch.uint8),
    ):
        with pytest.raises(RingError, match=f"expected {layout.nbytes} bytes"):
            RingBlock(wrong, layout)


def test_a_larger_picture_is_left_out_and_a_smaller_one_fits(ring: MaskRing) -> None:
    ring.prepare(result())
    assert ring.put(result(1, (40, 60))).ring is None
    assert ring.left_out == 1
    assert ring.generation == 0
    small = ring.put(result(2, (10, 9))).ring
    assert small is not None
    assert small.shape == (4, 10, 2)


def test_one_slot_is_none() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        MaskRing(lambda layout: HostMemory(Path(), layout), 1)


def test_the_hot_path_stays_on_the_device(ring: MaskRing) -> None:
    packet = result()
    ring.prepare(packet)
    with residency_guard():
        assert ring.put(packet).ring is not None
    with pytest.raises(ResidencyError), residency_guard():
        packet.masks.sum().item()


@pytest.mark.timeout(240)
def test_writing_stays_on_a_gpu_and_reading_waits_for_it() -> None:
    layout = RingLayout(2, 64)
    memory = torch.zeros(layout.nbytes, dtype=torch.uint8)
    data = torch.ones(64, dtype=torch.uint8)
    with fake_cuda(RingBlock(memory, layout), data) as (block, masks):
        block.write(1, 5, masks)
    with (
        pytest.raises(ResidencyError),
        fake_cuda(RingBlock(memory, layout)) as (block,),
    ):
        block.read(1, 64)
    with (
        pytest.raises(ResidencyError),
        fake_cuda(RingBlock(memory, layout)) as (block,),
    ):
        block.write(1, 5, data)  # which lies on the host


def test_the_host_packet_tells_which_rows_are_its_objects(ring: MaskRing) -> None:
    packet = ring.put(result(3))
    host = ToHost(torch.device("cpu")).submit(packet, masks=True).host_packet()
    assert host.ring is not None
    assert host.masks is not None
    copied = HostView(memory_of(ring).tell()).copy(host.ring.slot, host.ring.nbytes)
    chosen = copied.data.view(host.ring.shape)[list(host.ring.rows)]
    assert np.array_equal(chosen.numpy(), host.masks)


def test_the_place_goes_along_on_the_wire_and_others_read_past_it(ring: MaskRing) -> None:
    told = result(3)
    window = Window(SIZE_HW, (2, 3), (40, 50))
    info = replace(told.info, size_hw=(40, 50), region=window)
    packet = ring.put(replace(told, info=info))
    host = ToHost(torch.device("cpu")).submit(packet, masks=False).host_packet()
    data = encode_result(host, 5, (), "none")
    place = read_place(opened(memoryview(data))[1])
    assert place == host.ring
    assert place is not None
    assert (place.width, place.origin_yx) == (30, (2, 3))
    assert decode(data).seq == 5  # type: ignore[union-attr]
    without = encode_result(replace(host, ring=None), 5, (), "none")
    assert read_place(opened(memoryview(without))[1]) is None
    assert FIELD.encode() not in without


def good() -> dict[str, Any]:
    return RingPlace("r", 1, 2, 64, (4, 20, 4), 30, (0, 0), (0, 3)).header()


@pytest.mark.parametrize(
    "wrong",
    [
        {"ring": 5},
        {"dtype": "float32"},
        {"slot": -1},
        {"slot": True},
        {"generation": 1.5},
        {"generation": 1 << 63},
        {"offset": None},
        {"shape": [4, 20]},
        {"shape": "abc"},
        {"shape": [1 << 20, 1 << 20, 1 << 20], "width": 1 << 23},
        {"width": 33},
        {"width": 24},
        {"origin_yx": [1]},
        {"rows": [4]},
        {"rows": 0},
        {"rows": [-1]},
    ],
)
def test_a_place_that_cannot_be_is_refused_in_one_line(wrong: dict[str, Any]) -> None:
    assert read_place({FIELD: good()}) is not None
    with pytest.raises(RingError, match="device_masks") as error:
        read_place({FIELD: {**good(), **wrong}})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("header", [{}, None, [], {FIELD: None}])
def test_no_place_is_no_error(header: object) -> None:
    assert read_place(header) is None


@pytest.mark.parametrize("told", [5, "x", [1]])
def test_something_else_in_its_place_is_one(told: object) -> None:
    with pytest.raises(RingError):
        read_place({FIELD: told})


def never(_: RingLayout) -> HostMemory:
    raise AssertionError


def test_a_ring_that_nobody_wants_allocates_when_it_is_prepared_alone() -> None:
    made: Callable[[RingLayout], HostMemory] = never
    assert MaskRing(made, 2).put(result()).ring is None
