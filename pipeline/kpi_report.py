"""`maskstream kpi report`: write the page, whole or not at all. Imports no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

from kpi.gather import gather
from kpi.history import History
from kpi.reading import LogError, log_files, log_path
from stages.errors import ConfigError, MaskstreamError

REPORT_NAME = "report.html"


def write_report(run: Path, out: Path | None) -> int:
    """Write the report of `run` to `out` and say where; returns the exit code 0.

    Raises `ConfigError` for a log that cannot be read, `MaskstreamError` where `out` cannot be
    written; then nothing is left behind.
    """
    try:
        log = log_path(run)
        target = out if out is not None else log.with_name(REPORT_NAME)
        if any(_same(target, file) for file in log_files(log)):
            raise ConfigError(f"{target}: it is the log itself (expected another file)")
        history = gather(log)
    except LogError as error:
        raise ConfigError(str(error)) from error
    try:
        _write(target, history, log.absolute().parent.name)
    except OSError as error:
        raise MaskstreamError(f"{target}: cannot write: {error.strerror or error}") from error
    sys.stdout.write(f"{target}\n")
    return 0


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _write(target: Path, history: History, name: str) -> None:
    """The file is tried before the pictures are drawn, which takes seconds."""
    if target.is_dir():
        raise IsADirectoryError(None, "it is a folder")
    mask = os.umask(0)
    os.umask(mask)
    with NamedTemporaryFile(
        "w", dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as page:
        try:
            from kpi.report.page import report

            page.write(report(history, name))
            page.flush()
            os.fchmod(page.fileno(), 0o666 & ~mask)  # as any file; a temporary one is private
            os.replace(page.name, target)
        except BaseException:
            Path(page.name).unlink()
            raise
