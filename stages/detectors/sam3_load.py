"""SAM3 read into host memory by transformers, from files that were checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from stages.checkpoints import one_line
from stages.detectors.model_folder import not_finite
from stages.detectors.model_input import InputForm
from stages.detectors.sam3_files import (
    Sam3Files,
    check_sam3,
    input_file,
    tokenizer_file,
    weights_named,
)
from stages.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A model in host memory."""

    model: nn.Module
    tokenizer: Any
    longest: int
    """Tokens that the text encoder reads."""
    form: InputForm
    grid_hw: tuple[int, int]
    """Of the features that the text is compared with."""


def load_sam3(files: Sam3Files) -> Loaded:
    """Read it into host memory; raises `ConfigError`."""
    form = check_sam3(files)
    try:
        from transformers import CLIPTokenizer, Sam3Model
    except ImportError as error:
        raise ConfigError(
            "sam3: needs the transformers package, 5.23 or later (pip install "
            f"'maskstream[concepts]'): {one_line(error)}"
        ) from error
    folder = files.folder
    model = _model(Sam3Model, folder)
    config: Any = model.config
    backbone = config.vision_config.backbone_config
    wanted = (backbone.image_size, backbone.image_size)
    if form.input_hw != wanted:
        raise ConfigError(
            f"{input_file(folder)}: pictures of {form.input_hw} pixels for a model of {wanted} "
            "(config.json), expected the same"
        )
    side = backbone.image_size // backbone.patch_size
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever the library makes of a broken file
        raise ConfigError(
            f"{tokenizer_file(folder)}: the tokenizer cannot be read ({one_line(error)})"
        ) from error
    longest = config.text_config.max_position_embeddings
    return Loaded(model, tokenizer, longest, form, (side, side))


def _model(kind: Any, folder: Path) -> nn.Module:  # noqa: ANN401 (of an optional package)
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model: nn.Module
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True,
            attn_implementation="sdpa", dtype="float32",
        )  # fmt: skip
    except Exception as error:  # whatever the library makes of wrong numbers
        raise ConfigError(f"{folder}: cannot be loaded as SAM3 ({one_line(error)})") from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        raise ConfigError(
            f"{weights_named(folder)}: lacks {lacking[0]}, or has it in another shape "
            f"({len(lacking)} tensors in all), expected those of the model in config.json"
        )
    if flaws := not_finite(model):
        raise ConfigError(f"{weights_named(folder)}: {flaws[0]}, expected weights of SAM3")
    return model
