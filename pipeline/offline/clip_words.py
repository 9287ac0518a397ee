"""Objects of a clip named by words: `--text` of `maskstream video`. Imports no torch by itself."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from pipeline.build import DETECTORS
from pipeline.config_errors import explain
from pipeline.offline.clip_prompts import ClipPrompt
from pipeline.offline.model import check_digest
from pipeline.offline.records import PromptRecord, TextRecord
from stages.errors import ConfigError, UsageError
from stages.shapes import Shape

if TYPE_CHECKING:
    from pipeline.offline.video_job import VideoJob
    from stages.clip.session import Clip
    from stages.clip.words import WordFinder


@dataclass(frozen=True, slots=True)
class Words:
    """What to look for, where, and with which model."""

    phrases: tuple[str, ...]
    model: str
    """A folder, or an id in the local Hugging Face cache."""
    revision: str | None
    sha256: str | None
    """Of its weights; another file is refused."""
    frame: int
    min_score: float | None
    """None: the model's."""


def words_of(
    phrases: tuple[str, ...],
    model: str | None,
    revision: str | None,
    sha256: str | None,
    frame: int | None,
    min_score: float | None,
) -> Words | None:
    """None where nothing is said; raises `UsageError` for options that go with nothing."""
    if phrases:
        if model is None:
            raise UsageError(
                "--text: expected --text-model too: a folder with a SAM3 model, or an id such as "
                "facebook/sam3 with --text-revision (nothing is fetched)"
            )
        check_digest("--text-sha256", sha256)
        return Words(phrases, model, revision, sha256, frame or 0, min_score)
    for option, value in (
        ("--text-model", model), ("--text-revision", revision), ("--text-sha256", sha256),
        ("--text-frame", frame), ("--text-score", min_score),
    ):  # fmt: skip
        if value is not None:
            raise UsageError(f"{option}: expected --text with what to look for")
    return None


def with_found(job: VideoJob, clip: Clip) -> tuple[VideoJob, TextRecord | None]:
    """The job with a prompt more for each object that its words name on their frame, and what
    found them. On stderr, how many there was no room for.

    Raises `ConfigError` for the model and the phrases, `UsageError` for a frame that does not
    exist, `PromptError` where nothing is found.
    """
    words = job.words
    if words is None:
        return job, None
    if words.frame >= clip.num_frames:
        raise UsageError(
            f"--text-frame {words.frame}: there is no such frame, expected 0 to "
            f"{clip.num_frames - 1}"
        )
    from stages.clip.words import find_named

    section = _section(words)
    finder = cast("WordFinder", DETECTORS.create(section, clip.device))
    first = max((prompt.told.object for prompt in job.prompts), default=0) + 1
    found = find_named(finder, clip.picture(words.frame), words.frame, first)
    prompts = tuple(
        ClipPrompt(
            f"--text {each.phrase!r}",
            PromptRecord(
                object=each.obj_id,
                frame=words.frame,
                name=each.phrase,
                text=each.phrase,
                score=round(each.score, 4),
            ),
            Shape(mask=each.mask),
            hashlib.sha256(each.mask.tobytes()).hexdigest(),
        )
        for each in found.named
    )
    record = TextRecord(
        model=words.model,
        revision=words.revision,
        weights_sha256=finder.weights_sha256(),
        min_score=section.min_score,
        left_out=found.left_out,
    )
    if found.left_out:
        sys.stderr.write(
            f"maskstream: --text: the {section.max_detections} surest are followed, "
            f"{found.left_out} more are not; a higher --text-score finds fewer\n"
        )
    return replace(job, prompts=(*job.prompts, *prompts)), record


def _section(words: Words) -> Any:  # noqa: ANN401 (the detector's own)
    kind = DETECTORS.config_class("sam3")
    asked: dict[str, object] = {
        "kind": "sam3", "model": words.model, "phrases": words.phrases, "every": 1,
        "revision": words.revision, "sha256": words.sha256,
    }  # fmt: skip
    if words.min_score is not None:
        asked["min_score"] = words.min_score
    try:
        return kind.model_validate(asked)
    except ValidationError as error:
        raise ConfigError(f"--text: {explain(error, kind)}") from error
