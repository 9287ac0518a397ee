"""A clip session of the native `sam3` package, closed whatever happens: `Sam3Session`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

from kpi.emit import emit
from kpi.events import ErrorRaised
from stages.checkpoints import one_line
from stages.closing import Closing
from stages.sam3_frames import (
    Sam3Error,
    Sam3PromptError,
    SessionFrame,
    SessionPrompt,
    Size,
    frame_of,
    request_of,
    zeros,
)
from stages.sam3_predictor import EmptyOutput, Sam3Predictor

Direction = Literal["forward", "backward"]
T = TypeVar("T")


class Sam3Session(Closing):
    """start, add_prompt, propagate, close. Used by one thread; after an error it is closed.

    The package keeps sessions in GPU memory until they are closed, so every way out closes it:
    `close`, leaving the `with` block, and any error, also one that is no error of the package.
    """

    def __init__(
        self,
        predictor: Sam3Predictor,
        resource: Path,
        size_hw: Size,
        *,
        empty_output: EmptyOutput = "zeros",
        retries: int = 3,
    ) -> None:
        """Start a session on a video file or a folder of JPEG frames of `size_hw`; raises
        `Sam3Error`. The predictor stays the caller's."""
        self._predictor = predictor
        self._size, self._policy, self._retries = size_hw, empty_output, retries
        self._id: str | None = uuid4().hex  # ours, so that a start that fails is closed, too
        self._told: tuple[int, SessionPrompt] | None = None
        self._said: int | None = None
        self._known: dict[int, None] = {}
        self._base = self._free = 0
        self.skipped = 0
        """Empty frames that were left out."""
        self.retried = 0
        """Empty frames on which the words were said again."""
        request = self._request("start_session", resource_path=str(resource))
        self._guarded("start", lambda: predictor.handle_request(request))

    def add_prompt(self, frame_idx: int, prompt: SessionPrompt) -> SessionFrame:
        """Say what to follow; what was found on that frame, which may be nothing.

        Words and boxes begin anew: what was followed before is forgotten. Raises
        `Sam3PromptError` for a prompt that cannot be used, the session stays as it was then, and
        `Sam3Error` for one that the model fails on.
        """
        fields = request_of(prompt, self._size)
        if prompt.obj_id is not None and prompt.points:
            fields["obj_id"] = self._own_id(prompt.obj_id)
        else:
            self._begin_anew()
        found = self._ask(frame_idx, fields)
        self._told, self._said = (frame_idx, prompt), frame_idx
        return found

    def propagate(
        self, start: int | None = None, frames: int | None = None, direction: Direction = "forward"
    ) -> Iterator[SessionFrame]:
        """Follow what was prompted from frame `start` (None: the prompted one) on, for `frames`
        more (None: all), one at a time; backward, the frame before `start` is the first, as the
        package has it. Empty frames are handed on as configured.

        Raises `Sam3Error` where nothing was prompted, and where the model fails: the frames
        before are done then, and the session is closed.
        """
        if self._told is None:
            raise Sam3Error("sam3: nothing is prompted yet, expected words, boxes or points first")
        at = self._told[0] if start is None else start
        return self._walk(at, frames, direction)

    def close(self) -> None:
        """Release what the package holds; may be called more than once, and never raises."""
        session, self._id = self._id, None
        if session is None:
            return
        try:
            self._predictor.handle_request({"type": "close_session", "session_id": session})
        except Exception as error:  # the first error is the one to be told
            emit(ErrorRaised("sam3", f"closing the session: {one_line(error)}"))

    def _walk(self, start: int, frames: int | None, direction: Direction) -> Iterator[SessionFrame]:
        step = 1 if direction == "forward" else -1
        end = None if frames is None else start + step * frames
        left, again = self._retries, True
        while again:
            again = False
            with closing(self._stream(start, end, direction)) as stream:
                for found in stream:
                    if found.empty and self._policy == "skip":
                        self.skipped += 1
                    elif found.empty and self._may_retry(found, left):
                        left, start, again = left - 1, found.frame_idx, True
                        break
                    else:
                        yield self._shown(found)
            if again:
                said = self._say_again(start)
                if direction == "backward":  # the package then begins with the frame before
                    yield self._shown(said)

    def _shown(self, found: SessionFrame) -> SessionFrame:
        """The frame, or for an empty one, every object known by then with an empty mask."""
        return zeros(found.frame_idx, tuple(self._known), self._size) if found.empty else found

    def _may_retry(self, found: SessionFrame, left: int) -> bool:
        words = self._told is not None and self._told[1].text is not None
        return self._policy == "retry" and words and left > 0 and found.frame_idx != self._said

    def _say_again(self, frame_idx: int) -> SessionFrame:
        assert self._told is not None  # noqa: S101 (a walk follows a prompt)
        self.retried += 1
        self._begin_anew()
        self._said = frame_idx
        return self._ask(frame_idx, request_of(self._told[1], self._size))

    def _begin_anew(self) -> None:
        """The package forgets all objects, and numbers those to come from 0 again."""
        self._base = self._free
        self._known.clear()

    def _ask(self, frame_idx: int, fields: dict[str, object]) -> SessionFrame:
        request = self._request("add_prompt", frame_index=frame_idx, **fields)
        where = f"frame {frame_idx}"
        return self._guarded(
            where, lambda: self._own(frame_of(self._predictor.handle_request(request), self._size))
        )

    def _stream(self, start: int, end: int | None, direction: Direction) -> Generator[SessionFrame]:
        most = None if end is None else abs(end - start)
        request = self._request(
            "propagate_in_video",
            propagation_direction=direction,
            start_frame_index=start,
            max_frame_num_to_track=most,
        )
        stream = self._guarded("propagate", lambda: self._predictor.handle_stream_request(request))
        last = start
        try:
            while (found := self._next(stream, f"after frame {last}")) is not None:
                last = found.frame_idx
                yield found
        finally:
            if (close := getattr(stream, "close", None)) is not None:
                close()

    def _next(self, stream: Iterator[dict[str, Any]], where: str) -> SessionFrame | None:
        def read() -> SessionFrame | None:
            response = next(stream, None)
            return None if response is None else self._own(frame_of(response, self._size))

        return self._guarded(where, read)

    def _own(self, found: SessionFrame) -> SessionFrame:
        """With ids that no object before another beginning had; they are known from now on."""
        ids = found.obj_ids + self._base
        self._known |= dict.fromkeys(ids.tolist())
        self._free = max((self._free, *(each + 1 for each in ids.tolist())))
        return SessionFrame(found.frame_idx, ids, found.scores, found.boxes_xyxy, found.masks)

    def _own_id(self, obj_id: int) -> int:
        """What the package calls an object."""
        if obj_id < self._base:
            raise Sam3PromptError(f"sam3: object {obj_id} was forgotten when new words were said")
        return obj_id - self._base

    def _request(self, kind: str, **fields: object) -> dict[str, Any]:
        if self._id is None:
            raise Sam3Error("sam3: the session is closed, expected an open one")
        return {"type": kind, "session_id": self._id, **fields}

    def _guarded(self, where: str, work: Callable[[], T]) -> T:
        """What `work` gives; whatever it raises closes the session."""
        try:
            return work()
        except Sam3Error:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise Sam3Error(f"sam3: {where}: {one_line(error)}; the session is closed") from error
        except BaseException:
            self.close()
            raise
