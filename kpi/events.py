"""The typed events of a run; what a GPU tells is in `kpi/device_events.py`, what concerns those who
take its results in `kpi/edge_events.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from kpi.event import Event as Event

DropReason = Literal["mailbox", "stale", "oom", "stopped"]
"""The closed list of why a grabbed frame was not published. `mailbox`: a newer frame replaced
it; `stopped`: in flight when the run ended."""

FrameKind = Literal["key", "followed", "held"]

RefusalReason = Literal["no_slot", "bad_prompt"]
SourceState = Literal[
    "connecting", "streaming", "stale", "frozen", "reconnecting", "ended", "failed"
]
"""`stale`: connected, but no picture came for a while; `frozen`: the same picture comes again and
again; `reconnecting`: the connection was lost, or could not be made."""


@dataclass(frozen=True, slots=True)
class StageMs:
    """Milliseconds a stage took on one frame."""

    host: float
    """Time the host spent in the call."""
    gpu: float | None = None
    """Time between the stage's two CUDA events; None without a GPU."""


@dataclass(frozen=True, slots=True)
class RunStarted(Event):
    event: ClassVar[str] = "run_started"
    name: str
    device: str
    gpu_name: str | None
    driver: str | None
    versions: dict[str, str]
    config_sha256: str
    monotonic_ns: int
    """Monotonic clock at `ts`: ties the two clocks together."""


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    event: ClassVar[str] = "run_finished"
    exit_code: int
    grabbed: int
    published: int
    dropped: dict[str, int]
    fps: float | None


@dataclass(frozen=True, slots=True)
class FramePublished(Event):
    event: ClassVar[str] = "frame_published"
    source_id: str
    epoch: int
    frame_id: int
    latency_ms: float
    """Grab to packet."""
    age_ms: float
    """Capture to publish."""
    stages_ms: dict[str, StageMs]
    objects: int
    presence: tuple[float, ...] = ()
    """The objects' presence, rounded, in row order."""
    queue_ms: float | None = None
    """Of `latency_ms`, what the frame spent waiting between threads: from the grab (with its
    upload) to Detect, between the two halves of its way where each has a thread, and from the
    result's arrival on the host, as far as that was seen, to the publishing."""
    kind: FrameKind | None = None
    """What was done for it: `key`, the detector looked; `followed`, masks were computed from it;
    `held`, neither, the masks stayed."""


@dataclass(frozen=True, slots=True)
class FrameDropped(Event):
    event: ClassVar[str] = "frame_dropped"
    source_id: str
    epoch: int
    frame_id: int
    reason: DropReason


@dataclass(frozen=True, slots=True)
class Spread:
    """How one second's values lie, in milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class FrameSecond(Event):
    """The frames of one second, where the log has no line for each; `ts` is its end, or the
    run's."""

    event: ClassVar[str] = "frame_second"
    source_id: str
    epoch: int | None
    """Of the newest frame that ended; None where none did."""
    frame_id: int | None
    """Of the newest frame that ended."""
    published: int
    dropped: dict[DropReason, int]
    """By reason; reasons that did not occur are left out."""
    mask_outputs: int
    """How many `sam_mask_output` there were."""
    objects: int | None = None
    """In the newest published frame."""
    objects_max: int | None = None
    latency_ms: Spread | None = None
    age_ms: Spread | None = None
    queue_ms: Spread | None = None
    stages_ms: dict[str, StageMs] | None = None
    """Medians."""


@dataclass(frozen=True, slots=True)
class ObjectRefused(Event):
    event: ClassVar[str] = "object_refused"
    source_id: str
    epoch: int
    frame_id: int
    reason: RefusalReason


@dataclass(frozen=True, slots=True)
class ObjectAdded(Event):
    event: ClassVar[str] = "object_added"
    source_id: str
    epoch: int
    frame_id: int
    object_id: int
    class_id: int


@dataclass(frozen=True, slots=True)
class ObjectDropped(Event):
    event: ClassVar[str] = "object_dropped"
    source_id: str
    epoch: int
    frame_id: int
    object_id: int
    class_id: int


@dataclass(frozen=True, slots=True)
class PromptEnded(Event):
    """A prompt was applied, or refused with a reason."""

    event: ClassVar[str] = "prompt"
    source_id: str
    epoch: int
    frame_id: int
    ticket: int
    action: str
    reason: str | None
    """None: it was applied."""
    object_id: int | None


@dataclass(frozen=True, slots=True)
class SamMaskOutput(Event):
    """One prediction of masks. Old consumers read `ts`, `event`, `as_numpy` and `device`."""

    event: ClassVar[str] = "sam_mask_output"
    as_numpy: Literal[0, 1]
    device: str
    """Like "cuda:0" or "cpu"."""
    objects: int | None = None
    """Object slots decoded in this prediction; None where the caller is not the pipeline."""


@dataclass(frozen=True, slots=True)
class SourceStateChanged(Event):
    event: ClassVar[str] = "source_state"
    source_id: str
    epoch: int
    state: SourceState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SourceTroubles(Event):
    """What came from a live source and did not become a picture, and what else went wrong with it,
    since the last such event; at the end of a run they add up. None of it was grabbed."""

    event: ClassVar[str] = "source_troubles"
    source_id: str
    counts: dict[str, int]
    """By kind, as in `maskstream_source_troubles_total`."""


@dataclass(frozen=True, slots=True)
class HostCopies(Event):
    """Copies counted at one named exit since the last such event."""

    event: ClassVar[str] = "host_copies"
    direction: Literal["h2d", "d2h"]
    where: str
    copies: int
    copied_bytes: int


@dataclass(frozen=True, slots=True)
class ErrorRaised(Event):
    event: ClassVar[str] = "error"
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class EventsDropped(Event):
    """Events that did not reach a sink since the logger started; always a run's last event."""

    event: ClassVar[str] = "kpi_events_dropped"
    dropped: int
    """Never queued: the queue was full, or the logger closed."""
    lost: dict[str, int]
    """By sink: events that a failing sink did not take."""
