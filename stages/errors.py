"""Errors a person may see: one line each, naming what was wrong and what was expected."""

from __future__ import annotations


class MaskstreamError(Exception):
    """Base of every error whose message is meant for the person at the terminal."""

    exit_code = 1


class ConfigError(MaskstreamError):
    """The configuration, or a file it names, cannot be used; found before the run starts."""

    exit_code = 78


class UsageError(MaskstreamError):
    """The command line asks for something else than what was expected."""

    exit_code = 2


class OutputError(MaskstreamError):
    """Results cannot be written; what was finished before is there."""


class SourceError(MaskstreamError):
    """The source cannot be opened or read."""


class StageError(MaskstreamError):
    """A stage failed on a frame; raised `from` its cause."""

    def __init__(self, stage: str, frame_id: int, reason: str) -> None:
        super().__init__(f"{stage}: frame {frame_id}: {reason}")
        self.stage = stage
        self.frame_id = frame_id


class HttpError(MaskstreamError):
    """The HTTP port cannot be listened on."""


class ControlError(MaskstreamError):
    """The control channel cannot be offered, or did not answer."""


class ClipError(MaskstreamError):
    """What was asked of a clip cannot be done."""


class PromptError(ClipError):
    """A prompt on a clip cannot be used."""

    exit_code = 2


class RecordingError(MaskstreamError):
    """A recording cannot be made, or cannot be read."""


class GpuError(MaskstreamError):
    """The GPU's context is beyond repair; only a new process can use it again."""

    exit_code = 75


class ResidencyError(MaskstreamError):
    """The residency audit caught an operation that copies to, or waits for, the host."""
