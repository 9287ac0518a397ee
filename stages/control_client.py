"""Controller: commands to a run from any program with numpy and pyzmq."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import zmq
from numpy.typing import NDArray

from stages.closing import Closing
from stages.connecting import WATCHFUL, connect
from stages.curve_keys import ClientKeys
from stages.errors import ConfigError, ControlError

MAX_COMMAND_BYTES: Final = 1 << 16
_MAX_ANSWER_BYTES: Final = 1 << 20
_PING_S: Final = 0.5
Verb = Literal[
    "add", "correct", "reinit", "remove", "rename", "reset", "pause", "resume", "snapshot",
    "status", "ping", "add_phrase", "remove_phrase", "boxes",
]  # fmt: skip
Box = tuple[float, float, float, float]
Point = tuple[float, float]
FoundBox = tuple[float, float, float, float, float, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended."""

    id: str
    applied: bool
    reason: str | None
    """Why it was refused, one word."""
    detail: str | None
    """The same for a person."""
    epoch: int | None
    frame_id: int | None
    """The frame that it took effect on."""
    object_id: int | None
    data: dict[str, Any] = field(default_factory=dict)
    """What `status`, `snapshot` and `add_phrase` tell."""


class Controller(Closing):
    """One DEALER socket; a command, then its answer. Use it from one thread.

    It may be made before the run is there, and finds it again after a loss of connection. A
    command whose answer does not come is sent again under the same id, so it is done once at most.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5557",
        *,
        timeout_s: float = 5.0,
        keys: ClientKeys | None = None,
    ) -> None:
        """`timeout_s`: how long to wait for an answer. `keys`: for a run with CURVE. Raises
        `ConfigError` for an endpoint that is none."""
        self._endpoint, self._timeout_s = endpoint, timeout_s
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        options = {
            **WATCHFUL,
            zmq.LINGER: 0,
            zmq.SNDHWM: 64,
            zmq.RCVHWM: 64,
            zmq.MAXMSGSIZE: _MAX_ANSWER_BYTES,
            zmq.RECONNECT_IVL: 100,
            zmq.RECONNECT_IVL_MAX: 1000,
        }
        try:
            connect(self._socket, endpoint, options, keys)
        except ConfigError:
            self.close()
            raise

    def send(
        self,
        verb: Verb,
        *,
        object_id: int | None = None,
        box: Box | None = None,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        mask: NDArray[np.bool_] | None = None,
        text: str | None = None,
        class_id: int | None = None,
        name: str | None = None,
        phrase: str | None = None,
        boxes: Sequence[FoundBox] | None = None,
        frame_id: int | None = None,
        epoch: int | None = None,
        command_id: str | None = None,
    ) -> Answer:
        """Send one command and wait for its answer.

        Coordinates are pixels of the source's full picture: `box` x1, y1, x2, y2, `points` (x, y)
        with `labels` 1 on the object and 0 beside it, `mask` bool (H, W), `boxes` (of the verb
        `boxes`) x1, y1, x2, y2, score, class id. `frame_id`: the frame to
        apply it on; None: the next. `command_id`: None makes a new one. Raises `ControlError`
        where no answer comes in time, and for a command that is too large.
        """
        command_id = command_id or secrets.token_hex(8)
        fields = {
            "object_id": object_id,
            "box": None if box is None else [float(value) for value in box],
            "points": [[float(x), float(y)] for x, y in points] or None,
            "labels": [int(label) for label in labels] or None,
            "mask": None if mask is None else run_lengths(mask),
            "text": text,
            "class_id": class_id,
            "name": name,
            "phrase": phrase,
            "boxes": None if boxes is None else [_found_box(found) for found in boxes],
            "frame_id": frame_id,
            "epoch": epoch,
        }
        command = {"version": 1, "id": command_id, "verb": verb}
        command |= {key: value for key, value in fields.items() if value is not None}
        return self.exchange(command_id, json.dumps(command).encode())

    def exchange(self, command_id: str, raw: bytes) -> Answer:
        """Send a command that is JSON already, again each second, and wait for its answer; where
        none comes in time, half a second more for that to a ping."""
        if len(raw) > MAX_COMMAND_BYTES:
            raise ControlError(
                f"the command has {len(raw)} bytes, expected at most {MAX_COMMAND_BYTES}"
            )
        deadline = time.monotonic() + self._timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            if self._socket.poll(math.ceil(min(left_s, 1.0) * 1000), zmq.POLLOUT):
                with suppress(zmq.Again):  # who was there a moment ago may be gone
                    self._socket.send(raw, zmq.NOBLOCK)
            answer = self._await((command_id,), min(deadline, time.monotonic() + 1.0))
            if answer is not None:
                return answer
        return self._late(command_id)

    def close(self) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def _late(self, command_id: str) -> Answer:
        """Its answer, if it comes with that to a ping; else raises what the ping tells."""
        ping = {"id": secrets.token_hex(8), "verb": "ping"}
        with suppress(zmq.Again):
            self._socket.send(json.dumps(ping).encode(), zmq.NOBLOCK)
        answer = self._await((command_id, ping["id"]), time.monotonic() + _PING_S)
        if answer is not None and answer.id != ping["id"]:
            return answer
        waited = f"no answer from {self._endpoint} for {self._timeout_s:g} s"
        if answer is None:
            raise ControlError(
                f"{waited} (expected a run that listens there, and keys that it allows)"
            )
        raise ControlError(f"{waited}, but the run answers pings: what was asked for waits there")

    def _await(self, command_ids: Sequence[str], until_s: float) -> Answer | None:
        """The first answer to one of these commands; those to earlier ones are skipped."""
        while (left_s := until_s - time.monotonic()) > 0:
            if not self._socket.poll(math.ceil(left_s * 1000)):
                break
            said = _read(self._socket.recv(zmq.NOBLOCK))
            if said is not None and said.id in (*command_ids, ""):
                return said
        return None


def _found_box(found: FoundBox) -> dict[str, object]:
    *box, score, class_id = found
    return {"box": [float(x) for x in box], "score": float(score), "class_id": int(class_id)}


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, object]:
    """A bool (H, W) mask as COCO's uncompressed run lengths; raises ValueError for another."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"mask: got {mask.dtype} {mask.shape}, expected bool (H, W)")
    flat = mask.T.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *ends.tolist(), flat.size]).tolist()
    return {"size_hw": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def _read(raw: bytes) -> Answer | None:
    """None for what is no answer. One without an id is about a command that could not be read."""
    try:
        said = json.loads(raw)
        return Answer(
            id=said.get("id") or "",
            applied=said["outcome"] == "applied",
            reason=said.get("reason"),
            detail=said.get("detail"),
            epoch=said.get("epoch"),
            frame_id=said.get("frame_id"),
            object_id=said.get("object_id"),
            data=said.get("data") or {},
        )
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
