"""The typed events of a run; what a GPU tells is in `kpi/device_events.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from kpi.event import Event as Event

DropReason = Literal["mailbox", "stale", "decode", "oom", "stopped"]
"""The closed list of why a grabbed frame was not published. `mailbox`: a newer frame replaced
it; `stopped`: in flight when the run ended."""

FrameKind = Literal["key", "followed", "held"]

RefusalReason = Literal["no_slot", "bad_prompt"]
ConnectionOutcome = Literal["connected", "let_in", "uninvited", "endless"]
"""All connections, those that got in, those whose key is not allowed, and those cut off in a
message that did not end. Who was connected and not let in spoke no ZMTP, or had no key that is
allowed."""
ControlOutcome = Literal[
    "applied", "refused", "repeated", "too_fast", "failed",
    "bad_parts", "not_json", "bad_command", "connected", "let_in", "uninvited", "endless",
]  # fmt: skip
"""`bad_parts`, `not_json` and `bad_command` were no commands; `failed`: an error of ours. The last
four are connections, see `ConnectionOutcome`."""
SubscriberOutcome = Literal["heard", "refused", "connected", "let_in", "uninvited", "endless"]
"""`heard`: a subscription, or one taken back; `refused`: a message that is neither. The last four
are connections, see `ConnectionOutcome`."""
RecorderStateName = Literal["recording", "paused", "stopped"]
RecorderLoss = Literal["ring", "paused", "failed", "stopped"]
"""Why an offered frame is not in the recording. `ring`: too many waited; `paused`: the disk is
full, fails, or the quota is used up; `failed`: it could not be made into records; `stopped`: it
waited when the run ended, and the disk was too slow."""
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
class SubscriberState(Event):
    event: ClassVar[str] = "subscriber_state"
    topic: str
    subscribers: int


@dataclass(frozen=True, slots=True)
class RecorderState(Event):
    event: ClassVar[str] = "recorder_state"
    recorder: str
    """Which one: "kpi" for this log itself, "masks" for the recorder of the run."""
    state: RecorderStateName
    reason: str | None = None
    lost: int = 0
    """Records (of "masks", frames) not written since the run began."""


@dataclass(frozen=True, slots=True)
class RecorderFrames(Event):
    """Frames offered to the recorder of a run, and what became of them, since the last such event;
    at the end of a run they add up."""

    event: ClassVar[str] = "recorder_frames"
    offered: int
    written: int
    dropped: dict[RecorderLoss, int]
    """By reason; reasons that did not occur are left out."""
    written_bytes: int


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
    """Messages of one kind handed to the transport since the last such event."""

    event: ClassVar[str] = "packets_sent"
    packets: int
    packet_bytes: int
    topic: str = "result"
    """What stands before the slash of their topic."""


@dataclass(frozen=True, slots=True)
class PeersConnected(Event):
    """How many are connected to a socket, whatever they subscribe to; told once a second where it
    changed."""

    event: ClassVar[str] = "peers_connected"
    socket: str
    """Like "results"."""
    peers: int


@dataclass(frozen=True, slots=True)
class SubscriberMessages(Event):
    """What came in at the results' socket since the last such event."""

    event: ClassVar[str] = "subscriber_messages"
    counts: dict[SubscriberOutcome, int]
    """By how it ended; what did not occur is left out."""


@dataclass(frozen=True, slots=True)
class ControlCommands(Event):
    """What came in at the control channel since the last such event."""

    event: ClassVar[str] = "control_commands"
    counts: dict[ControlOutcome, int]
    """By how it ended; what did not occur is left out."""


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
