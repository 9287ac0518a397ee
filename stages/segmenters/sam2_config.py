"""What every SAM2 stage is told: which model, how many slots, what to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from stages.base import Section
from stages.segmenters.prompts import PromptConfig
from stages.segmenters.sam2_checkpoint import DEMO, brings_weights


class Sam2Config(Section):
    """The common part of the SAM2 sections."""

    model: str = Field(DEMO, min_length=1)
    """`demo`, a structure of the sam2 package such as `sam2.1_hiera_t`, a YAML file, or the id of
    weights in the local Hugging Face cache such as `facebook/sam2.1-hiera-tiny`."""
    checkpoint: Path | None = None
    """`.safetensors`, or a torch file `{"model": ...}`; the demo and an id bring their own."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """Of the checkpoint; another file is refused."""
    max_objects: int = Field(8, ge=1, le=64)
    """N slots."""
    prompts: tuple[PromptConfig, ...] = ()
    """Objects to segment from the first frame of each epoch on (`sam2_stream`: four a frame)."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.checkpoint is None and not brings_weights(self.model):
            raise ValueError(f"checkpoint: got none, expected the weights of {self.model}")
        if len(self.prompts) > self.max_objects:
            raise ValueError(
                f"prompts: got {len(self.prompts)}, expected at most max_objects "
                f"({self.max_objects})"
            )
        return self
