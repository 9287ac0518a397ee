"""The folder that a run writes."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from stages.errors import ConfigError

DEFAULT_ROOT = Path("runs")


class RunFolder:
    """`runs/<utc>-<name>`, or the folder that was asked for; never one that holds a run.

    Checked when constructed, so that a hopeless one is told before models load, and made by
    `create`. Raises `ConfigError`.
    """

    def __init__(self, name: str, out: Path | None) -> None:
        self.path = out if out is not None else default_path(name)
        check_folder(self.path)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def kpi(self) -> Path:
        return self.path / "kpi.jsonl"

    @property
    def endpoints(self) -> Path:
        return self.path / "endpoints.json"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def control(self) -> Path:
        return self.path / "control.jsonl"

    @property
    def preview(self) -> Path:
        return self.path / "preview.png"

    @property
    def film(self) -> Path:
        return self.path / "preview.mp4"

    @property
    def error_log(self) -> Path:
        return self.path / "error.log"

    def create(self) -> None:
        make_folder(self.path)

    def discard(self) -> None:
        """Take it away again, where nothing was put into it."""
        with suppress(OSError):
            self.path.rmdir()


def default_path(name: str) -> Path:
    """Where results go that nobody gave a place: `runs/<utc>-<name>`."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return DEFAULT_ROOT / f"{stamp}-{name}"


def check_folder(path: Path, *, empty: bool = True, unless: str = "") -> None:
    """Raise `ConfigError` unless files can be written to `path`, which need not be there yet;
    `empty`: nor if something lies in it. `unless`: for its message, what would have helped."""
    try:
        if empty and path.is_dir() and any(path.iterdir()):
            raise _refusal(path, "it is not empty", unless)
        there = path.absolute()
        while not os.path.lexists(there):
            there = there.parent
        if not there.is_dir():
            raise _refusal(path, f"{there} is not a folder")
        # Asking for permission is not enough: there are folders that hold no files (/proc).
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _refusal(path, error.strerror or str(error)) from error


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make `path` and what is above it; raises `ConfigError`."""
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise _refusal(path, error.strerror or str(error)) from error


def _refusal(path: Path, reason: str, unless: str = "") -> ConfigError:
    return ConfigError(f"{path}: {reason} (expected a new or empty folder for the run{unless})")
