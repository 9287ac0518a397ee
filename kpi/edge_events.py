"""Events about who takes the results of a run: subscribers, people who control it, its recorder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from kpi.event import Event

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
SubscriberOutcome = Literal[
    "heard", "refused", "connected", "let_in", "uninvited", "endless", "greedy"
]
"""`heard`: a subscription, or one taken back; `refused`: a message that is neither. The others
are connections, see `ConnectionOutcome`; `greedy`: cut off for too many subscriptions."""
RecorderStateName = Literal["recording", "paused", "stopped"]
RecorderLoss = Literal["ring", "paused", "failed", "stopped"]
"""Why an offered frame is not in the recording. `ring`: too many waited; `paused`: the disk is
full, fails, or the quota is used up; `failed`: it could not be made into records; `stopped`: it
waited when the run ended, and the disk was too slow."""


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
