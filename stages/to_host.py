"""ToHost: the one way from the device to the host in the resident chain.

Tested on the CPU; its CUDA half (stream, events, pinned memory) has not yet run on a GPU.

Why nothing is freed or rewritten too early
    The copies run on a stream of their own, which first waits for the compute stream. The
    caching allocator knows nothing of that second stream: a packet's tensor that Python drops
    goes back to the compute stream at once, and the next frame's kernels may write into it while
    it is still being copied. So a `PendingPacket` holds its packet (and the joined header) until
    the event behind the last copy has passed; `record_stream` is then not needed. A slot's pinned
    buffers are handed out again only after that event and after the host has taken its own copy.
    What this asks of the stages before: the tensors of a packet that was handed on are never
    written again in place.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from stages.copies import CopyCount
from stages.exits import named_exit
from stages.packets import HostPacket, in_full_picture
from stages.records import ResultPacket

HEADER_BYTES = 4096
"""Pinned for each slot at once; enough for 71 objects at 57 bytes a row."""

_COLUMNS: tuple[tuple[str, DTypeLike, tuple[int, ...]], ...] = (
    # Widest first, so that every column starts aligned.
    ("object_ids", np.int64, ()),
    ("class_ids", np.int32, ()),
    ("scores", np.float32, ()),
    ("presence", np.float32, ()),
    ("quality", np.float32, ()),
    ("mask_age_frames", np.int32, ()),
    ("mask_boxes_xyxy", np.int32, (4,)),
    ("area_px", np.int32, ()),
    ("centroids_xy", np.float32, (2,)),
    ("valid", np.bool_, ()),
)


@dataclass(slots=True, eq=False)
class _Slot:
    """Host memory of one result in flight, pinned on CUDA; kept for the next result."""

    header: Tensor
    done: torch.cuda.Event | None
    masks: Tensor | None = None
    logits: Tensor | None = None


class ToHost:
    """Copies results to the host without making anyone wait for the device.

    `wait_slot` and `submit` belong to the frame loop's thread, the `PendingPacket` to egress.
    """

    def __init__(self, device: torch.device, slots: int = 3) -> None:
        """`slots`: results that may be in flight, at least 1."""
        if slots < 1:
            raise ValueError(f"slots: got {slots}, expected at least 1")
        self._pin = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._pin else None
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        self._held: _Slot | None = None
        self._header = CopyCount("d2h", "header")
        self._egress = CopyCount("d2h", "egress")
        for _ in range(slots):
            header = torch.empty(HEADER_BYTES, dtype=torch.uint8, pin_memory=self._pin)
            self._free.put(_Slot(header, torch.cuda.Event() if self._pin else None))

    @property
    def copies(self) -> tuple[CopyCount, ...]:
        return self._header, self._egress

    def wait_slot(self, timeout_s: float) -> bool:
        """Take a slot for the next `submit`, waiting for egress to release one.

        False when the time is over. A slot taken stays taken until a `submit` uses it, so asking
        again costs nothing. The wait is for another thread, never for the device.
        """
        if self._held is None:
            try:
                self._held = self._free.get(timeout=timeout_s)
            except queue.Empty:
                return False
        return True

    def submit(self, packet: ResultPacket, masks: bool, logits: bool = False) -> PendingPacket:
        """Start copying `packet`'s header, and its masks and logits where asked for.

        On CUDA the copies come after all work queued so far on the current stream. A call that
        raises leaves the slot taken, for the next frame. Raises `ValueError` where logits are
        asked for and the packet has none, `RuntimeError` where no slot is free.
        """
        if logits and packet.logits is None:
            raise ValueError("logits were asked for, but this packet carries none")
        if not self.wait_slot(0.0) or self._held is None:
            raise RuntimeError("no slot is free: call wait_slot before submit")
        slot = self._held
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):  # changes nothing where the stream is None
            joined = self._copy(slot, packet, masks, logits)
            if slot.done is not None:
                slot.done.record()
        self._held = None
        return PendingPacket(packet, joined, slot, self._free, masks, logits)

    def _copy(self, slot: _Slot, packet: ResultPacket, masks: bool, logits: bool) -> Tensor:
        columns = [_bytes_of(getattr(packet, name)) for name, _, _ in _COLUMNS]
        if packet.feedback is not None:
            columns.insert(0, _bytes_of(packet.feedback))
        joined = torch.cat(columns)
        with named_exit("header"):
            if slot.header.numel() < joined.numel():
                slot.header = self._fit(None, joined)
            slot.header[: joined.numel()].copy_(joined, non_blocking=True)
        self._header.add(joined.numel())
        if masks:
            slot.masks = self._bulk(slot.masks, packet.masks)
        if logits and packet.logits is not None:
            slot.logits = self._bulk(slot.logits, packet.logits)
        return joined

    def _bulk(self, buffer: Tensor | None, source: Tensor) -> Tensor:
        with named_exit("egress"):
            buffer = self._fit(buffer, source)
            buffer.copy_(source, non_blocking=True)
        self._egress.add(source.numel() * source.element_size())
        return buffer

    def _fit(self, buffer: Tensor | None, source: Tensor) -> Tensor:
        """`buffer` where it has `source`'s shape already; new memory at the first packet and when
        the frame changes its size."""
        if buffer is not None and buffer.shape == source.shape:
            return buffer
        return torch.empty(source.shape, dtype=source.dtype, pin_memory=self._pin)


class PendingPacket:
    """A result on its way to the host."""

    def __init__(
        self,
        packet: ResultPacket,
        joined: Tensor,
        slot: _Slot,
        free: queue.SimpleQueue[_Slot],
        masks: bool,
        logits: bool,
    ) -> None:
        self._info = packet.info
        self._rows = packet.valid.shape[0]
        self._ring = packet.ring
        self._feedback = 0 if packet.feedback is None else packet.feedback.shape[0]
        self._alive: tuple[ResultPacket, Tensor] | None = (packet, joined)
        self._slot: _Slot | None = slot
        self._free = free
        self._masks, self._logits = masks, logits

    def ready(self) -> bool:
        """Whether the copies are done; asks, never waits. Always true on the CPU."""
        slot = self._slot
        return slot is None or slot.done is None or slot.done.query()

    def host_packet(self) -> HostPacket:
        """The result cut to its valid rows, in arrays of its own; then the slot is free again.

        Call once, when `ready`; raises `RuntimeError` otherwise.
        """
        slot = self._slot
        if slot is None or not self.ready():
            raise RuntimeError("host_packet: already taken" if slot is None else "not ready")
        try:
            return self._read(slot)
        finally:
            self._alive = self._slot = None
            self._free.put(slot)

    def _read(self, slot: _Slot) -> HostPacket:
        header = slot.header.numpy()
        feedback = np.frombuffer(header, np.int64, self._feedback).copy()
        columns = _split(header[feedback.nbytes :], self._rows)
        keep = np.flatnonzero(columns.pop("valid"))
        fields = {name: column[keep] for name, column in columns.items()}
        window = self._info.window
        fields |= in_full_picture(window, fields["mask_boxes_xyxy"], fields["centroids_xy"])
        masks = slot.masks.numpy()[keep] if self._masks and slot.masks is not None else None
        logits = slot.logits.numpy()[keep] if self._logits and slot.logits is not None else None
        told = feedback if self._feedback else None
        ring = None if self._ring is None else self._ring.with_rows(keep.tolist())
        return HostPacket(
            self._info, **fields, masks=masks, logits=logits, feedback=told, ring=ring, names={}
        )


def _bytes_of(column: Tensor) -> Tensor:
    """uint8 (bytes,): the same memory, on the same device."""
    return column.contiguous().view(torch.uint8).reshape(-1)


def _split(header: NDArray[np.uint8], rows: int) -> dict[str, NDArray[Any]]:
    """The columns of a joined header, as views."""
    columns: dict[str, NDArray[Any]] = {}
    start = 0
    for name, dtype, tail in _COLUMNS:
        count = rows * int(np.prod(tail, dtype=np.int64))
        columns[name] = np.frombuffer(header, dtype, count, start).reshape(rows, *tail)
        start += count * np.dtype(dtype).itemsize
    return columns
