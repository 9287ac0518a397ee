"""SAM3's concept detector on the device: transformers' `Sam3Model`, without its host copies."""

from __future__ import annotations

from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor

from stages.detectors.concepts import Finds
from stages.detectors.model_input import ModelInput
from stages.detectors.sam3_files import Sam3Files
from stages.detectors.sam3_load import load_sam3
from stages.exits import named_exit
from stages.phrasing import PhraseFlaw
from stages.records import Frame
from stages.weights_digest import digest


class Sam3Network:
    """A `ConceptNetwork`: a picture is encoded once, each phrase costs the small rest."""

    def __init__(self, files: Sam3Files, device: torch.device) -> None:
        """Load, and try on a blank picture; raises `ConfigError`."""
        loaded = load_sam3(files)
        self._model: Any = loaded.model.to(device).eval().requires_grad_(False)
        self._tokenizer = loaded.tokenizer
        self._longest = loaded.longest
        self._input = ModelInput(loaded.form, device)
        self._device = device
        _keep_grid(self._model, loaded.grid_hw, device)
        blank = torch.zeros(3, 16, 16, dtype=torch.uint8, device=device)
        with torch.inference_mode():  # fills what transformers caches by shape
            self.find(self.look(Frame(blank, "warm-up", -1, 0, 0, 0)), self.words("object"))

    def flaw(self, phrase: str) -> PhraseFlaw | None:
        return "long_phrase" if len(self._tokens(phrase)) > self._longest else None

    @torch.inference_mode()
    def words(self, phrase: str) -> object:
        """Its text features, float32 (1, L, C) for its L tokens.

        Without padding there is nothing to mask: the text encoder looks backwards only, so padding
        changes none of them, and a mask would have to be read back from the device.
        """
        with named_exit("prompt"):
            ids = torch.tensor([self._tokens(phrase)], dtype=torch.int64).to(self._device)
            return self._model.get_text_features(input_ids=ids)

    @torch.inference_mode()
    def look(self, frame: Frame) -> object:
        return self._model.get_vision_features(pixel_values=self._input.fit(frame.rgb))

    @torch.inference_mode()
    def find(self, sight: object, words: object) -> Finds:
        """score = sigmoid(logit) x sigmoid(presence), as the model's processor has it."""
        out = self._model(vision_embeds=sight, text_embeds=words)
        scores = out.pred_logits[0].sigmoid() * out.presence_logits[0].sigmoid()
        return Finds(scores.float(), out.pred_boxes[0].float(), out.pred_masks[0].float())

    def weights_sha256(self) -> str:
        return digest(self._model)

    def _tokens(self, phrase: str) -> list[int]:
        return cast(list[int], self._tokenizer(phrase)["input_ids"])


def _keep_grid(model: Any, grid_hw: tuple[int, int], device: torch.device) -> None:  # noqa: ANN401
    """Make the two constants once that the model makes on every call.

    It uploads the size of its feature map (`Sam3DetrEncoder._prepare_multilevel_features`), and
    reads it back to lay out coordinates (`Sam3DetrDecoder._get_coords`): a wait for the device
    each layer. Nothing else in it leaves the device; a test under the guard watches over that.
    """
    height, width = grid_hw
    encoder, decoder = model.detr_encoder, model.detr_decoder
    encoder.register_buffer("grid_hw", torch.tensor([[height, width]], device=device), False)
    for name, side in (("grid_down", height), ("grid_across", width)):
        decoder.register_buffer(name, torch.arange(side, device=device) / side, False)
    encoder._prepare_multilevel_features = MethodType(_flattened, encoder)
    decoder._get_coords = MethodType(_coordinates, decoder)


def _flattened(
    encoder: Any,  # noqa: ANN401 (of an optional package)
    features: list[Tensor],
    positions: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    (feature,), (position,) = features, positions
    flat, places = (each.flatten(2).transpose(1, 2) for each in (feature, position))
    return flat, places, encoder.grid_hw


def _coordinates(
    decoder: Any,  # noqa: ANN401
    *_: object,
    **__: object,
) -> tuple[Tensor, Tensor]:
    return decoder.grid_down, decoder.grid_across
