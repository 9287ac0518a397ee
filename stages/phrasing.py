"""What somebody may want to be looked for in words, and how that ends: `PhraseOutcome`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

MOST_PHRASES: Final = 16
"""That are looked for at once."""
LONGEST: Final = 128
"""Characters of a phrase; longer names do not go on the wire."""
PhraseFlaw = Literal["bad_phrase", "long_phrase"]
PhraseRefusal = PhraseFlaw | Literal["unknown_phrase", "too_many_phrases", "too_many", "failed"]
EXPECTED: Final[dict[PhraseRefusal, str]] = {
    "bad_phrase": f"expected 1 to {LONGEST} printable characters, not blanks alone",
    "long_phrase": "it is longer than the model reads, expected a word or a few",
    "unknown_phrase": "it is not looked for",
    "too_many_phrases": f"expected at most {MOST_PHRASES} phrases at once",
    "too_many": "too many commands wait",
    "failed": "it could not be done, see the log of the run",
}
"""What a person may want to know of a refusal."""


@dataclass(frozen=True, slots=True)
class PhraseOutcome:
    """How a wish ended."""

    reason: PhraseRefusal | None
    """None: it was granted."""
    frame_id: int | None = None
    """The first frame that it holds for."""
    class_id: int | None = None


def tidy(phrase: str) -> str:
    """Single spaces between words, none around them."""
    return " ".join(phrase.split())


def flaw_of(phrase: str) -> PhraseFlaw | None:
    """Why nothing can be looked for by these words, whatever the model."""
    phrase = tidy(phrase)
    return None if phrase and phrase.isprintable() and len(phrase) <= LONGEST else "bad_phrase"
