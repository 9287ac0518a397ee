"""One run, from a checked configuration to its summary."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console

from kpi import emit
from kpi.detail import make_detail
from kpi.device import DeviceSampler
from kpi.events import ErrorRaised, RunFinished, RunStarted
from kpi.jsonl import JsonlSink
from kpi.logger import KpiLogger
from kpi.timing import StageTimer
from pipeline.assemble import Assembly, assemble
from pipeline.config import RunConfig
from pipeline.device import gpu_identity, resolve_device, share_cores
from pipeline.display import Display
from pipeline.egress import Egress
from pipeline.folder import RunFolder
from pipeline.meter import Meter
from pipeline.orchestrator import AuditPlan, Orchestrator
from pipeline.summary import (
    RunFacts,
    closing_line,
    one_line,
    summarize,
    write_json,
    write_summary,
)
from pipeline.versions import versions
from stages.errors import ConfigError, MaskstreamError
from stages.grab import Grab

_EGRESS_STOP_S = 1.0
_POLL_S = 0.05
_LOGGER_STOP_S = 1.0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says beside the configuration."""

    frames: int | None = None
    """Stop after so many grabbed frames."""
    out: Path | None = None
    audit: bool = False
    wait_subscribers: int = 0


def start(config: RunConfig, options: RunOptions, console: Console | None = None) -> int:
    """Run until the source ends, a signal, or `options.frames`; returns the exit code.

    Raises `MaskstreamError` for what is wrong before the first frame; then nothing is written.
    """
    console = console or Console(stderr=True)
    if options.wait_subscribers and config.results is None:
        raise ConfigError("--wait-subscribers: results is null (expected an endpoint)")
    device = resolve_device(config.device)
    share_cores(device)
    folder = RunFolder(config.name, options.out)
    with ExitStack() as stack:
        with _interruptible():
            parts = assemble(config, device, folder, stack)
        folder.create()
        with _stop_on_signals() as stop:
            return _run(parts, options, stop, console)


def _run(parts: Assembly, options: RunOptions, stop: threading.Event, console: Console) -> int:
    folder, config = parts.folder, parts.config
    folder.config.write_text(config.as_yaml())
    write_json(folder.endpoints, parts.endpoints)
    for name, endpoint in parts.endpoints.items():
        console.print(f"{name}: {endpoint}", highlight=False, soft_wrap=True)
    logger = _logger(parts)
    try:
        with logger.use():
            emit(_run_started(parts))
            facts = _Frames(parts, options).run(stop, console)
            emit(_run_finished(facts))
    finally:
        logger.close(_LOGGER_STOP_S)
    log = {"dropped": logger.dropped, "lost": logger.lost}
    write_summary(folder.summary, {**summarize(facts), "kpi": log}, console)
    _say_end(facts, folder, console)
    return facts.exit_code


def _logger(parts: Assembly) -> KpiLogger:
    kpi = parts.config.kpi
    lines = JsonlSink(
        parts.folder.kpi,
        max_bytes=kpi.max_file_bytes,
        keep=kpi.keep_files,
        detail=make_detail(kpi.detail, parts.source.source_id),
    )
    return KpiLogger([parts.metrics, lines], flush_s=kpi.flush_s)


class _Frames:
    """The part of a run in which frames flow."""

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
        )
        parts.tally.upstream = lambda: self._grab.dropped
        if parts.publisher is not None:
            publisher = parts.publisher
            parts.status.subscribers = lambda: publisher.subscribers
        meter = Meter(lambda: (*self._grab.copies, *parts.chain.copies), parts.publisher)
        self._egress = Egress((*parts.sinks, meter), parts.tally)
        counting = AuditPlan(config.audited_frames, "count")
        plan = AuditPlan(None, "raise") if options.audit else counting
        self._orchestrator = Orchestrator(
            parts.chain,
            self._egress,
            StageTimer(str(parts.device)),
            parts.tally,
            plan,
            parts.taps,
        )

    def run(self, stop: threading.Event, console: Console) -> RunFacts:
        """Let frames flow until the end, an error or `stop`; account for every one of them."""
        error: Exception | None = None
        sampler = DeviceSampler(self._parts.config.kpi.device_interval_s, self._parts.device.index)
        sampler.start()
        self._egress.start()
        try:
            with Display(console, self._parts.config.name, self._parts.status.rows):
                self._await_subscribers(stop, console)
                self._grab.start()
                self._orchestrator.run(self._grab, stop)
        except Exception as caught:
            error = caught
            self._announce_failure()
        error = self._wind_down() or error
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
        if self._parts.publisher is not None:
            self._parts.publisher.announce("failed", self._orchestrator.epoch)

    def _wind_down(self) -> Exception | None:
        """Stop the threads; what was grabbed and will not be published counts as stopped."""
        try:
            self._grab.stop()
            self._egress.stop(_EGRESS_STOP_S)
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
            copies=(*self._grab.copies, *parts.chain.copies),
            quality=parts.quality,
            error=error,
        )


def _run_started(parts: Assembly) -> RunStarted:
    gpu = gpu_identity(parts.device)
    return RunStarted(
        name=parts.config.name,
        device=str(parts.device),
        gpu_name=gpu.name if gpu else None,
        driver=gpu.driver if gpu else None,
        versions=versions(),
        config_sha256=parts.config.sha256(),
        monotonic_ns=time.monotonic_ns(),
    )


def _run_finished(facts: RunFacts) -> RunFinished:
    if facts.error is not None:
        emit(ErrorRaised("run", str(facts.error)))
    return RunFinished(
        exit_code=facts.exit_code,
        grabbed=facts.grabbed,
        published=facts.tally.published,
        dropped={reason: count for reason, count in facts.tally.dropped.items()},
        fps=facts.tally.fps,
    )


def _say_end(facts: RunFacts, folder: RunFolder, console: Console) -> None:
    """The last lines a person sees: what went wrong, what came out, where it lies."""
    error = facts.error
    if error is not None:
        if not isinstance(error, MaskstreamError) or error.__cause__ is not None:
            folder.error_log.write_text("".join(traceback.format_exception(error)))
        console.print(
            f"maskstream: {one_line(error)}",
            style="red",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    console.print(closing_line(facts), highlight=False, markup=False, soft_wrap=True)
    console.print(f"run folder: {folder.path}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM interrupt, so that a run can be stopped while models load."""
    asked = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.set()
        raise KeyboardInterrupt

    with _handling(interrupt):
        yield
    if asked.is_set():  # what was imported meanwhile swallowed it
        raise KeyboardInterrupt


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; a second Ctrl-C interrupts the hard way."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with _handling(ask):
        yield stop


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """`handler` for SIGINT and SIGTERM while the block runs."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
