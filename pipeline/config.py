"""The configuration of a run: YAML in, one frozen model out, every mistake in one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from kpi.detail import DetailName
from pipeline.build import DETECTORS, SEGMENTERS, SOURCES, SourceConfig
from pipeline.config_errors import UNKNOWN_KEY, expected_keys, explain
from pipeline.control.config import ControlConfig
from pipeline.http_config import HttpConfig
from pipeline.reach import with_curve, with_insecure_bind
from pipeline.yaml_file import apply_overrides, find_config, parse_yaml
from stages.base import Section
from stages.curve import CurveConfig
from stages.errors import ConfigError
from stages.pictures_config import PicturesConfig
from stages.recorder.config import RecorderConfig
from stages.registry import Registry
from stages.sinks.cuda_ipc import CudaIpcConfig
from stages.sinks.openigtlink_server import OpenIGTLinkServerConfig
from stages.sinks.zmq_publisher import ZmqPublisherConfig


def _member_of(registry: Registry[Any]) -> BeforeValidator:
    """Validates a section with the config class that its `kind` names."""

    def choose(value: object) -> Section:
        if isinstance(value, Section):
            return value
        if not isinstance(value, dict):
            raise PydanticCustomError("section", "Input should be a section (keys and values)")
        kind = value.get("kind")
        if kind not in registry.kinds:
            known = ", ".join(registry.kinds)
            raise PydanticCustomError(
                "kind", "kind: got {kind}, expected one of {known}", {"kind": kind, "known": known}
            )
        section = registry.config_class(kind)
        keys = list(section.model_fields)
        for key in value:
            if key not in keys:
                hint = expected_keys(str(key), keys)
                raise PydanticCustomError(
                    UNKNOWN_KEY, "{key}: unknown key{hint}", {"key": key, "hint": hint}
                )
        return section.model_validate(value)

    return BeforeValidator(choose)


def _yaml_off(value: object) -> object:
    """YAML reads the word off as false."""
    return "off" if value is False else value


class GrabConfig(Section):
    """How pictures wait for the chain."""

    mailbox: Literal["latest", "every"] = "latest"
    """`latest` replaces a waiting picture by a newer one; `every` makes the source wait.
    A camera or network video cannot: what it loses meanwhile is counted as its `lost`."""
    depth: int = Field(default=4, ge=1, le=64)
    """Pictures that may wait under `every`."""
    max_age_ms: float | None = Field(default=None, gt=0)
    """A frame older than this when its turn comes is dropped (`stale`), never segmented."""


class KpiConfig(Section):
    """What is written to kpi.jsonl and sampled beside the run."""

    device_interval_s: float = Field(default=1.0, ge=0.05, le=3600)
    detail: Annotated[DetailName, BeforeValidator(_yaml_off)] = "frame"
    """`frame`: a line an event; `second`: one a second instead of those of each frame; `off`: no
    figures, only what happened. Prometheus sees everything whichever it is."""
    max_file_bytes: int = Field(default=64 << 20, ge=1 << 16)
    """kpi.jsonl is then renamed to kpi.jsonl.1, and so on."""
    keep_files: int = Field(default=4, ge=1, le=100)
    """Of those."""
    flush_s: float = Field(default=0.0, ge=0, le=10)
    """Lines wait so long for more; there is never an fsync."""
    latency_budget_ms: float | None = Field(default=100.0, gt=0, lt=1000)
    """Grab to packet, for 99 of 100 frames; an alert compares, with a histogram that ends at
    1 s. null: nothing is promised."""


class PreviewConfig(Section):
    """The picture, and the film, with coloured masks that a run leaves behind."""

    every: int = Field(default=25, ge=1)
    """Every n-th frame is a candidate; the one with most objects is drawn when the run ends."""
    film_frames: int = Field(default=0, ge=0, le=600)
    """So many last frames become preview.mp4, too; 0: none. Masks are then copied every frame."""


class RunConfig(Section):
    """Everything a run needs; see `configs/` for examples."""

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, values: object) -> object:
        return with_curve(values) if isinstance(values, dict) else values

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda:\d{1,2})$")
    as_numpy: bool = False
    """Legacy: masks leave the device right after Segment, as bool arrays."""
    mask_threshold: float = 0.0
    """Logit above which a pixel is foreground."""
    audited_frames: int = Field(default=3, ge=0)
    """Frames at the start that run under the residency guard, counting; see --audit for all."""
    source: Annotated[SerializeAsAny[SourceConfig], _member_of(SOURCES)]
    grab: GrabConfig = GrabConfig()
    detector: Annotated[SerializeAsAny[Section], _member_of(DETECTORS)]
    segmenter: Annotated[SerializeAsAny[Section], _member_of(SEGMENTERS)]
    curve: CurveConfig | None = None
    """Keys for every ZMQ socket of this run that has none of its own."""
    results: ZmqPublisherConfig | None = ZmqPublisherConfig()
    pictures: PicturesConfig | None = None
    """For viewers; without it no pixel is sent to anyone."""
    openigtlink_out: OpenIGTLinkServerConfig | None = None
    """Results for 3D Slicer; null: not offered."""
    cuda_ipc: CudaIpcConfig | None = None
    """Experimental: masks for GPU programs on this host; null: not offered."""
    recorder: RecorderConfig | None = None
    """What is kept on disk; null: nothing."""
    control: ControlConfig | None = ControlConfig()
    http: HttpConfig | None = HttpConfig()
    kpi: KpiConfig = KpiConfig()
    preview: PreviewConfig | None = PreviewConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.as_numpy and self.results is not None and self.results.masks == "logits":
            raise PydanticCustomError(
                "as_numpy", "results.masks: got logits, expected another: as_numpy has none"
            )
        recorder = self.recorder
        if recorder is not None and self.as_numpy and "logits" in recorder.record:
            raise PydanticCustomError(
                "as_numpy", "recorder.record: got logits, expected masks: as_numpy has no logits"
            )
        if recorder is not None and self.results is None and "packets" in recorder.record:
            raise PydanticCustomError(
                "packets",
                "recorder.record: got packets, expected none: results is null",
            )
        if self.pictures is not None and self.results is None:
            raise PydanticCustomError(
                "pictures", "pictures: results is null, expected a socket to send them by"
            )
        return self

    def as_yaml(self) -> str:
        """The resolved configuration, every default written out; loads back to the same."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def sha256(self) -> str:
        """Of the resolved configuration, keys sorted."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_config(
    name_or_path: str, overrides: Sequence[str] = (), *, insecure_bind: bool = False
) -> RunConfig:
    """Read a shipped configuration by name or a YAML file, and apply `a.b=value` overrides.

    `insecure_bind` sets that key in every section that has it. Raises `ConfigError` with file,
    key, value and what was expected.
    """
    path = find_config(name_or_path)
    raw = parse_yaml(path)
    if insecure_bind:
        raw = with_insecure_bind(raw)
    return parse_config(raw, path, overrides)


def parse_config(raw: dict[str, Any], path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Validate what stood in `path`; raises `ConfigError`."""
    values = apply_overrides(raw, overrides)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, RunConfig)}") from error
