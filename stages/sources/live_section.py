"""What every live source can be told: `LiveSection`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from stages.sources.limits import SourceId
from stages.sources.region import SourceConfig

Seconds = Annotated[float, Field(ge=0.2, le=3600)]
"""How long to wait for a picture."""
_Side = Annotated[int, Field(ge=1, le=16384, strict=True)]


class LiveSection(SourceConfig):
    """What every live source can be told."""

    kind: str = "live"
    source_id: SourceId = "live"
    stale_after_s: float = Field(default=1.0, ge=0.1, le=60)
    """Without a picture for so long, the source is told to be stale."""
    reconnect_after_s: Seconds | None = 5.0
    """Without a picture for so long, the connection is given up and made anew; null: never."""
    connect_within_s: Seconds | None = 5.0
    """A new connection gives its first picture within this, or is given up; where senders call, the
    time begins when one has. null: never."""
    frozen_after: int | None = Field(default=60, ge=1, le=1_000_000)
    """So many pictures that equal the one before, and the source is told to be frozen (the
    freeze button, a stuck grabber); null: never."""
    size_hw: tuple[_Side, _Side] | None = None
    """(height, width) of the sender's picture that is expected, so that the models can warm up
    before the first one is there; pictures of another size are taken all the same."""

    @model_validator(mode="after")
    def _stale_comes_first(self) -> LiveSection:
        if self.reconnect_after_s is not None and self.stale_after_s >= self.reconnect_after_s:
            raise ValueError(
                f"stale_after_s is {self.stale_after_s}, "
                f"expected less than reconnect_after_s, {self.reconnect_after_s}"
            )
        return self
