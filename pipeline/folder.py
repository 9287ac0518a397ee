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
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.path = out if out is not None else DEFAULT_ROOT / f"{stamp}-{name}"
        self._check()

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
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refusal(error.strerror or str(error)) from error

    def discard(self) -> None:
        """Take it away again, where nothing was put into it."""
        with suppress(OSError):
            self.path.rmdir()

    def _check(self) -> None:
        try:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise self._refusal("it is not empty")
            there = self.path.absolute()
            while not os.path.lexists(there):
                there = there.parent
            if not there.is_dir():
                raise self._refusal(f"{there} is not a folder")
            # Asking for permission is not enough: there are folders that hold no files (/proc).
            with TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise self._refusal(error.strerror or str(error)) from error

    def _refusal(self, reason: str) -> ConfigError:
        return ConfigError(f"{self.path}: {reason} (expected a new or empty folder for the run)")
