"""One line for a person about one event."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime

from kpi.decoding import Record, UnknownEvent
from kpi.events import Event, FramePublished, RunStarted
from kpi.text import printable

_FRAME = ("source_id", "epoch", "frame_id")
_LONGEST = 400


def describe(record: Record) -> str:
    """Local time, the event, what it is about, its figures; safe to print on a terminal."""
    clock = datetime.fromtimestamp(record.ts).astimezone()
    event = record.event
    if isinstance(event, UnknownEvent):
        name, told = event.name, "(unknown to this version)"
    else:
        name, told = event.event, "  ".join(part for part in (_about(event), _told(event)) if part)
    stamp = f"{clock:%H:%M:%S}.{clock.microsecond // 1000:03d}"
    return printable(f"{stamp}  {name:<18}  {told}".rstrip(), _LONGEST)


def _about(event: Event) -> str:
    """Like "cam/0/17": source, epoch and frame, as far as the event has them."""
    values = (getattr(event, name, None) for name in _FRAME)
    return "/".join(str(value) for value in values if value is not None)


def _told(event: Event) -> str:
    if isinstance(event, FramePublished):
        stages = " ".join(
            f"{name} {spent.host if spent.gpu is None else spent.gpu:.1f}"
            for name, spent in event.stages_ms.items()
        )
        times = f"latency {event.latency_ms:.1f} ms  age {event.age_ms:.1f} ms"
        return f"{times}  objects {event.objects}  [{stages}]"
    if isinstance(event, RunStarted):
        gpu = f" {event.gpu_name}" if event.gpu_name else ""
        return f"{event.name}  {event.device}{gpu}  config {event.config_sha256[:12]}"
    named = ((f.name, getattr(event, f.name)) for f in fields(event) if f.name not in _FRAME)
    return "  ".join(f"{name} {_value(value)}" for name, value in named if value is not None)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ",".join(_value(item) for item in value) or "none"
    if isinstance(value, dict):
        return ",".join(f"{key}={_value(item)}" for key, item in value.items()) or "none"
    return str(value)
