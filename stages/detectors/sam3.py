"""SAM3's text prompts as a detector: phrases in, boxes for the tracker out."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from stages.base import Section
from stages.detectors.concepts import Chosen, ConceptNetwork, choose
from stages.detectors.looking import Looking
from stages.detectors.phrases import PLACES, Phrases
from stages.detectors.sam3_files import find_sam3
from stages.detectors.sam3_network import Sam3Network
from stages.phrasing import EXPECTED, MOST_PHRASES, flaw_of, tidy
from stages.records import Detections, Frame


def _phrase(text: str) -> str:
    if flaw_of(text) is not None:
        raise ValueError(EXPECTED["bad_phrase"])
    return tidy(text)


def _different(phrases: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(phrases)) < len(phrases):
        raise ValueError("expected each phrase once")
    return phrases


class Sam3TextConfig(Section):
    """SAM3 finding objects by phrases."""

    kind: Literal["sam3"] = "sam3"
    model: str = Field(min_length=1)
    """A folder with the model, its tokenizer and its preprocessor's settings, or an id in the local
    Hugging Face cache such as facebook/sam3; nothing is fetched."""
    revision: str | None = Field(None, pattern="^[0-9a-f]{40}$")
    """Commit of that id."""
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """Of its model.safetensors; another file is refused."""
    phrases: Annotated[
        tuple[Annotated[str, AfterValidator(_phrase)], ...],
        Field(max_length=MOST_PHRASES),
        AfterValidator(_different),
    ] = ()
    """What to look for from the start; more can be added while it runs."""
    max_detections: int = Field(16, ge=1, le=300)
    """Of all phrases together."""
    min_score: float = Field(0.5, ge=0, le=1)
    max_overlap: float = Field(0.7, gt=0, le=1)
    """Mask IoU above which the weaker of two finds of a phrase is not `valid`."""
    every: int = Field(5, ge=1, le=1000)
    """Every so many frames is a key frame; nothing is looked for on the others."""


def build_network(config: Sam3TextConfig, device: torch.device) -> ConceptNetwork:
    """The network that a configuration names; raises `ConfigError`."""
    return Sam3Network(find_sam3(config.model, config.revision, config.sha256), device)


class Sam3TextDetector:
    """Frame to the K = `max_detections` best finds of all phrases; a class is a phrase."""

    def __init__(
        self, config: Sam3TextConfig, device: torch.device, network: ConceptNetwork | None = None
    ) -> None:
        """`network`: what finds in place of the one configured. Raises `ConfigError`."""
        self._network = build_network(config, device) if network is None else network
        self.phrases = Phrases(self._network, config.phrases)
        self._config, self._device = config, device
        self._looking = Looking(config.every, config.max_detections, device)
        self.switch = self._looking.switch
        self._classes = torch.zeros(PLACES, dtype=torch.bool, device=device)
        self._sides: tuple[tuple[int, int], Tensor] | None = None
        self._mark()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of fixed length; see `Phrases.names`."""
        return self.phrases.names

    def detect(self, frame: Frame) -> Detections:
        """K rows, best first; not `computed` between key frames, while off, and without phrases.

        `classes` tells the tracker which phrases there are: the objects of others end.
        """
        if self.phrases.turn(frame.frame_id):
            self._mark()
        if not self._looking.looks_at(frame) or not self.phrases.now:
            return replace(self._looking.nothing(frame), classes=self._classes)
        with torch.inference_mode():
            return self._found(frame, *self.find(frame))

    def weights_sha256(self) -> str:
        """See `stages.base.Weighted`."""
        return self._network.weights_sha256()

    def find(self, frame: Frame) -> tuple[Chosen, Tensor]:
        """The best finds with their masks, and their class ids, int32 (K,); at least one phrase
        is there."""
        config = self._config
        class_ids, words = zip(*self.phrases.words(), strict=True)
        sight = self._network.look(frame)
        finds = [self._network.find(sight, each) for each in words]
        chosen = choose(finds, config.max_detections, config.min_score, config.max_overlap)
        found = torch.zeros_like(chosen.places, dtype=torch.int32)
        for place, class_id in enumerate(class_ids):
            found.masked_fill_(chosen.places == place, class_id)
        return chosen, found

    def _found(self, frame: Frame, chosen: Chosen, class_ids: Tensor) -> Detections:
        return Detections(
            frame,
            chosen.boxes_xyxy * self._scale(frame.size_hw),
            chosen.scores,
            class_ids,
            chosen.valid,
            computed=True,
            classes=self._classes,
        )

    def _mark(self) -> None:
        """A new tensor, for the one before may still be looked at."""
        classes = torch.zeros_like(self._classes)
        classes[0].fill_(True)
        for class_id, _ in self.phrases.words():
            classes[class_id].fill_(True)
        self._classes = classes

    def _scale(self, size_hw: tuple[int, int]) -> Tensor:
        """float32 (4,): width, height, width, height, filled in on the device."""
        if self._sides is None or self._sides[0] != size_hw:
            sides = torch.empty(4, device=self._device)
            sides[0::2].fill_(size_hw[1])
            sides[1::2].fill_(size_hw[0])
            self._sides = size_hw, sides
        return self._sides[1]
