"""The metric families of a run, with every series made at the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
)

from kpi.device_events import DeviceFaultKind
from kpi.edge_events import ControlOutcome, RecorderLoss, SubscriberOutcome
from kpi.events import DropReason, RefusalReason
from kpi.sometimes import SometimesKnown

SECONDS = (
    *(0.0005, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.0167, 0.02, 0.025),
    *(0.0333, 0.05, 0.0667, 0.1, 0.25, 1.0),
)
"""Histogram bounds, close together around the frame periods of 120 to 15 frames/s."""
PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
EXITS = (
    *(("h2d", "upload"), ("h2d", "prompt")),
    *(("d2h", "header"), ("d2h", "egress"), ("d2h", "as_numpy"), ("d2h", "picture")),
    ("d2h", "recorder"),
)
"""(direction, where) of the named copies between host and device."""
TOPICS = ("result", "state", "kpi", "frame", "openigtlink")
"""What stands before the slash of a topic."""
SOCKETS = ("results",)
"""Whose connections are counted."""
SOURCE_TROUBLES = (
    *("damaged", "left out", "lost", "no pose", "other sender", "out of order", "refused"),
    *("skipped", "status", "turned away"),
)
"""What live sources count."""
ACTIONS = ("add", "reinit", "correct", "remove", "reset")
"""What a prompt may ask for."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the configuration promises, exported so that an alert can compare."""

    latency_budget_s: float | None = None
    """Grab to packet; None: nothing is promised."""
    subscribers: int = 0
    """Of the results, that should be there."""


class Metrics:
    """The families of one source, in a registry of their own; an attribute holds the series of a
    family by the label values that vary. The client library's `*_created` series are switched
    off, which it can do for a whole process only."""

    def __init__(
        self,
        source: str,
        stages: tuple[str, ...],
        clocks: tuple[str, ...],
        build: Mapping[str, str],
        sometimes: SometimesKnown,
        expected_subscribers: int,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._make_frames(source, stages, clocks)
        self._make_objects(source)
        self._make_transport(source, expected_subscribers)
        self._make_health(source)
        self._make_recorder()
        Info("maskstream_build", "Versions.", registry=self.registry).info(dict(build))
        self.registry.register(sometimes)

    def _make_frames(self, source: str, stages: tuple[str, ...], clocks: tuple[str, ...]) -> None:
        frames = self._counter("frames", "Frames by how they ended.", "source", "outcome")
        self.outcomes = {end: frames.labels(source, end) for end in ("published", "dropped")}
        drops = self._counter("frames_dropped", "Frames not published.", "source", "reason")
        self.drops = {reason: drops.labels(source, reason) for reason in get_args(DropReason)}
        stage = self._histogram(
            "stage_duration_seconds", "Time in a stage.", SECONDS, "source", "stage", "clock"
        )
        self.stages = {(s, c): stage.labels(source, s, c) for s in stages for c in clocks}
        span = self._histogram(
            "latency_seconds", "Time between two points of the way.", SECONDS, "source", "span"
        )
        self.grab_to_packet = span.labels(source, "grab_to_packet")
        self.capture_to_publish = span.labels(source, "capture_to_publish")
        self.queue = span.labels(source, "queue")

    def _make_objects(self, source: str) -> None:
        self.objects = self._gauge("objects", "In the newest frame.", "source").labels(source)
        self.presence = self._histogram(
            "object_presence", "Probability of being in view.", PROBABILITIES, "source"
        ).labels(source)
        added = self._counter("objects_added", "Objects that began.", "source")
        self.objects_added = added.labels(source)
        ended = self._counter("objects_dropped", "Objects that ended.", "source")
        self.objects_dropped = ended.labels(source)
        refused = self._counter("objects_refused", "Objects refused.", "source", "reason")
        self.refused = {why: refused.labels(source, why) for why in get_args(RefusalReason)}
        prompts = self._counter("prompts", "Prompts answered.", "source", "action", "outcome")
        self.prompts = {
            (action, outcome): prompts.labels(source, action, outcome)
            for action in ACTIONS
            for outcome in ("applied", "refused")
        }

    def _make_transport(self, source: str, expected_subscribers: int) -> None:
        copies = self._counter("host_copies", "Copies at an exit.", "direction", "where")
        self.copies = {exit_: copies.labels(*exit_) for exit_ in EXITS}
        sizes = self._counter("host_copy_bytes", "Bytes copied there.", "direction", "where")
        self.copy_bytes = {exit_: sizes.labels(*exit_) for exit_ in EXITS}
        subscribers = self._gauge("subscribers", "Subscribers of a topic.", "source", "topic")
        self.subscribers = {topic: subscribers.labels(source, topic) for topic in TOPICS}
        expected = self._gauge("subscribers_expected", "That should be there.", "source")
        expected.labels(source).set(expected_subscribers)
        packets = self._counter("packets_sent", "Handed to the transport.", "source", "topic")
        self.packets = {topic: packets.labels(source, topic) for topic in TOPICS}
        sent = self._counter("packet_bytes", "Bytes of those.", "source", "topic")
        self.packet_bytes = {topic: sent.labels(source, topic) for topic in TOPICS}
        peers = self._gauge("peers", "Connected to a socket.", "source", "socket")
        self.peers = {name: peers.labels(source, name) for name in SOCKETS}
        heard = self._counter("subscriber_messages", "At the results' socket.", "source", "outcome")
        self.heard = {end: heard.labels(source, end) for end in get_args(SubscriberOutcome)}
        commands = self._counter("control_commands", "At the control channel.", "source", "outcome")
        self.commands = {end: commands.labels(source, end) for end in get_args(ControlOutcome)}

    def _make_health(self, source: str) -> None:
        self.up = self._gauge("source_up", "1 while streaming.", "source").labels(source)
        reconnects = self._counter("source_reconnects", "Times the source came back.", "source")
        self.reconnects = reconnects.labels(source)
        troubles = self._counter("source_troubles", "Before any grab.", "source", "kind")
        self.troubles = {kind: troubles.labels(source, kind) for kind in SOURCE_TROUBLES}
        faults = self._counter("gpu_faults", "Faults that the GPU reported.", "kind")
        self.faults = {kind: faults.labels(kind) for kind in get_args(DeviceFaultKind)}
        self.errors = self._counter("errors", "Errors told as events.")
        self.dropped_events = self._counter("kpi_events_dropped", "Events never queued.")
        self.ignored = self._counter("kpi_events_ignored", "Event values without a series.")

    def _make_recorder(self) -> None:
        frames = self._counter("recorder_frames", "Offered frames by how they ended.", "outcome")
        self.recorded = {end: frames.labels(end) for end in ("written", "dropped")}
        lost = self._counter("recorder_frames_dropped", "Frames not recorded.", "reason")
        self.not_recorded = {why: lost.labels(why) for why in get_args(RecorderLoss)}
        self.recorded_bytes = self._counter("recorder_bytes", "Written to the recording.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"maskstream_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"maskstream_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, bounds: tuple[float, ...], *labels: str
    ) -> Histogram:
        name = f"maskstream_{name}"
        return Histogram(name, text, labels, registry=self.registry, buckets=bounds)
