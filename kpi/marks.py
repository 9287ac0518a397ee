"""The events that mark a moment of a run, and what each says of a frame that was slow just then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from kpi.decoding import UnknownEvent
from kpi.device_events import DeviceFault
from kpi.edge_events import RecorderState, SubscriberState
from kpi.event import Event
from kpi.events import (
    ErrorRaised,
    EventsDropped,
    ObjectRefused,
    PromptEnded,
    RunFinished,
    RunStarted,
    SourceStateChanged,
)

_AS_USUAL: Final = frozenset({"streaming", "recording"})
"""States that slow nothing down."""

_SAYS: Final[dict[type[Event], Callable[[Any], str] | None]] = {
    RunStarted: None,
    RunFinished: None,
    SourceStateChanged: lambda e: f"the source was {e.state}",
    DeviceFault: lambda e: f"device fault: {e.kind} {e.detail}",
    PromptEnded: lambda e: f"a prompt ({e.action})",
    ErrorRaised: lambda e: f"error in {e.where}",
    RecorderState: lambda e: f"recorder {e.recorder}: {e.state}",
    SubscriberState: lambda e: f"{e.subscribers} subscribers of {e.topic}",
    ObjectRefused: lambda e: f"an object was refused ({e.reason})",
    EventsDropped: None,
}
"""None: it explains no slow frame."""

MARKS: Final = tuple(_SAYS)


def coincidence(event: Event | UnknownEvent) -> str | None:
    """What `event` may have to do with a frame of the same moment; None where that is nothing."""
    if isinstance(event, UnknownEvent) or getattr(event, "state", None) in _AS_USUAL:
        return None
    says = _SAYS.get(type(event))
    return None if says is None else says(event)
