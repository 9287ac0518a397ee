"""Keeps Python's collector from looking at everything again and again: `settled`."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled() -> Iterator[None]:
    """What exists by now is left out of collections meanwhile.

    With torch imported a full one takes 0.1 to 0.25 s of one core, and no thread of the
    process runs meanwhile: a frame, or an answer, would be late by as much. What is made from now
    on is collected as ever.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
