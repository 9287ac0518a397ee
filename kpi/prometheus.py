"""Feeds the run's metrics from its events and renders them for Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from prometheus_client import Histogram, generate_latest

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
    HostCopies,
    ObjectAdded,
    ObjectDropped,
    ObjectRefused,
    PromptEnded,
    SourceStateChanged,
    SourceTroubles,
)
from kpi.metrics import Expectations, Metrics
from kpi.sometimes import RECORDERS, Judge, SometimesKnown

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NOTHING_EXPECTED = Expectations()
Copied = HostCopies | PacketsSent
Asked = PeersConnected | SubscriberState | SubscriberMessages | ControlCommands
Transport = Copied | Asked
K = TypeVar("K")
V = TypeVar("V")


class PrometheusSink:
    """Turns the events of one source into metrics.

    The series are made here and none is added later: an event of another source, or an unknown
    stage, topic, exit, action or recorder, is counted as ignored. Only what may be unknown (frame
    age, latency budget, recorders, process, GPU) is absent until it is known. `stages` are the keys
    that `FramePublished.stages_ms` will have; `gpu_clock` adds the series of their GPU times;
    `build` becomes the labels of `build_info`; `expected` is exported for alerts, and so is what
    `judge` says; `clock` is monotonic seconds.
    """

    def __init__(
        self,
        source_id: str,
        stages: tuple[str, ...],
        build: Mapping[str, str],
        *,
        gpu_clock: bool = False,
        expected: Expectations = NOTHING_EXPECTED,
        judge: Judge | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        clocks = ("host", "gpu") if gpu_clock else ("host",)
        self._source_id = source_id
        self._sometimes = SometimesKnown(source_id, clock, expected.latency_budget_s, judge)
        self._metrics = Metrics(
            source_id, stages, clocks, build, self._sometimes, expected.subscribers
        )
        self._dropped = 0
        self._has_streamed = self._was_away = False

    def render(self) -> bytes:
        """All metrics as text (`CONTENT_TYPE`); callable from any thread."""
        return generate_latest(self._metrics.registry)

    def write(self, ts: float, event: Event) -> None:
        if getattr(event, "source_id", self._source_id) != self._source_id:
            self._metrics.ignored.inc()
            return
        match event:
            case FramePublished():
                self._frame_published(event)
            case FrameDropped():
                self._metrics.outcomes["dropped"].inc()
                self._metrics.drops[event.reason].inc()
            case ObjectAdded() | ObjectDropped() | ObjectRefused() | PromptEnded():
                self._objects(event)
            case _ if isinstance(event, Transport):
                self._transport(event)
            case SourceStateChanged():
                self._source_state(event)
            case SourceTroubles():
                for kind, count in event.counts.items():
                    if troubles := self._find(self._metrics.troubles, kind):
                        troubles.inc(count)
            case DeviceSample() | DeviceFault() | RecorderState() | ErrorRaised():
                self._health(event)
            case RecorderFrames():
                self._recorded(event)
            case EventsDropped():
                self._metrics.dropped_events.inc(event.dropped - self._dropped)
                self._dropped = event.dropped
            case _:
                pass  # the other events have no metric

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """The metrics stay readable."""

    def _frame_published(self, event: FramePublished) -> None:
        metrics = self._metrics
        metrics.outcomes["published"].inc()
        metrics.objects.set(event.objects)
        self._sometimes.frame_published(event.age_ms / 1e3)
        _observe_ms(metrics.grab_to_packet, event.latency_ms)
        _observe_ms(metrics.capture_to_publish, event.age_ms)
        if event.queue_ms is not None:
            _observe_ms(metrics.queue, event.queue_ms)
        for stage, ms in event.stages_ms.items():
            for clock, value in (("host", ms.host), ("gpu", ms.gpu)):
                if value is not None and (series := self._find(metrics.stages, (stage, clock))):
                    _observe_ms(series, value)
        for logit in event.presence:
            if not math.isnan(logit):
                metrics.presence.observe(_sigmoid(logit))

    def _objects(self, event: ObjectAdded | ObjectDropped | ObjectRefused | PromptEnded) -> None:
        metrics = self._metrics
        match event:
            case ObjectAdded():
                metrics.objects_added.inc()
            case ObjectDropped():
                metrics.objects_dropped.inc()
            case ObjectRefused():
                metrics.refused[event.reason].inc()
            case PromptEnded():
                outcome = "applied" if event.reason is None else "refused"
                if prompts := self._find(metrics.prompts, (event.action, outcome)):
                    prompts.inc()

    def _transport(self, event: Transport) -> None:
        metrics = self._metrics
        match event:
            case HostCopies():
                where = (event.direction, event.where)
                if copies := self._find(metrics.copies, where):
                    copies.inc(event.copies)
                    metrics.copy_bytes[where].inc(event.copied_bytes)
            case PacketsSent():
                if packets := self._find(metrics.packets, event.topic):
                    packets.inc(event.packets)
                    metrics.packet_bytes[event.topic].inc(event.packet_bytes)
            case PeersConnected():
                if gauge := self._find(metrics.peers, event.socket):
                    gauge.set(event.peers)
            case ControlCommands():
                for outcome, count in event.counts.items():
                    metrics.commands[outcome].inc(count)
            case SubscriberMessages():
                for told, count in event.counts.items():
                    metrics.heard[told].inc(count)
            case SubscriberState():
                if gauge := self._find(metrics.subscribers, event.topic.partition("/")[0]):
                    gauge.set(event.subscribers)

    def _health(self, event: DeviceSample | DeviceFault | RecorderState | ErrorRaised) -> None:
        match event:
            case DeviceSample():
                self._sometimes.device = event
            case DeviceFault():
                self._metrics.faults[event.kind].inc()
            case ErrorRaised():
                self._metrics.errors.inc()
            case RecorderState() if event.recorder in RECORDERS:
                self._sometimes.recorder(event)
            case RecorderState():
                self._metrics.ignored.inc()

    def _recorded(self, event: RecorderFrames) -> None:
        metrics = self._metrics
        metrics.recorded["written"].inc(event.written)
        metrics.recorded["dropped"].inc(sum(event.dropped.values()))
        for reason, count in event.dropped.items():
            metrics.not_recorded[reason].inc(count)
        metrics.recorded_bytes.inc(event.written_bytes)

    def _source_state(self, event: SourceStateChanged) -> None:
        self._metrics.up.set(event.state == "streaming")
        if event.state in ("connecting", "reconnecting"):
            self._was_away = True
        elif event.state == "streaming":
            self._sometimes.source_streams()
            self._metrics.reconnects.inc(self._has_streamed and self._was_away)
            self._has_streamed, self._was_away = True, False

    def _find(self, series: Mapping[K, V], key: K) -> V | None:
        """The series made for `key`; None, and counted as ignored, where there is none."""
        found = series.get(key)
        if found is None:
            self._metrics.ignored.inc()
        return found


def _observe_ms(seconds: Histogram, milliseconds: float) -> None:
    if math.isfinite(milliseconds):  # one NaN would make the sum NaN for ever
        seconds.observe(milliseconds / 1e3)


def _sigmoid(logit: float) -> float:
    if logit < -700.0:  # exp(-logit) would overflow
        return 0.0
    return 1.0 / (1.0 + math.exp(-logit))
