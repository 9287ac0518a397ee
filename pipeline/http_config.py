"""The `http:` section: where the run is watched, and who may."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from stages.base import Section
from stages.errors import ConfigError

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
_TOKEN_FILE_BYTES = 1024


class HttpConfig(Section):
    """Where /metrics, /livez, /readyz and /status are served."""

    host: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9.:_-]{1,253}$")
    """An address of this machine; beyond loopback it wants a `token_file`, or `insecure_bind`."""
    port: int = Field(default=9108, ge=0, le=65535)
    """0 takes a free one."""
    token_file: Path | None = None
    """Holds the token that every request must carry, as `Authorization: Bearer <token>`."""
    insecure_bind: bool = False
    """Let anyone who reaches `host` read."""
    stale_after_s: float = Field(default=5.0, ge=0.1, le=3600)
    """No frame published for so long: not ready."""
    hung_after_s: float = Field(default=10.0, ge=0.1, le=3600)
    """No turn of the frame loop for so long: not live. More than the slowest frame takes."""

    @model_validator(mode="after")
    def _only_beyond_loopback_with_care(self) -> HttpConfig:
        if not (is_loopback(self.host) or self.token_file or self.insecure_bind):
            raise PydanticCustomError(
                "host",
                "host: got {host}, expected 127.0.0.1, localhost or ::1; beyond this machine, "
                "a token_file, or insecure_bind: true",
                {"host": self.host},
            )
        return self

    @property
    def open_to_all(self) -> bool:
        """Whether others than this machine may read without a token."""
        return not is_loopback(self.host) and self.token_file is None

    def token(self) -> str | None:
        """What `token_file` holds; raises `ConfigError` where that is no token."""
        path = self.token_file
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                text = file.read(_TOKEN_FILE_BYTES).decode("ascii", "replace").strip()
        except OSError as error:
            raise ConfigError(
                f"http.token_file: {path}: {error.strerror} (expected a readable file)"
            ) from error
        if _TOKEN.fullmatch(text) is None:  # what it is instead is nobody's business
            raise ConfigError(
                f"http.token_file: {path} holds no token (expected 16 to 512 letters, digits "
                "and ._~+/=-)"
            )
        return text


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`; a name other than `localhost` may be anywhere."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
