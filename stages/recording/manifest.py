"""The manifest of a recording: what it holds and what is needed to read it right."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

from stages.errors import RecordingError
from stages.recording.entry import KINDS, Kind
from stages.recording.fields import Fields
from stages.recording.quantise import LogitsDtype
from stages.recording.sealed_json import sealed, unsealed

NAME: Final = "manifest.json"
FORMAT: Final = "maskstream recording"
SCHEMA: Final = 1
MAX_BYTES: Final = 1 << 20

_DTYPES: Final = ("float32", "float16", "int8")
Layout = Literal["log", "npy"]


@dataclass(frozen=True, slots=True)
class Interpolation:
    """How low-resolution logits become those at video resolution, in torch's terms."""

    mode: Literal["bilinear"] = "bilinear"
    align_corners: bool = False
    antialias: bool = False
    non_overlapping: bool = False
    """Whether each pixel was then left to the object with the highest logit, as sam2's
    `_apply_non_overlapping_constraints` does: the others' logits are at most -10 there."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known when a recording begins."""

    layout: Layout
    session_id: str
    source_id: str = ""
    size_hw: tuple[int, int] | None = None
    """Of the source's picture, where it is known at the start; each record tells its own."""
    class_names: tuple[str, ...] = ()
    mask_threshold: float = 0.0
    """An upsampled logit above it is foreground."""
    model: str | None = None
    config_sha256: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    interpolation: Interpolation = Interpolation()
    recorded: tuple[Kind, ...] = ("logits",)
    """What of the run was asked to be recorded."""
    logits_dtype: LogitsDtype = "float32"
    exported_from: LogitsDtype | None = None
    """In which dtype the logits were kept before, where these are an export of fewer bits."""
    cleaning: tuple[str, ...] = ()
    """Settings of the segmenter by which the logits were changed after the model gave them."""
    recording_id: str = field(default_factory=lambda: secrets.token_hex(16))
    """32 hexadecimal digits."""
    created_unix_ns: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        if re.fullmatch(r"[0-9a-f]{32}", self.recording_id) is None:
            raise RecordingError(f"recording_id {self.recording_id!r:.80}: expected 32 hex digits")


def render(manifest: Manifest) -> bytes:
    """JSON with a CRC-32C of all the rest as its last value."""
    return sealed({"format": FORMAT, "schema": SCHEMA, **asdict(manifest)}, indent=2)


def parse(raw: bytes, where: str) -> Manifest:
    """Raises `RecordingError` for what `render` has not written, byte for byte."""
    told = Fields(unsealed(raw, where, indent=2), where)
    if told.text("format") != FORMAT or told.integer("schema") != SCHEMA:
        raise told.misfit("schema", f"{SCHEMA} of a {FORMAT}")
    return _manifest(told)


def _manifest(told: Fields) -> Manifest:
    shape = Fields(told.mapping("interpolation"), "interpolation")
    size = None if told.absent("size_hw") else told.integers("size_hw", 2)
    versions = told.mapping("versions")
    return Manifest(
        layout=_one_of(told, "layout", ("log", "npy")),
        session_id=told.text("session_id"),
        source_id=told.text("source_id"),
        size_hw=None if size is None else (size[0], size[1]),
        class_names=told.texts("class_names"),
        mask_threshold=told.number("mask_threshold"),
        model=None if told.absent("model") else told.text("model"),
        config_sha256=None if told.absent("config_sha256") else told.text("config_sha256"),
        versions={name: str(value) for name, value in versions.items()},
        interpolation=Interpolation(
            _one_of(shape, "mode", ("bilinear",)),
            *(shape.flag(name) for name in ("align_corners", "antialias", "non_overlapping")),
        ),
        recorded=_kinds(told),
        logits_dtype=_one_of(told, "logits_dtype", _DTYPES),
        exported_from=_one_of_or_none(told, "exported_from", _DTYPES),
        cleaning=() if told.absent("cleaning") else told.texts("cleaning"),
        recording_id=told.text("recording_id"),
        created_unix_ns=told.integer("created_unix_ns"),
    )


def _kinds(told: Fields) -> tuple[Kind, ...]:
    named = told.texts("recorded")
    if not set(named) <= set(KINDS):
        raise told.misfit("recorded", f"some of {', '.join(KINDS)}")
    return cast(tuple[Kind, ...], named)


def _one_of(told: Fields, name: str, choices: tuple[str, ...]) -> Any:  # noqa: ANN401 (a Literal)
    value = told.text(name)
    if value not in choices:
        raise told.misfit(name, " or ".join(choices))
    return cast(Any, value)


def _one_of_or_none(told: Fields, name: str, choices: tuple[str, ...]) -> Any:  # noqa: ANN401
    return None if told.absent(name) else _one_of(told, name, choices)


def load(folder: Path) -> Manifest:
    """The manifest in a recording's folder; raises `RecordingError`."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(raw[:MAX_BYTES], str(path))
