"""The native `sam3` package, opened from files that are named: nothing is ever fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from os.path import expanduser
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self, cast

import torch
from packaging.version import Version
from pydantic import Field, model_validator

from kpi.emit import emit
from kpi.events import ErrorRaised
from stages.base import Section
from stages.checkpoints import check_sha256, one_line, require_file
from stages.errors import ConfigError
from stages.file_digest import sha256_of

CHECKPOINT: Final = "sam3.pt"
BPE: Final = "bpe_simple_vocab_16e6.txt.gz"
"""Names of the files, as their owner gives them."""
OLDEST: Final = "0.1.2"
OLDEST_TORCH: Final = "2.7"
EmptyOutput = Literal["zeros", "skip", "retry"]


class Sam3ClipConfig(Section):
    """Where the native package finds what it needs, and what an empty frame means."""

    checkpoint_path: Path
    """Its own checkpoint (sam3.pt); read with `weights_only`."""
    bpe_path: Path
    """bpe_simple_vocab_16e6.txt.gz: the package on the index comes without it."""
    gpus_to_use: tuple[int, ...] = Field((0,), min_length=1)
    sha256: str | None = Field(None, pattern="^[0-9a-fA-F]{64}$")
    """Of the checkpoint; another file is refused."""
    empty_output: EmptyOutput = "zeros"
    """A frame for which the model gives no object: `zeros` hands it on, every object known since
    the last beginning with an empty mask; `skip` leaves it out, and counts it; `retry` says the
    words again on that frame, where they were words, and goes on from there: what was found before
    is forgotten, what is found then has new ids."""
    retries: int = Field(3, ge=1, le=100)
    """Most of them in a walk; empty frames after that are `zeros`."""

    @model_validator(mode="after")
    def _leaves_no_walk_of_many(self) -> Self:
        """A retry leaves a walk before its end, where the package's other processes still wait."""
        if self.empty_output == "retry" and len(self.gpus_to_use) > 1:
            raise ValueError("empty_output retry: expected a single GPU in gpus_to_use")
        return self


class Sam3Predictor(Protocol):
    """What of `Sam3VideoPredictorMultiGPU` is used."""

    def handle_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request by its `type`, one response."""

    def handle_stream_request(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """`propagate_in_video`: a response a frame."""

    def shutdown(self) -> None:
        """End its worker processes."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenedSam3:
    """A loaded predictor, and what its results depend on."""

    predictor: Sam3Predictor
    """To be shut down by whoever opened it."""
    versions: Mapping[str, str]
    """Of the packages sam3 and torch."""
    sha256: str
    """Of the checkpoint."""


def open_predictor(config: Sam3ClipConfig) -> OpenedSam3:
    """Load the model onto the GPUs; raises `ConfigError`. CUDA only, and not yet run on a GPU."""
    checkpoint, bpe = (Path(expanduser(path)) for path in (config.checkpoint_path, config.bpe_path))
    require_file(checkpoint, f"the checkpoint of sam3 ({CHECKPOINT})")
    require_file(bpe, f"the BPE vocabulary of sam3 ({BPE})")
    check_gpus(config.gpus_to_use)
    versions = check_versions()
    check_sha256(checkpoint, config.sha256)
    try:
        from sam3.model_builder import build_sam3_video_predictor
    except ImportError as error:
        raise ConfigError(
            f"sam3: the package cannot be imported ({one_line(error)}), expected "
            "pip install 'maskstream[sam3]'"
        ) from error
    try:
        made = build_sam3_video_predictor(
            checkpoint_path=str(checkpoint), bpe_path=str(bpe), gpus_to_use=list(config.gpus_to_use)
        )
    except Exception as error:  # whatever the package makes of wrong files
        raise ConfigError(f"{checkpoint}: sam3 cannot load it ({one_line(error)})") from error
    return OpenedSam3(cast(Sam3Predictor, made), versions, sha256_of(checkpoint))


@contextmanager
def loaded_sam3(config: Sam3ClipConfig) -> Iterator[OpenedSam3]:
    """The model on its GPUs, for any number of clips; shut down at the end, whatever happened.

    Raises `ConfigError`. CUDA only, and not yet run on a GPU.
    """
    opened = open_predictor(config)
    try:
        yield opened
    finally:
        try:
            opened.predictor.shutdown()
        except Exception as error:  # the first error is the one to be told
            emit(ErrorRaised("sam3", f"shutting down: {one_line(error)}"))


def check_versions() -> dict[str, str]:
    """The versions a result depends on; raises `ConfigError` where one is missing or too old."""
    found: dict[str, str] = {}
    for name, oldest in (("sam3", OLDEST), ("torch", OLDEST_TORCH)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise ConfigError(
                f"sam3 clip sessions need the {name} package, which is not installed (pip install "
                "'maskstream[sam3]'); the detector `sam3` needs transformers alone"
            ) from None
        if Version(found[name]) < Version(oldest):
            raise ConfigError(f"sam3: {name} is {found[name]}, expected {oldest} or later")
    return found


def check_gpus(gpus: tuple[int, ...]) -> None:
    """Raise `ConfigError` unless each is there."""
    if not torch.cuda.is_available():
        raise ConfigError(
            "sam3 clip sessions need a CUDA GPU, and torch finds none here; the detector `sam3` "
            "runs on the CPU too"
        )
    count = torch.cuda.device_count()
    for gpu in gpus:
        if not 0 <= gpu < count:
            raise ConfigError(f"gpus_to_use: got {gpu}, expected numbers from 0 to {count - 1}")
