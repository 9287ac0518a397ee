"""The typed events of a run. One event becomes one JSON object a line.

`ts` (Unix seconds) is set by the logger when an event is emitted; `source_id`, `epoch` and
`frame_id` stand where they apply.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

DropReason = Literal["mailbox", "stale", "decode", "oom", "stopped"]
"""The closed list of why a grabbed frame was not published. `mailbox`: a newer frame replaced
it; `stopped`: in flight when the run ended."""

RefusalReason = Literal["no_slot", "bad_prompt"]
SourceState = Literal["connecting", "streaming", "ended", "failed"]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of every event."""

    event: ClassVar[str]

    def as_dict(self) -> dict[str, object]:
        """`event` and the fields, JSON-ready; fields that are None are left out."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return {"event": self.event, **values}


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


@dataclass(frozen=True, slots=True)
class FrameDropped(Event):
    event: ClassVar[str] = "frame_dropped"
    source_id: str
    epoch: int
    frame_id: int
    reason: DropReason


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
class DeviceSample(Event):
    """What a machine or GPU was doing; what cannot be read is None, never 0."""

    event: ClassVar[str] = "device_sample"
    gpu: str | None = None
    gpu_utilization: float | None = None
    """0..1."""
    gpu_memory_used_bytes: int | None = None
    gpu_power_watts: float | None = None
    gpu_temperature_celsius: float | None = None
    process_cpu: float | None = None
    """Cores in use by this process since the last sample."""
    process_rss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SourceStateChanged(Event):
    event: ClassVar[str] = "source_state"
    source_id: str
    epoch: int
    state: SourceState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SubscriberState(Event):
    event: ClassVar[str] = "subscriber_state"
    topic: str
    subscribers: int


@dataclass(frozen=True, slots=True)
class HostCopies(Event):
    """Copies counted at one named exit since the last such event."""

    event: ClassVar[str] = "host_copies"
    direction: Literal["h2d", "d2h"]
    where: str
    copies: int
    copied_bytes: int


@dataclass(frozen=True, slots=True)
class PacketsSent(Event):
    """Result packets handed to the transport since the last such event."""

    event: ClassVar[str] = "packets_sent"
    packets: int
    packet_bytes: int


@dataclass(frozen=True, slots=True)
class ErrorRaised(Event):
    event: ClassVar[str] = "error"
    where: str
    message: str
