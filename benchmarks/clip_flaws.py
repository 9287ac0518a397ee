"""What a clip tracker can leave out or get wrong; each must break parity with sam2's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from torch import Tensor

from stages.clip.outputs import Output
from stages.clip.session import Clip
from stages.segmenters.memory_bank import MemoryBank, Recollection


def forget(clip: Clip) -> None:
    """Nothing is held of a walk when the next one begins."""

    def trim(held: dict[int, Output], frames: Iterable[int]) -> None:
        for frame in list(frames):
            held.pop(frame, None)

    clip._tracker._retention.trim = trim  # type: ignore[method-assign]


def _change_bank(clip: Clip, change: Callable[[MemoryBank], None]) -> None:
    """Do something to each bank as soon as it is made."""
    core = clip._core
    whole = core.resize

    def resize(slots: int, conditioning: int) -> None:
        whole(slots, conditioning)
        change(core.bank)

    core.resize = resize  # type: ignore[method-assign]


def _blind_to_future(bank: MemoryBank) -> None:
    """Conditioning frames that are still to come are not seen where there is an earlier one."""
    whole, tokens = bank.recall, bank.shape.tokens

    def recall(rows: Tensor, now: Tensor, held: int) -> Recollection:
        memory = whole(rows, now, held)
        ahead = memory.pointer_age[:, :held] < 0
        ahead &= ~ahead.all(dim=1, keepdim=True)
        visible = memory.visible.clone()
        visible[:, : held * tokens] &= ~ahead.repeat_interleave(tokens, dim=1)
        return replace(memory, visible=visible)

    bank.recall = recall  # type: ignore[method-assign]


def _see_future_pointers(bank: MemoryBank) -> None:
    bank._future_pointers = True


def _keep_two(clip: Clip) -> None:
    """The bank holds two conditioning frames, whatever was prompted."""
    core = clip._core
    whole = core.resize
    core.resize = lambda slots, conditioning: whole(slots, 2)  # type: ignore[method-assign]


def _look_ahead(bank: MemoryBank) -> None:
    """Walking backward, what is recent lies before, as if one walked forward."""
    whole = bank.recall

    def recall(rows: Tensor, now: Tensor, held: int) -> Recollection:
        there, bank.direction = bank.direction, 1
        found: Recollection = whole(rows, now, held)
        bank.direction = there
        return found

    bank.recall = recall  # type: ignore[method-assign]


CLIP_FLAWS: Final[dict[str, Callable[[Clip], None]]] = {
    "first-walk": forget,
    "normaliser": lambda clip: None,
    "future-cond": lambda clip: _change_bank(clip, _blind_to_future),
    "future-pointers": lambda clip: _change_bank(clip, _see_future_pointers),
    "cond-k": _keep_two,
    "direction": lambda clip: _change_bank(clip, _look_ahead),
}
"""`normaliser`, of fewer than 16 frames only: the clip is taken for an endless one."""
