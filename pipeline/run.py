"""One run, from a checked configuration to its summary."""

from __future__ import annotations

import threading
import time
import traceback
from contextlib import ExitStack
from dataclasses import asdict

from rich.console import Console

from kpi import emit
from kpi.detail import make_detail
from kpi.edge_events import RecorderState
from kpi.events import ErrorRaised, RunFinished, RunStarted
from kpi.guarded import EventSink
from kpi.jsonl import JsonlSink
from kpi.logger import KpiLogger
from pipeline.announcer import StateAnnouncer
from pipeline.assemble import Assembly, assemble
from pipeline.config import RunConfig
from pipeline.device import gpu_identity, resolve_device, share_cores
from pipeline.folder import RunFolder
from pipeline.frame_flow import FrameFlow, RunOptions
from pipeline.kpi_topic import KpiTopic
from pipeline.recording import open_recorder
from pipeline.settled import settled
from pipeline.signals import interruptible, stop_on_signals
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

_LOGGER_STOP_S = 1.0


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
        with interruptible():
            parts = assemble(config, device, folder, stack)
        folder.create()
        try:
            open_recorder(parts, options, stack)
        except MaskstreamError:
            folder.discard()
            raise
        with settled(), stop_on_signals() as stop:
            return _run(parts, options, stop, console)


def _run(parts: Assembly, options: RunOptions, stop: threading.Event, console: Console) -> int:
    folder = parts.folder
    folder.config.write_text(parts.config.as_yaml())
    write_json(folder.endpoints, parts.endpoints)
    for name, endpoint in parts.endpoints.items():
        console.print(f"{name}: {endpoint}", highlight=False, soft_wrap=True)
    for name in parts.open_to_all:
        what = "read" if name in ("http", "results", "openigtlink") else "use"
        console.print(f"{name}: insecure_bind: whoever reaches it may {what} it", style="yellow")
    logger = _logger(parts)
    try:
        with logger.use():
            emit(_run_started(parts))
            emit(RecorderState("kpi", "recording"))
            facts = FrameFlow(parts, options).run(stop, console)
            emit(_run_finished(facts))
    finally:
        logger.close(_LOGGER_STOP_S)
    log = asdict(logger.report())
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
    told: tuple[EventSink, ...] = (StateAnnouncer(parts.announcing),)
    if parts.publisher is not None:
        told = (*told, KpiTopic(parts.publisher, parts.source.source_id))
    return KpiLogger([parts.metrics, parts.status.health, *told, lines], flush_s=kpi.flush_s)


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
