"""From what a person calls a source (an address, a device, a file, a folder) to its section."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from pipeline.build import SOURCES, SourceConfig
from pipeline.config import load_config
from pipeline.config_errors import explain
from pipeline.yaml_file import apply_overrides, shipped_runs
from stages.errors import ConfigError

_IGTL: Final = ("igtl", "openigtlink")
_IGTL_PORT: Final = 18944
_DICOM_MAGIC: Final = b"DICM"  # at byte 128 of every DICOM file with a preamble
_LOOKED_AT: Final = 50  # files of a folder
_EXPECTED: Final = (
    "an address (rtsp://, http://, udp://, srt://, igtl://HOST:PORT, tcp:// or ipc:// of frames), "
    "/dev/videoN, a video or DICOM file, a folder, a configuration, or a kind of source"
)


def source_config(target: str, overrides: Sequence[str] = ()) -> SourceConfig:
    """The source that ``target`` means, with `key=value` overrides of its section.

    Raises `ConfigError`, which does not quote an address: it may hold a password.
    """
    if _is_config(target):
        return load_config(target, [f"source.{override}" for override in overrides]).source
    section = apply_overrides(_section(target), overrides)
    kind = section["kind"]
    if kind not in SOURCES.kinds:
        raise ConfigError(f"source: no kind {kind!r} here, expected one of {_kinds()}")
    model = SOURCES.config_class(kind)
    try:
        found = model.model_validate(section)
    except ValidationError as error:
        raise ConfigError(f"source of kind {kind}: {explain(error, model)}") from error
    assert isinstance(found, SourceConfig)  # noqa: S101 (every member's is one)
    return found


def _is_config(target: str) -> bool:
    named = target in {path.stem for path in shipped_runs()} - {*SOURCES.kinds}
    return named or target.endswith((".yaml", ".yml"))


def _section(target: str) -> dict[str, Any]:
    address = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", target)
    if address is not None:
        return _of_address(address[1].lower(), target)
    if target.startswith("pydicom:"):
        return {"kind": "dicom", "path": target}
    if target in SOURCES.kinds and not os.path.exists(target):
        return {"kind": target}
    return _of_path(target)


def _of_address(scheme: str, target: str) -> dict[str, Any]:
    if scheme in _IGTL:
        place = re.fullmatch(r"\w+://(\[[0-9a-fA-F:.]+\]|[^:/@]+)(?::(\d{1,5}))?/?", target)
        if place is None:
            raise ConfigError(f"source: cannot read the address, expected {scheme}://HOST:PORT")
        port = int(place[2]) if place[2] is not None else _IGTL_PORT
        return {"kind": "openigtlink", "host": place[1].strip("[]"), "port": port}
    if scheme in ("tcp", "ipc"):
        return {"kind": "zmq", "endpoint": target}
    if scheme in ("rtsp", "rtsps", "http", "https", "udp", "srt"):
        return {"kind": "rtsp", "url": target}
    raise ConfigError(f"source: no source reads {scheme}:// addresses, expected {_EXPECTED}")


def _of_path(target: str) -> dict[str, Any]:
    path = os.path.expanduser(target)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        if target.startswith("/dev/"):
            raise ConfigError(f"source: {target} is not there, expected a device") from error
        name = "what was given" if "@" in target else repr(target)  # it may hold a password
        raise ConfigError(
            f"source: {name} is no file that is there, and nothing else known, expected {_EXPECTED}"
        ) from error
    if stat.S_ISCHR(mode):
        return {"kind": "camera", "device": path}
    other = "images" if stat.S_ISDIR(mode) else "video"
    return {"kind": "dicom" if is_dicom(Path(path)) else other, "path": path}


def is_dicom(path: Path) -> bool:
    """Whether a file that is there is a DICOM file, or a folder holds such."""
    if path.is_dir():
        files = [Path(entry.path) for entry in os.scandir(path) if entry.is_file()][:_LOOKED_AT]
        return any(map(_is_dicom, files))
    return path.is_file() and _is_dicom(path)


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == _DICOM_MAGIC
    except OSError:
        return False


def _kinds() -> str:
    return ", ".join(SOURCES.kinds)
