"""The `control:` section: where people say what to follow, and how much they may say."""

from __future__ import annotations

from pydantic import Field

from stages.curve import Reach


class ControlConfig(Reach):
    """Where commands come in; see docs/control.md."""

    endpoint: str = "tcp://127.0.0.1:5557"
    """tcp://ADDRESS:PORT on loopback, port 0 or * takes a free one; or ipc://PATH in a folder of
    mode 0700. Beyond this host with `curve` alone."""
    rate_per_s: float = Field(default=50.0, gt=0, le=10_000)
    """Commands a second that one controller may send for long; more are refused, and told so."""
    burst: int = Field(default=100, ge=1, le=100_000)
    """Commands that one controller may send at once."""
    patience_s: float = Field(default=2.0, gt=0, le=600)
    """How long a command that is for the next frame waits for one; more for a run that is slower
    than that (a phrase a frame is taken up)."""
