"""`pictures:` of the configuration, readable without torch."""

from __future__ import annotations

from pydantic import Field

from stages.base import Section


class PicturesConfig(Section):
    """`pictures:` of the configuration; without it no pixel is sent to anyone. (Files in the run's
    folder may have some: its preview, what is recorded, snapshots that somebody asks for.)"""

    fps: float = Field(default=5.0, gt=0, le=60)
    """Pictures a second at most; whoever encodes them takes a core for 5 to 20 ms each."""
    quality: int = Field(default=75, ge=1, le=95)
    """Of the JPEG."""
