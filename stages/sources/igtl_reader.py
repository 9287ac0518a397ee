"""OpenIGTLink's messages from a stream of bytes: `MessageReader`, which does no input itself."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeAlias

from stages.sources.igtl_header import (
    EXTENDED,
    HEADER,
    Extension,
    Header,
    MessageError,
    check_metadata,
    crc64,
    parse_extension,
    parse_header,
)
from stages.sources.igtl_image import IMAGE, parse_image
from stages.sources.igtl_pose import POSE_BYTES, parse_pose
from stages.sources.igtl_told import (
    PictureBegins,
    PictureEnds,
    PoseTold,
    Refused,
    StatusTold,
    Told,
)

_SKIPPED_BYTES: Final = 1 << 16  # at a time
_STATUS_BYTES: Final = 30  # code, sub-code and the error's name; a text follows
_COUNT_BYTES: Final = 2


_Part: TypeAlias = Generator[memoryview | Told, memoryview | None, Told | None]
"""Yields where bytes belong (all of it is filled when it goes on) or what was told; is sent the
room for pixels; returns what the message tells in the end."""


class MessageReader:
    """Says where the next bytes of the stream belong, and what they told once they are there.

    Fill some of `wanted`, then call `filled`. What comes between two messages costs nothing: no
    byte is asked for that belongs to the next one. Types that are not known are skipped; their
    check sum counts, too. With ``check_crc`` False no check sum is looked at.

    `filled` raises `StreamError` where the stream can be followed no further.
    """

    def __init__(self, *, check_crc: bool = True) -> None:
        self.wanted: memoryview
        """Where the next bytes belong; never empty, except between `PictureBegins` and `place`."""
        self._check_crc = check_crc
        self._head = bytearray(HEADER.size)
        self._skipped = bytearray(_SKIPPED_BYTES)
        self._left = 0
        self._crc = 0
        self._begun = False
        self._steps = self._messages()
        self._advance(None)

    @property
    def within_message(self) -> bool:
        """Whether a message has begun and has not ended."""
        return self._begun

    def filled(self, count: int) -> Told | None:
        """The first ``count`` bytes of `wanted` are there: what they completed, if anything."""
        self._begun = True
        self.wanted = self.wanted[count:]
        return self._advance(None) if not self.wanted else None

    def place(self, room: memoryview | None) -> Told | None:
        """Where the pixels of the `PictureBegins` told last belong, ``layout.nbytes`` bytes;
        None: skip them."""
        return self._advance(room)

    def _advance(self, room: memoryview | None) -> Told | None:
        step = self._steps.send(room)
        if isinstance(step, memoryview):
            self.wanted = step
            return None
        if isinstance(step, PictureBegins):
            return step
        # Something was told: ask at once for what comes next, so that `wanted` is right.
        following = self._steps.send(None)
        assert isinstance(following, memoryview)  # noqa: S101 (a header is always next)
        self.wanted = following
        return step

    def _messages(self) -> _Part:
        while True:
            self._begun = False
            yield memoryview(self._head)
            header = parse_header(self._head)
            self._left, self._crc = header.body_bytes, 0
            told: Told | None = None
            try:
                told = yield from self._body(header)
            except MessageError as error:
                told = Refused(f"{header.type} refused: {error}")
            yield from self._skip(self._left)
            if self._check_crc and self._crc != header.crc:
                told = Refused(f"{header.type} damaged: its check sum is wrong")
            if told is not None:
                yield told

    def _body(self, header: Header) -> _Part:
        if header.type != "IMAGE" and header.type != "STATUS" and header.type not in POSE_BYTES:
            return None
        parts = Extension(0, header.body_bytes, 0, 0)
        if header.version > 1:
            extended = yield from self._take(EXTENDED.size)
            parts = parse_extension(extended, header.body_bytes)
            yield from self._skip(parts.bytes - EXTENDED.size)
        told = yield from self._content(header, parts.content_bytes)
        if parts.metadata_bytes:
            count = yield from self._take(_COUNT_BYTES)
            check_metadata(int.from_bytes(count, "big"), parts.metadata_header_bytes)
        return told

    def _content(self, header: Header, content_bytes: int) -> _Part:
        if header.type == "IMAGE":
            return (yield from self._image(header, content_bytes))
        if header.type == "STATUS":
            if content_bytes < _STATUS_BYTES:
                raise MessageError(f"{content_bytes} bytes, expected {_STATUS_BYTES} or more")
            data = yield from self._take(_STATUS_BYTES)
            yield from self._skip(content_bytes - _STATUS_BYTES)
            return StatusTold(header, int.from_bytes(data[:2], "big"))
        if content_bytes > max(POSE_BYTES[header.type]):
            raise MessageError(f"{content_bytes} bytes, expected {POSE_BYTES[header.type][0]}")
        data = yield from self._take(content_bytes)
        return PoseTold(header, parse_pose(header.type, bytes(data)))

    def _image(self, header: Header, content_bytes: int) -> _Part:
        data = yield from self._take(IMAGE.size)
        layout = parse_image(data, content_bytes - IMAGE.size)
        room = yield PictureBegins(header, layout)
        if room is None:
            yield from self._skip(layout.nbytes)
            return None
        yield from self._fill(room)
        return PictureEnds(header, layout)

    def _take(self, count: int) -> Generator[memoryview, memoryview | None, bytearray]:
        """So many bytes of the body, by themselves."""
        data = bytearray(count)
        yield from self._fill(memoryview(data))
        return data

    def _skip(self, count: int) -> Generator[memoryview, memoryview | None, None]:
        while count > 0:
            room = memoryview(self._skipped)[:count]
            yield from self._fill(room)
            count -= len(room)

    def _fill(self, room: memoryview) -> Generator[memoryview, memoryview | None, None]:
        if len(room) > self._left:
            raise MessageError(f"a body of {len(room) - self._left} bytes too few")
        if not room:
            return
        yield room
        self._left -= len(room)
        if self._check_crc:
            self._crc = crc64(room, self._crc)
