"""`maskstream record verify` and `info`. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from kpi.text import printable
from stages.recording.manifest import Manifest
from stages.recording.reading import recording_in
from stages.recording.summary import Summary, summarize
from stages.recording.verdict import Verdict
from stages.recording.verify import verify

_LONGEST = 400
_MB = 1e6


def show_verdict(path: Path, closed: bool) -> int:
    """Print what `verify` found; 1 where something is wrong. With ``closed`` also where the
    recording has no end. Raises `RecordingError`."""
    verdict = verify(recording_in(path))
    sys.stdout.write(f"{verdict.path}: {', '.join(_counts(verdict))}\n")
    flaws = list(verdict.flaws)
    if closed and not verdict.closed:
        flaws.append("it has no end")
    for flaw in flaws:
        sys.stderr.write(f"maskstream: {printable(flaw, _LONGEST)}\n")
    return 1 if flaws else 0


def show_summary(path: Path, as_json: bool) -> int:
    """Print what a recording is; returns 0. Raises `RecordingError`."""
    found = summarize(recording_in(path))
    if as_json:
        sys.stdout.write(json.dumps({**asdict(found), "path": str(found.path)}) + "\n")
        return 0
    rows = list(_rows(found))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        sys.stdout.write(f"{name:<{width}}  {printable(value, _LONGEST)}\n")
    return 0


def _counts(verdict: Verdict) -> Iterator[str]:
    yield verdict.layout
    yield _count(verdict.entries, "record")
    yield f"{_count(verdict.frames, 'frame')} with logits"
    if verdict.layout == "log":
        yield _count(verdict.segments, "segment")
    if verdict.retired_segments:
        yield f"{_count(verdict.retired_segments, 'segment')} before them retired"
    yield _gaps(verdict.gaps, verdict.dropped)
    if verdict.torn_bytes:
        yield f"a torn tail of {_count(verdict.torn_bytes, 'byte')}"
    if verdict.being_written:
        yield "still being written"
    else:
        yield (
            "closed" if verdict.closed else "not closed: its writer was killed, or its end cut off"
        )


def _rows(found: Summary) -> Iterator[tuple[str, str]]:
    yield "layout", found.layout
    if found.manifest is not None:
        yield from _manifest_rows(found.manifest)
    yield "frames", _frames(found)
    kinds = (f"{count} {kind}" for kind, count in found.entries.items())
    yield "records", ", ".join(kinds)
    if found.layout == "log":
        yield "segments", str(found.segments)
    yield "gaps", _gaps(found.gaps, found.dropped)
    yield "size", f"{found.nbytes / _MB:.1f} MB"
    if found.being_written:
        yield "state", "being written"


def _manifest_rows(manifest: Manifest) -> Iterator[tuple[str, str]]:
    begun = datetime.fromtimestamp(manifest.created_unix_ns / 1e9, UTC)
    yield "session", manifest.session_id
    yield "source", manifest.source_id or "not told"
    yield "begun", begun.isoformat(timespec="seconds")
    if manifest.size_hw is not None:
        yield "picture", f"{manifest.size_hw[1]}x{manifest.size_hw[0]}"
    yield "model", manifest.model or "not told"
    yield "logits", ", ".join(_logits(manifest))
    if manifest.class_names:
        yield "classes", ", ".join(manifest.class_names)
    if manifest.config_sha256 is not None:
        yield "configuration", f"sha256 {manifest.config_sha256}"
    if manifest.versions:
        yield "versions", ", ".join(f"{name} {of}" for name, of in manifest.versions.items())


def _logits(manifest: Manifest) -> Iterator[str]:
    yield manifest.logits_dtype
    if manifest.exported_from is not None:
        yield f"before the export {manifest.exported_from}"
    yield f"mask where above {manifest.mask_threshold:g}"
    if manifest.cleaning:
        yield f"cleaned by {', '.join(manifest.cleaning)}"


def _frames(found: Summary) -> str:
    if not found.frames:
        return "none"
    span = f"{found.frames}, {found.first_frame}..{found.last_frame}"
    return span if found.epochs == 1 else f"{span} in {found.epochs} epochs"


def _gaps(gaps: int, dropped: int) -> str:
    return f"{_count(gaps, 'gap')} of {_count(dropped, 'record')}" if gaps else "no gaps"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
