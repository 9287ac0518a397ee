"""`maskstream subscribe`: print what a run publishes, save its masks. Imports no torch."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.client import Subscriber
from stages.curve_keys import ClientKeys
from stages.errors import MaskstreamError
from stages.wire import ObjectResult, ResultMessage, StateMessage

NOBODY = "no publisher answered (expected a run that publishes there, and keys that it allows)"
_TROUBLES = {
    "stale": "is stale",
    "frozen": "is frozen",
    "reconnecting": "is reconnecting",
    "replay": "is a replay: nothing of it is live",
}
"""States that are worth a line."""


class _NoPacketError(MaskstreamError):
    """No packet came in time, or none will."""


def subscribe(
    endpoint: str,
    source_id: str | None = None,
    count: int | None = None,
    save_dir: Path | None = None,
    as_json: bool = False,
    timeout_s: float = 10.0,
    table: bool = False,
    keys: ClientKeys | None = None,
) -> int:
    """Print a line a packet until `count` of them, the end of the stream, or Ctrl-C; `table`: keep
    one table of the newest instead. What the source says of itself goes to standard error.

    `save_dir` receives one PNG an object, `frame_<frame>_obj_<id>.png`, 0 or 255. Returns the
    exit code: 0, or 1 after one line on standard error where no packet came for `timeout_s`
    seconds, a message could not be read, or a mask could not be saved.
    """
    code, unsaved = 0, 0
    try:
        with Subscriber(endpoint, source_id, keys=keys) as subscriber:
            try:
                with _shown(subscriber, as_json, table) as show:
                    for message in _results(subscriber, endpoint, count, timeout_s):
                        show(message)
                        if save_dir is not None:
                            unsaved += not _save_masks(message, save_dir)
            except KeyboardInterrupt:
                pass
            finally:
                _report(subscriber, as_json, unsaved)
    except BrokenPipeError:
        # The reader of our output went away; do not let Python flush to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except MaskstreamError as error:
        _complain(str(error))
        code = error.exit_code
    except OSError as error:
        _complain(f"cannot save masks: {error}")
        code = 1
    return code


@contextmanager
def _shown(
    subscriber: Subscriber, as_json: bool, table: bool
) -> Iterator[Callable[[ResultMessage], None]]:
    """How a result is shown."""
    if as_json or not table:
        yield lambda message: _say(_json_line(message) if as_json else _line(message))
        return
    from pipeline.subscribe_table import LiveTable

    with LiveTable(subscriber) as live:
        yield live.show


def _results(
    subscriber: Subscriber, endpoint: str, count: int | None, timeout_s: float
) -> Iterator[ResultMessage]:
    """Results until `count` of them or the end of the stream; raises `_NoPacketError`. Tells on
    the way that the source has a trouble."""
    told: dict[str, str] = {}
    deadline = time.monotonic() + timeout_s
    while count is None or subscriber.received < count:
        message = subscriber.next_message(max(0.0, deadline - time.monotonic()))
        if isinstance(message, ResultMessage):
            yield message
            deadline = time.monotonic() + timeout_s
        elif isinstance(message, StateMessage) and message.state == "failed":
            raise _NoPacketError(f"{message.source_id} at {endpoint} failed; see its run's log")
        elif isinstance(message, StateMessage) and message.state == "ended":
            if subscriber.received == 0:
                raise _NoPacketError(f"{message.source_id} at {endpoint} ended without a packet")
            return
        elif isinstance(message, StateMessage):
            if message.state in _TROUBLES and told.get(message.source_id) != message.state:
                _complain(f"{message.source_id} {_TROUBLES[message.state]}")
            told[message.source_id] = message.state
        elif message is None:
            heard = subscriber.told or NOBODY
            raise _NoPacketError(f"no packet from {endpoint} for {timeout_s:g} s: {heard}")


def _line(message: ResultMessage) -> str:
    objects = "".join(f"  [{_describe(item)}]" for item in message.objects)
    stale = "  REPLAY" if message.replay else "  STALE" if message.stale else ""
    return (
        f"{message.source_id} frame {message.frame_id}  age {_age_ms(message):.1f} ms{stale}"
        f"{objects or '  no objects'}"
    )


def _describe(item: ObjectResult) -> str:
    area = f"{item.area_px} px" if item.area_mm2 is None else f"{item.area_mm2:.1f} mm2"
    return f"{item.id} {item.label or f'class {item.class_id}'} {item.score:.2f} {area}"


def _json_line(message: ResultMessage) -> str:
    """The header of one result; numbers that are not finite become null."""
    fields = {
        "source_id": message.source_id,
        "epoch": message.epoch,
        "frame_id": message.frame_id,
        "seq": message.seq,
        "age_ms": round(_age_ms(message), 3),
        "captured_unix_ns": message.captured_unix_ns,
        "published_unix_ns": message.published_unix_ns,
        "size_hw": message.size_hw,
        "stale": message.stale,
        "replay": message.replay,
        "identity": message.identity,
        "masks": message.has_masks,
        "objects": [
            {key: None if value != value else value for key, value in asdict(item).items()}
            for item in message.objects
        ],
    }
    return json.dumps(fields, allow_nan=False)


def _age_ms(message: ResultMessage) -> float:
    return message.age_ns(time.time_ns()) / 1e6


def _save_masks(message: ResultMessage, folder: Path) -> bool:
    """Whether the message carried masks to save."""
    if not message.has_masks:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    for row, item in enumerate(message.objects):
        name = f"frame_{message.frame_id:08d}_obj_{item.id}.png"
        _save_png(message.mask(row), folder / name)
    return True


def _save_png(mask: NDArray[np.bool_], path: Path) -> None:
    """Write beside the target and rename, so that no reader sees half a picture."""
    from PIL import Image

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(mask.astype(np.uint8) * 255).save(part, format="PNG")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _report(subscriber: Subscriber, as_json: bool, unsaved: int) -> None:
    gaps = f" in {subscriber.gaps} gap{'s' * (subscriber.gaps > 1)}" if subscriber.gaps else ""
    text = f"{subscriber.received} packets, {subscriber.lost} lost{gaps}"
    if subscriber.restarts:
        text += f", the publisher restarted {subscriber.restarts} times"
    if unsaved:
        text += f", {unsaved} came without masks"
    if as_json:
        _complain(text)
    else:
        _say(text)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")
