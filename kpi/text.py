"""Text that came out of a log, made fit for a page, a picture or a terminal."""

from __future__ import annotations

_LOST = "\N{REPLACEMENT CHARACTER}"


def printable(text: str, longest: int = 60) -> str:
    """`text` without control characters, line breaks and lone surrogates, cut to `longest`."""
    clean = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: longest + 1]
    )
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"
