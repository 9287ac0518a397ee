"""The address of a network stream, whose credentials nobody sees by accident: `StreamUrl`."""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn
from urllib.parse import quote, unquote

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

SCHEMES: Final = ("rtsp", "rtsps", "http", "https", "udp", "srt")
HIDDEN: Final = "***"
_MAX_CHARACTERS: Final = 2048
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z]+)://(?:(?P<userinfo>[^/?#]*)@)?"
    r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]*)(?::(?P<port>\d{1,5}))?(?P<rest>[/?#].*)?"
)
_OPEN: Final = (
    *("audio", "bitrate", "buffer_size", "camera", "ch", "channel", "codec", "compression"),
    *("fifo_size", "fps", "framerate", "height", "latency", "localport", "mode", "pkt_size"),
    *("profile", "proto", "protocol", "quality", "rate", "resolution", "stream", "streamprofile"),
    *("subtype", "timeout", "track", "trackid", "transport", "transportmode", "ttl", "unicast"),
    *("video", "videocodec", "width"),
)
"""Names of what is no secret, as cameras and FFmpeg call it; the value of every other is hidden."""
_OPEN_VALUE: Final = re.compile(r"[\w.,:*-]{0,20}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z][\w.-]{0,31}", re.ASCII)
_EQUALS: Final = re.compile("=|%3d", re.I)
_EXPECTED: Final = (
    f"expected {'|'.join(SCHEMES)}://HOST[:PORT]/PATH; in a user's name or password, "
    "/ is written %2F, ? %3F and # %23"
)


class StreamUrl:
    """``SCHEME://[USER:PASSWORD@]HOST[:PORT]/PATH``; `str` leaves the credentials out, and so
    does everything that is written: user and password, and behind ``?``, ``#`` or a ``NAME=`` in
    the path all but the values of a few names known to be no secret (``channel=1``). What else
    stands in the path is shown.

    An ``@`` in the password may stand as it is. Raises ValueError, whose text quotes nothing of
    what was given, for what is no such address, and for one that was written with its
    credentials left out.
    """

    def __init__(self, text: str) -> None:
        match = _URL.fullmatch(text)
        if match is None or len(text) > _MAX_CHARACTERS or not text.isprintable() or " " in text:
            _refuse(f"cannot be read, {_EXPECTED}")
        self.scheme, self._host, rest = match["scheme"].lower(), match["host"], match["rest"] or ""
        if self.scheme not in SCHEMES:
            _refuse(f"scheme {self.scheme}, {_EXPECTED}")
        if "@" in rest or (not self._host and self.scheme not in ("udp", "srt")):
            _refuse(f"has no host where one belongs, {_EXPECTED}")
        if match["port"] is not None and not 0 < int(match["port"]) < 65536:
            _refuse(f"port {match['port']}, expected 1 to 65535")
        if HIDDEN in text:
            _refuse(
                "was written with its credentials left out, expected all of it, or username and "
                "password_env beside it"
            )
        self._port = f":{match['port']}" if match["port"] is not None else ""
        self._rest, self._userinfo = rest, match["userinfo"]

    @property
    def place(self) -> str:
        """Scheme, host and port."""
        return f"{self.scheme}://{self._host}{self._port}"

    def __str__(self) -> str:
        user = f"{HIDDEN}@" if self._userinfo is not None else ""
        return f"{self.scheme}://{user}{self._host}{self._port}{_shown(self._rest)}"

    def __repr__(self) -> str:
        return f"StreamUrl({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StreamUrl) and self.reveal() == other.reveal()

    def __hash__(self) -> int:
        return hash(self.reveal())

    def reveal(self, username: str | None = None, password: str | None = None) -> str:
        """The whole address, for whoever connects; the arguments win over what it holds."""
        name, _, word = (self._userinfo or "").partition(":")
        name = unquote(name) if username is None else username
        word = unquote(word) if password is None else password
        user = f"{quote(name, safe='')}:{quote(word, safe='')}@" if name or word else ""
        return f"{self.scheme}://{user}{self._host}{self._port}{self._rest}"

    @classmethod
    def __get_pydantic_core_schema__(
        cls,
        source: Any,  # noqa: ANN401 (pydantic's signature)
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _validated, serialization=core_schema.to_string_ser_schema()
        )


def _shown(rest: str) -> str:
    """Path, query and fragment without their secrets."""
    begin = re.search(r"[?#]", rest)
    path = rest if begin is None else rest[: begin.start()]
    parts = re.split(r"([/;&])", path)
    for place in range(0, len(parts), 2):
        told = _told(parts[place]) if _EQUALS.search(parts[place]) else parts[place]
        if told != parts[place]:
            parts[place:] = [told]  # a password may hold a slash: the path ends here
            break
    query = re.split(r"([?#&;])", rest[len(path) :])
    query[::2] = map(_told, query[::2])
    return "".join(parts + query)


def _told(part: str) -> str:
    """``NAME=VALUE``, the value only where the name says that it is no secret; anything else is
    hidden."""
    name, _, value = part.partition("=")
    if not part or (name.lower() in _OPEN and _OPEN_VALUE.fullmatch(value)):
        return part
    return f"{name}={HIDDEN}" if _NAME.fullmatch(name) and "=" in part else HIDDEN


def _validated(value: object) -> StreamUrl:
    if isinstance(value, StreamUrl):
        return value
    try:
        if not isinstance(value, str):
            _refuse(f"is no text, {_EXPECTED}")
        return StreamUrl(value)
    except ValueError as error:
        # Its own kind of error: pydantic's quotes what was given.
        raise PydanticCustomError("url", "{why}", {"why": str(error)}) from None


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)
