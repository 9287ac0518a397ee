"""One event of every kind, with every field filled, and one of each with as few as may be."""

from __future__ import annotations

from kpi.device_events import DeviceFault, DeviceSample
from kpi.edge_events import (
    ControlCommands,
    PacketsSent,
    PeersConnected,
    RecorderFrames,
    RecorderState,
    SubscriberMessages,
    SubscriberState,
)
from kpi.events import (
    ErrorRaised,
    Event,
    EventsDropped,
    FrameDropped,
    FramePublished,
    FrameSecond,
    HostCopies,
    ObjectAdded,
    ObjectDropped,
    ObjectRefused,
    PromptEnded,
    RunFinished,
    RunStarted,
    SamMaskOutput,
    SourceStateChanged,
    SourceTroubles,
    Spread,
    StageMs,
)

STAGES = {"detect": StageMs(1.5, None), "segment": StageMs(2.5, 4.25)}
SPREAD = Spread(1.0, 2.0, 3.0, 4.0)

FULL: tuple[Event, ...] = (
    RunStarted("demo", "cuda:0", "H200", "590.1", {"torch": "2.15.0"}, "ab12", 123),
    RunFinished(0, 10, 9, {"mailbox": 1}, 29.97),
    FramePublished("cam", 0, 7, 5.5, 9.25, STAGES, 2, (3.5, -0.25), 1.25, "key"),
    FrameDropped("cam", 0, 8, "mailbox"),
    FrameSecond(
        *("cam", 0, 8, 29, {"stale": 1}, 30, 2, 3, SPREAD, SPREAD, SPREAD, STAGES),
    ),
    ObjectRefused("cam", 0, 8, "no_slot"),
    ObjectAdded("cam", 0, 8, 3, 1),
    ObjectDropped("cam", 0, 9, 3, 1),
    PromptEnded("cam", 0, 9, 1, "add", "outside", 4),
    SamMaskOutput(0, "cuda:0", 3),
    DeviceSample(
        *("GPU-1", 0.5, 0.25, 1, 2, 1, 0.5, 300.5, 9000.0, 61.0, 1.98e9, 3.2e9),
        *(("sw_power_cap",), 1.0, 2.0, 0.0, 0.0, 0, 0, 0.125, 0.75, 1.5, 1 << 30, 12),
    ),
    DeviceFault("GPU-1", "xid", "79"),
    SourceStateChanged("cam", 0, "ended", "end of source"),
    SubscriberState("result/cam", 2),
    RecorderState("kpi", "paused", "OSError: No space left on device", 12),
    RecorderFrames(30, 28, {"ring": 2}, 1 << 20),
    SourceTroubles("cam", {"damaged": 1, "skipped": 9}),
    HostCopies("d2h", "header", 30, 4096),
    PacketsSent(30, 1 << 20),
    PeersConnected("results", 2),
    SubscriberMessages({"heard": 3, "refused": 1}),
    ControlCommands({"applied": 2, "too_fast": 7}),
    ErrorRaised("run", "it broke"),
    EventsDropped(3, {"JsonlSink": 2}),
)
BARE: tuple[Event, ...] = (
    RunStarted("demo", "cpu", None, None, {}, "ab12", 123),
    RunFinished(1, 0, 0, {}, None),
    FramePublished("cam", 0, 7, float("nan"), float("inf"), {}, 0),
    FrameSecond("cam", None, None, 0, {}, 1),
    PromptEnded("cam", 0, 9, 1, "add", None, None),
    SamMaskOutput(1, "cpu"),
    DeviceSample(),
    SourceStateChanged("cam", 0, "connecting"),
    RecorderState("kpi", "recording"),
)
