"""The contract of each kind of stage. A stage is passive: one verb, no threads, no timing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:  # records imports torch, which checking a configuration can do without
    import torch

    from stages.box_inbox import BoxesAsked, BoxesEnd
    from stages.choices import Choices
    from stages.key_frames import Switch
    from stages.phrasing import PhraseOutcome
    from stages.prompting import Prompt, Ticket
    from stages.records import Detections, Encoded, Frame, HostPacket, Identity, Tracks, Truth
    from stages.sources.troubles import Troubles
    from stages.ycbcr import DevicePlanes, YCbCr

Buffer = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Gives a writable C-contiguous uint8 array of the asked shape, (H, W) grey, (H, W, 3) RGB or what
a layout of Y'CbCr needs, valid until the next `read` returns; in a run it lies in the pinned upload
ring."""


class Section(BaseModel):
    """Base of every part of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture, as a source delivers it."""

    pixels: NDArray[np.uint8] | DevicePlanes
    """The array that `Buffer` gave, filled: (H, W) grey, (H, W, 3) RGB, or as `ycbcr` says; or what
    a decoder left on the device (`nv12`)."""
    epoch: int
    captured_ns: int
    """Monotonic clock, nanoseconds."""
    captured_unix_ns: int | None = None
    spacing_mm: tuple[float, float] | None = None
    """(y, x) millimetres per pixel."""
    pose: NDArray[np.float64] | None = None
    """(4, 4) image-to-world of the full picture."""
    origin_yx: tuple[int, int] = (0, 0)
    """Where `pixels` begins in the source's full picture: a region of interest."""
    full_hw: tuple[int, int] | None = None
    """Size of the full picture; None: that of `pixels`."""
    boxes: NDArray[np.float32] | None = None
    """(n, 6), what the sender found in it, see `stages.found_boxes`; None: it did not look."""
    ycbcr: YCbCr | None = None
    """How `pixels` is to be read, where it is neither grey nor RGB; converted on the device."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Of what is shown."""
        if self.ycbcr is not None:
            return self.ycbcr.window.size_hw
        return self.pixels.shape[0], self.pixels.shape[1]


class Source(Protocol):
    """Where pictures come from. Used by one thread, but `close` may come from another."""

    source_id: str

    @property
    def size_hw(self) -> tuple[int, int] | None:
        """Of the first picture's pixels (its region, where one is configured), known once the
        source is open; a live one may be there only later: None, or what is expected."""

    def read(self, buffer: Buffer) -> Picture | None:
        """The next picture, waiting for its time where the source has a rate; None at the end.

        Raises `SourceError`. The n-th picture read (from 0) becomes frame_id n.
        """

    def close(self) -> None:
        """Release everything; a `read` waiting in another thread returns None within 1 s."""


@runtime_checkable
class SelfTelling(Protocol):
    """A source that tells its states (`source_state`) itself for as long as it is read; who reads
    it tells how that ended."""

    tells_states: bool


@runtime_checkable
class TroubledSource(Protocol):
    """A source that counts what came and did not become a picture, and what else went wrong."""

    troubles: Troubles
    """Its kinds are among `kpi.metrics.SOURCE_TROUBLES`."""


@runtime_checkable
class DeviceSource(Protocol):
    """A source that may decode on the run's device."""

    def decode_on(self, device: torch.device) -> None:
        """Told before the first `read`, by whoever takes pictures that are on the device.

        Raises `ConfigError` where it is configured to decode there and cannot."""


@runtime_checkable
class DescribedSource(Protocol):
    """A source that knows how its pictures are stored or sent."""

    @property
    def description(self) -> str:
        """A few words for a person; no names of people, no credentials."""


@runtime_checkable
class ListeningSource(Protocol):
    """A source that others call."""

    endpoint: str
    """What it bound, with the port in numbers."""


@runtime_checkable
class TruthSource(Protocol):
    """A source that knows what is in its pictures."""

    def truth(self, frame_id: int) -> Truth:
        """The truth of the frame that was read as `frame_id`; callable from any thread."""


class Detector(Protocol):
    """Frame to boxes, on the frame's device."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """By class id."""

    def detect(self, frame: Frame) -> Detections:
        """K rows, best first. No host copy, no host wait."""


class PhraseBook(Protocol):
    """What is looked for by phrase; every method may be called from any thread."""

    @property
    def now(self) -> tuple[str, ...]:
        """What is looked for."""

    def class_of(self, phrase: str) -> int | None:
        """Class id of what is looked for; None for what is not."""

    def add(self, phrase: str) -> Future[PhraseOutcome]:
        """Look for it from the next frame on."""

    def remove(self, phrase: str) -> Future[PhraseOutcome]:
        """Look for it no longer: its objects end."""


@runtime_checkable
class PhraseDetector(Protocol):
    """A detector that looks for what it is told in words. Its `class_names` change as it is told
    other phrases, their number does not."""

    @property
    def phrases(self) -> PhraseBook:
        """What it looks for."""


@runtime_checkable
class SwitchedDetector(Protocol):
    """A detector that can be told to look for nothing for a while."""

    switch: Switch
    """Off: its rows are padding, as between key frames."""


@runtime_checkable
class ToldDetector(Protocol):
    """A detector that others tell what there is in a frame."""

    def tell(self, asked: BoxesAsked) -> Future[BoxesEnd]:
        """Boxes for a frame to come, from any thread, without waiting; every one ends, those that
        wait when the run ends excepted."""


class Segmenter(Protocol):
    """Boxes to masks, on the frame's device."""

    identity: Identity
    prompt_names: tuple[str, ...]
    """Names of the configured prompts; their class ids follow those of the detector."""

    def encode(self, detections: Detections) -> Encoded:
        """What depends on the picture alone; may run in another thread, a frame ahead."""

    def segment(self, given: Encoded | Detections) -> Tracks:
        """N slots; Detections are encoded first. No host copy, no host wait."""

    def heed(self, packet: HostPacket) -> None:
        """Learn from the header of an earlier frame; called by the egress thread."""

    def close(self) -> None:
        """No header comes any more: answer whoever still waits; called by the egress thread."""


@runtime_checkable
class ChoosingSegmenter(Protocol):
    """A segmenter whose host side decides by headers and prompts, as they happen to come."""

    choices: Choices


@runtime_checkable
class Weighted(Protocol):
    """A stage whose results depend on weights."""

    def weights_sha256(self) -> str:
        """Of all of them, by name and value; reads them from the device."""


@runtime_checkable
class PromptedSegmenter(Protocol):
    """A segmenter that people may tell what to follow while it runs."""

    def prompt(self, prompt: Prompt) -> Ticket:
        """Ask for something from any thread, without waiting; every ticket ends."""

    def expire(self) -> None:
        """End the tickets whose time is over, also while no frame comes; from any thread."""


@runtime_checkable
class LogitsSink(Protocol):
    """A sink that may want the low-resolution logits as well, or instead of masks."""

    wants_logits: bool
    """As `Sink.wants_masks`; only where the configuration has packets carry logits."""


class Sink(Protocol):
    """A consumer of finished packets, called by the egress thread only."""

    wants_masks: bool
    """Whether a packet submitted now should carry masks (a subscriber is there, say).
    Read by the frame loop's thread, so a plain attribute."""

    def write(self, packet: HostPacket) -> None:
        """Take one packet; must not block."""

    def poll(self) -> None:
        """Look after the outside (new subscribers, say); called every few milliseconds."""

    def close(self) -> None:
        """Flush and release; no `write` follows."""
