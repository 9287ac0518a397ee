"""The way of a frame, written out once: Detect → Encode → Segment → Pack → ToHost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from kpi.events import FrameKind
from kpi.timing import FrameTimes
from stages.as_numpy import AsNumpy
from stages.base import Detector, Segmenter
from stages.copies import CopyCount
from stages.errors import MaskstreamError, StageError
from stages.mask_ring import MaskRing
from stages.pack import Pack
from stages.pack_numpy import PackNumpy
from stages.packets import HostPacket
from stages.records import Encoded, Frame
from stages.to_host import ToHost

RESIDENT_STAGES = ("detect", "encode", "segment", "pack", "to_host")
LEGACY_STAGES = ("detect", "encode", "segment", "as_numpy", "pack")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a result, beside its header, has a consumer on the host."""

    masks: bool
    logits: bool = False


class Pending(Protocol):
    """A result on its way to the host."""

    def ready(self) -> bool:
        """Whether `host_packet` would return without waiting."""

    def host_packet(self) -> HostPacket:
        """The result in numpy; call once, when ready."""


class Chain(Protocol):
    """What the orchestrator does with a frame."""

    detector: Detector
    segmenter: Segmenter

    @property
    def stages(self) -> tuple[str, ...]:
        """The names under which this chain times its stages."""

    @property
    def copies(self) -> tuple[CopyCount, ...]:
        """The named exits of this chain."""

    def warm_up(self, frame: Frame) -> None:
        """Run `frame` through the stages on the device; the result is thrown away."""

    def wait_slot(self, timeout_s: float) -> bool:
        """Wait until another result may be in flight; False when the time is over."""

    def look(self, frame: Frame, times: FrameTimes) -> Encoded:
        """The first half of a frame's way, which depends on no other frame."""

    def finish(self, encoded: Encoded, times: FrameTimes, wanted: Wanted) -> Pending:
        """The second half; `wanted` is what else than the header shall reach the host."""


class _Stages:
    """What both chains begin with."""

    def __init__(self, detector: Detector, segmenter: Segmenter) -> None:
        self.detector = detector
        self.segmenter = segmenter

    def look(self, frame: Frame, times: FrameTimes) -> Encoded:
        with _stage(times, frame, "detect"):
            detections = self.detector.detect(frame)
        with _stage(times, frame, "encode"):
            return self.segmenter.encode(detections)


class ResidentChain(_Stages):
    """Nothing but ToHost's header (and masks, where a consumer is there) reaches the host."""

    stages: tuple[str, ...] = RESIDENT_STAGES

    def __init__(
        self,
        detector: Detector,
        segmenter: Segmenter,
        pack: Pack,
        to_host: ToHost,
        ring: MaskRing | None = None,
    ) -> None:
        """``ring``: where masks are put for other processes on the device."""
        super().__init__(detector, segmenter)
        self._pack = pack
        self._to_host = to_host
        self._ring = ring

    @property
    def copies(self) -> tuple[CopyCount, ...]:
        return self._to_host.copies

    def warm_up(self, frame: Frame) -> None:
        packet = self._pack.pack(self.segmenter.segment(self.detector.detect(frame)))
        if self._ring is not None:
            self._ring.prepare(packet)

    def wait_slot(self, timeout_s: float) -> bool:
        return self._to_host.wait_slot(timeout_s)

    def finish(self, encoded: Encoded, times: FrameTimes, wanted: Wanted) -> Pending:
        frame = encoded.detections.frame
        with _stage(times, frame, "segment"):
            tracks = self.segmenter.segment(encoded)
        with _stage(times, frame, "pack"):
            packet = self._pack.pack(tracks)
            if self._ring is not None:
                packet = self._ring.put(packet)
        with _stage(times, frame, "to_host"):
            return self._to_host.submit(packet, wanted.masks, wanted.logits)


class LegacyChain(_Stages):
    """`as_numpy: true`: masks leave the device right after Segment, the rest is the host's."""

    stages: tuple[str, ...] = LEGACY_STAGES

    def __init__(
        self, detector: Detector, segmenter: Segmenter, as_numpy: AsNumpy, pack: PackNumpy
    ) -> None:
        super().__init__(detector, segmenter)
        self._as_numpy = as_numpy
        self._pack = pack

    @property
    def copies(self) -> tuple[CopyCount, ...]:
        return (self._as_numpy.copies,)

    def warm_up(self, frame: Frame) -> None:
        self.segmenter.segment(self.detector.detect(frame))

    def wait_slot(self, timeout_s: float) -> bool:
        return True

    def finish(self, encoded: Encoded, times: FrameTimes, wanted: Wanted) -> Pending:
        frame = encoded.detections.frame
        with _stage(times, frame, "segment"):
            tracks = self.segmenter.segment(encoded)
        with _stage(times, frame, "as_numpy"):
            on_host = self._as_numpy.exit(tracks)
        with _stage(times, frame, "pack"):
            return _OnHost(self._pack.pack(on_host))


class _OnHost:
    """A legacy result: there already."""

    def __init__(self, packet: HostPacket) -> None:
        self._packet = packet

    def ready(self) -> bool:
        return True

    def host_packet(self) -> HostPacket:
        return self._packet


@contextmanager
def _stage(times: FrameTimes, frame: Frame, name: str) -> Iterator[None]:
    """Time one stage, and name it and the frame in whatever goes wrong there."""
    with times.stage(name):
        try:
            yield
        except (MaskstreamError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise StageError(name, frame.frame_id, reason) from error


def frame_kind(encoded: Encoded) -> FrameKind:
    """What is done for a frame; the host knows it without asking the device."""
    if encoded.detections.computed:
        return "key"
    return "held" if encoded.features is None else "followed"
