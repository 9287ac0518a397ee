"""What each kind of entry holds. `entry()` makes what a writer takes; `of` reads it again."""

from __future__ import annotations

from stages.recording.book_entries import Book, Gap
from stages.recording.input_entries import Detected, Picture, Prompted, State
from stages.recording.result_entries import Logits, Masks, Packet, VideoLogits
from stages.recording.stored_form import Stored

__all__ = [
    "Book",
    "Detected",
    "Gap",
    "Logits",
    "Masks",
    "Packet",
    "Picture",
    "Prompted",
    "State",
    "Stored",
    "VideoLogits",
]
