"""`recorder:` of the configuration: `RecorderConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from stages.base import Section
from stages.recording.quantise import LogitsDtype

What = Literal["logits", "masks", "packets", "prompts", "detections", "frames"]
Policy = Literal["drop", "block", "stop"]
RERUN: Final[tuple[What, ...]] = ("frames", "detections", "prompts", "logits")
"""What a recording must hold to be run again and compared."""


class RecorderConfig(Section):
    """What of a run is kept on disk, and what happens where the disk cannot keep up."""

    root: Path | None = None
    """Recordings go to `root/session` (`log`) or `root/predictions/session` (`npy`); null: to
    `recording` in the run's folder."""
    session: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name of the recording, which must be new; null: that of the run's folder."""
    layout: Literal["log", "npy"] = "log"
    """`log`: append-only segments with check sums. `npy`: two files a frame, for old tools; logits
    alone, float32, at video resolution."""
    dtype: LogitsDtype | None = None
    """Of the logits; null: float16 in a `log`, float32, which alone it can be, in `npy`."""
    zstd: bool = False
    """Compress what gets smaller by it; needs the extra `zstd`."""
    record: Annotated[tuple[What, ...], Field(min_length=1)] = (
        *("logits", "packets", "prompts", "detections"),
    )
    """`prompts`: what people asked for, and what the host chose for each frame by late headers.
    `frames`: the pixels, which can show people; off unless they are asked for."""
    policy: Policy = "drop"
    """Where the ring is full. `drop`: the frame is not recorded, and counted. `block`: the run
    waits, up to 2 s a frame. `stop`: the run ends as failed, as it does where the disk fails."""
    ring_bytes: int = Field(default=128 << 20, ge=1 << 20, le=16 << 30)
    """Frames that wait to be written may take so much memory."""
    quota_bytes: int | None = Field(default=None, ge=1 << 20)
    """The recording pauses where it would take more; null: no limit but the disk's."""
    min_free_bytes: int = Field(default=512 << 20, ge=0)
    """The recording pauses where less is left on the disk, and goes on with half as much again."""
    retention_bytes: int | None = Field(default=None, ge=1 << 20)
    """Finished segments of this recording beyond it are deleted, oldest first; where it begins,
    earlier recordings in `root` are, too."""
    retention_h: float | None = Field(default=None, gt=0)
    """Segments older than so many hours likewise."""
    segment_bytes: int = Field(default=256 << 20, ge=1 << 16, le=1 << 32)
    segment_s: float = Field(default=60.0, gt=0, le=86_400)
    """A segment ends at this size or age, whichever comes first."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        dtype = self.dtype or "float32"
        if self.layout == "npy" and (self.record != ("logits",) or dtype != "float32"):
            raise PydanticCustomError(
                "npy",
                "record, dtype: layout npy holds logits as float32, expected record: [logits]",
            )
        if self.layout == "npy" and (self.retention_bytes or self.retention_h or self.zstd):
            raise PydanticCustomError(
                "npy", "zstd, retention: layout npy has neither, expected layout: log"
            )
        if len(set(self.record)) < len(self.record):
            raise PydanticCustomError("record", "record: got a name twice, expected each once")
        return self

    @property
    def logits_dtype(self) -> LogitsDtype:
        """What `dtype` says, or stands for."""
        return self.dtype or ("float16" if self.layout == "log" else "float32")

    @property
    def wants_logits(self) -> bool:
        return "logits" in self.record
