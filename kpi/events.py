"""The typed events of a run. One event becomes one JSON object a line.

`ts` (Unix seconds) is set by the logger when an event is emitted; `source_id`, `epoch` and
`frame_id` stand where they apply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

DropReason = Literal["mailbox", "stale", "decode", "oom", "stopped"]
"""The closed list of why a grabbed frame was not published. `mailbox`: a newer frame replaced
it; `stopped`: in flight when the run ended."""

RefusalReason = Literal["no_slot", "bad_prompt"]
RecorderStateName = Literal["recording", "paused"]
DeviceFaultKind = Literal["xid", "ecc", "throttling", "lost"]
SourceState = Literal["connecting", "streaming", "ended", "failed"]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of every event."""

    event: ClassVar[str]

    def as_dict(self) -> dict[str, object]:
        """`event` and the fields, JSON-ready; fields that are None are left out."""
        values: dict[str, object] = {"event": self.event}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None:
                values[name] = _plain(value)
        return values


_PLAIN = (float, int, str, tuple)


def _plain(value: object) -> object:
    """What `dataclasses.asdict` gives, without copying what nobody can change: a fraction of the
    time, and it is spent on every frame."""
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    fields = getattr(value, "__dataclass_fields__", None)
    return value if fields is None else {name: _plain(getattr(value, name)) for name in fields}


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
class DeviceSample(Event):
    """What a machine or GPU was doing; what cannot be read is None, never 0."""

    event: ClassVar[str] = "device_sample"
    gpu: str | None = None
    """NVML's UUID."""
    gpu_utilization: float | None = None
    """Share of time in which a kernel ran, 0..1."""
    gpu_memory_utilization: float | None = None
    """Share of time in which device memory was read or written, 0..1."""
    gpu_memory_used_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None
    gpu_process_memory_bytes: int | None = None
    """What this process holds of it."""
    gpu_process_utilization: float | None = None
    """Share of time in which a kernel of this process ran, 0..1."""
    gpu_power_watts: float | None = None
    gpu_energy_joules: float | None = None
    """Since the driver was loaded."""
    gpu_temperature_celsius: float | None = None
    gpu_sm_clock_hertz: float | None = None
    gpu_memory_clock_hertz: float | None = None
    gpu_throttle_reasons: tuple[str, ...] | None = None
    """NVML's clock event reasons that slow the GPU down now; () is none of them."""
    gpu_pcie_receive_bytes_per_second: float | None = None
    gpu_pcie_transmit_bytes_per_second: float | None = None
    gpu_decoder_utilization: float | None = None
    """NVDEC, 0..1."""
    gpu_encoder_utilization: float | None = None
    """NVENC, 0..1."""
    gpu_ecc_corrected: int | None = None
    """Memory errors since the driver was loaded."""
    gpu_ecc_uncorrected: int | None = None
    gpu_sm_active: float | None = None
    """Share of the SMs with work, 0..1: Hopper's GPM."""
    gpu_dram_active: float | None = None
    """Share of the peak memory bandwidth, 0..1: Hopper's GPM."""
    process_cpu: float | None = None
    """Cores in use by this process since the last sample."""
    process_rss_bytes: int | None = None
    process_threads: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceFault(Event):
    """The GPU reported something wrong."""

    event: ClassVar[str] = "device_fault"
    gpu: str
    kind: DeviceFaultKind
    detail: str
    """The XID's number, the throttle reason, what NVML said."""


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
    """Which one: "kpi" for this log itself."""
    state: RecorderStateName
    reason: str | None = None
    lost: int = 0
    """Records not written since the run began."""


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
