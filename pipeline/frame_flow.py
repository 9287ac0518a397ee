"""The part of a run in which frames flow: its threads, from start to end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from kpi.device import DeviceSampler
from kpi.timing import StageTimer
from pipeline.assemble import Assembly
from pipeline.control.audit import AuditLog
from pipeline.display import Display
from pipeline.egress import Egress
from pipeline.meter import Meter
from pipeline.orchestrator import AuditPlan, Orchestrator
from pipeline.summary import RunFacts
from stages.base import TroubledSource
from stages.grab import Grab

_EGRESS_STOP_S = 1.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says beside the configuration."""

    frames: int | None = None
    """Stop after so many grabbed frames."""
    out: Path | None = None
    audit: bool = False
    wait_subscribers: int = 0


class FrameFlow:
    """Grab, the frame loop and egress of one run, wired to each other."""

    def __init__(self, parts: Assembly, options: RunOptions) -> None:
        config = parts.config
        self._parts = parts
        self._wait_subscribers = options.wait_subscribers
        self._grab = Grab(
            parts.source,
            parts.device,
            mailbox=config.grab.mailbox,
            depth=config.grab.depth,
            frames=options.frames,
            max_age_ms=config.grab.max_age_ms,
        )
        parts.tally.upstream = lambda: self._grab.dropped
        if isinstance(parts.source, TroubledSource):
            troubles = parts.source.troubles
            parts.tally.troubles = lambda: troubles.counts
        if parts.publisher is not None:
            publisher = parts.publisher
            parts.status.subscribers = lambda: publisher.subscribers
        meter = Meter(
            lambda: (*self._grab.copies, *parts.exits),
            parts.publisher,
            parts.source.source_id,
            parts.tally.troubles,
        )
        self._egress = _egress(parts, meter, self._announce_failure)
        counting = AuditPlan(config.audited_frames, "count")
        plan = AuditPlan(None, "raise") if options.audit else counting
        self._orchestrator = Orchestrator(
            parts.chain,
            self._egress,
            StageTimer(str(parts.device)),
            parts.tally,
            plan,
            parts.taps,
            looks=None if parts.recorder is None else parts.recorder.looks,
            warm=parts.source.size_hw is not None,
        )
        parts.status.health.loops = (self._orchestrator.heart, self._egress.heart)

    def run(self, stop: threading.Event, console: Console) -> RunFacts:
        """Let frames flow until the end, an error or `stop`; account for every one of them."""
        error: Exception | None = None
        sampler = DeviceSampler(self._parts.config.kpi.device_interval_s, self._parts.device.index)
        sampler.start()
        if self._parts.recorder is not None:
            self._parts.recorder.start()
        self._egress.start()
        if self._parts.control is not None:
            self._parts.control.channel.start(AuditLog(self._parts.folder.control))
        try:
            with Display(console, self._parts.config.name, self._parts.status.rows):
                self._await_subscribers(stop, console)
                self._grab.start()
                self._orchestrator.run(self._grab, stop)
        except Exception as caught:
            error = caught
            self._announce_failure()
        ended = self._wind_down()
        lost = self._end_recording()
        error = ended or error or lost
        sampler.close()
        return self._facts(error)

    def _await_subscribers(self, stop: threading.Event, console: Console) -> None:
        publisher, wanted = self._parts.publisher, self._wait_subscribers
        if not wanted or publisher is None:
            return
        console.print(f"waiting for {wanted} subscriber(s)", highlight=False)
        while publisher.subscribers < wanted and not stop.wait(_POLL_S):
            pass

    def _announce_failure(self) -> None:
        """Subscribers are told before the stream ends that it did not end well."""
        for each in self._parts.announcing:
            each.announce("failed", self._orchestrator.epoch)

    def _wind_down(self) -> Exception | None:
        """Stop the threads; what was grabbed and will not be published counts as stopped."""
        try:
            if self._parts.recorder is not None:
                self._parts.recorder.release()
            self._grab.stop()
            self._egress.stop(_EGRESS_STOP_S)
        except Exception as error:
            return error
        finally:
            if self._parts.control is not None:
                self._parts.control.channel.close()
        return None

    def _end_recording(self) -> Exception | None:
        """Have written what waits."""
        try:
            if self._parts.recorder is not None:
                self._parts.recorder.finish()
        except Exception as error:
            return error
        return None

    def _facts(self, error: Exception | None) -> RunFacts:
        parts = self._parts
        return RunFacts(
            config=parts.config,
            device=parts.device,
            grabbed=self._grab.grabbed,
            tally=parts.tally,
            audited=self._orchestrator.audited,
            copies=(*self._grab.copies, *parts.exits),
            quality=parts.quality,
            recorder=None if parts.recorder is None else parts.recorder.report(),
            error=error,
        )


def _egress(parts: Assembly, meter: Meter, failing: Callable[[], None]) -> Egress:
    sinks = (*parts.sinks, meter)
    if parts.control is None:
        return Egress(sinks, parts.tally, failing=failing)
    return Egress(sinks, parts.tally, parts.control.names.named, failing)
