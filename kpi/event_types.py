"""Every event that a run can write, in the order of their schema."""

from __future__ import annotations

from typing import Final

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
from kpi.event import Event
from kpi.events import (
    ErrorRaised,
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
)

EVENT_TYPES: Final[tuple[type[Event], ...]] = (
    *(RunStarted, RunFinished, FramePublished, FrameDropped, FrameSecond),
    *(ObjectRefused, ObjectAdded, ObjectDropped, PromptEnded, SamMaskOutput),
    *(DeviceSample, DeviceFault, SourceStateChanged, SubscriberState, RecorderState),
    *(RecorderFrames, SourceTroubles),
    *(HostCopies, PacketsSent, PeersConnected, SubscriberMessages, ControlCommands),
    *(ErrorRaised, EventsDropped),
)
