"""What SAM2 remembers of each object, in tensors of fixed size however long the stream.

A frame of the official video predictor depends on the spatial memory and the object pointers of
the conditioning (prompted) frames, on the spatial memory of the last six frames and the pointers
of the last fifteen (`SAM2Base._prepare_memory_conditioned_features`). That is what a slot holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

NEVER: Final = -1
"""Time of a cell that holds nothing; all others are 0 or more."""
Direction = Literal[1, -1]
"""Of a walk through frames: 1 forward, -1 backward."""


@dataclass(frozen=True, slots=True)
class BankShape:
    """The sizes behind a `MemoryBank`."""

    slots: int
    """N object slots; one more is allocated, see `MemoryBank.scratch`."""
    conditioning: int
    """K conditioning frames an object, at least 2."""
    recent: int
    """R frames of spatial memory (6 in every published SAM2)."""
    pointers: int
    """P frames of object pointers (15, likewise)."""
    tokens: int
    """L = (image_size / 16)^2 spatial tokens a frame."""
    memory_dim: int
    """M channels of a spatial token."""
    model_dim: int
    """C channels of an object pointer."""

    @property
    def nbytes(self) -> int:
        """Exact size in bytes: (N + 1) x ((K + R) L M x 2 + (K + P) C x 4 + (K + R + P + 1) x 8).

        Spatial memory is bfloat16 as in the official predictor, pointers float32, times int64.
        """
        spatial = (self.conditioning + self.recent) * self.tokens * self.memory_dim * 2
        pointers = (self.conditioning + self.pointers) * self.model_dim * 4
        times = (self.conditioning + self.recent + self.pointers + 1) * 8
        return (self.slots + 1) * (spatial + pointers + times)


@dataclass(frozen=True, slots=True, eq=False)
class Recollection:
    """The memory of b objects as keys of an attention, T = (K + R) L + (K + P) n tokens each.

    n = C / M tokens make up a pointer; spatial tokens come first.
    """

    spatial: Tensor
    """bfloat16 (b, K + R, L, M)."""
    spatial_age: Tensor
    """int64 (b, R): 1 is the frame before in the direction of the walk; other values belong to
    cells that are not visible."""
    pointers: Tensor
    """float32 (b, K + P, C)."""
    pointer_age: Tensor
    """int64 (b, K + P), likewise; those of conditioning frames may be any."""
    visible: Tensor
    """bool (b, T)."""


class MemoryBank:
    """Slots of memory. Cells are found by time, so holes and late starts need no book-keeping.

    A conditioning frame is written into the rings too and hidden there while the bank of K still
    holds it: once K newer ones have displaced it, it counts as an ordinary recent frame, as in
    the official predictor with `max_cond_frames_in_attn = K`.
    """

    def __init__(
        self, shape: BankShape, device: torch.device, future_pointers: bool = False
    ) -> None:
        """`future_pointers`: whether the pointers of conditioning frames that are still to come
        are seen too (`only_obj_ptrs_in_the_past_for_eval` is false; their spatial memory always
        is)."""
        self.shape = shape
        self.direction: Direction = 1
        """Of the walk: what lies behind is recent."""
        self._future_pointers = future_pointers
        rows = shape.slots + 1
        spatial = (shape.tokens, shape.memory_dim)

        def times(cells: int) -> Tensor:
            return torch.full((rows, cells), NEVER, dtype=torch.int64, device=device)

        def features(cells: int) -> Tensor:
            return torch.zeros(rows, cells, *spatial, dtype=torch.bfloat16, device=device)

        self._cond, self._recent = features(shape.conditioning), features(shape.recent)
        self._cond_pointers = torch.zeros(rows, shape.conditioning, shape.model_dim, device=device)
        self._pointers = torch.zeros(rows, shape.pointers, shape.model_dim, device=device)
        self._cond_time, self._recent_time = times(shape.conditioning), times(shape.recent)
        self._pointer_time = times(shape.pointers)
        self._conditioned = torch.zeros(rows, dtype=torch.int64, device=device)
        self._pointer_tokens = shape.model_dim // shape.memory_dim

    @property
    def scratch(self) -> int:
        """A slot that is written when there is nowhere to write, and never read."""
        return self.shape.slots

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Everything that is held."""
        yield from (
            self._cond, self._recent, self._cond_pointers, self._pointers,
            self._cond_time, self._recent_time, self._pointer_time, self._conditioned,
        )  # fmt: skip

    def clear(self) -> None:
        """Forget everything."""
        for tensor in self.tensors:
            tensor.zero_()
        for times in (self._cond_time, self._recent_time, self._pointer_time):
            times.fill_(NEVER)

    def open(self, rows: Tensor) -> None:
        """Forget what the slots `rows`, int64 (b,), held: a new object moves in."""
        for times in (self._cond_time, self._recent_time, self._pointer_time):
            times.index_fill_(0, rows, NEVER)
        self._conditioned.index_fill_(0, rows, 0)

    def most_held(self, live: Tensor) -> Tensor:
        """int64 (): the most conditioning frames that a slot holds where `live`, bool (N + 1,)."""
        return torch.where(live, self._conditioned, 0).amax().clamp(max=self.shape.conditioning)

    def recall(self, rows: Tensor, now: Tensor, held: int | None = None) -> Recollection:
        """What the slots `rows`, int64 (b,), remember at time `now`, int64 (b,).

        `held`: at least as many conditioning frames as any of them holds; K where it is not
        known. Cells are filled in order, so the others are left out. The first conditioning cell
        is always visible, so that empty slots see something finite.
        """
        held = self.shape.conditioning if held is None else held
        cond_time = self._cond_time[:, :held].index_select(0, rows)
        recent_time = self._recent_time.index_select(0, rows)
        pointer_time = self._pointer_time.index_select(0, rows)
        recent_age, pointer_age, cond_age = (
            (now[:, None] - times) * self.direction
            for times in (recent_time, pointer_time, cond_time)
        )
        recent = _is_recent(recent_age, recent_time, cond_time, self.shape.recent)
        pointer = _is_recent(pointer_age, pointer_time, cond_time, self.shape.pointers)
        cond = cond_time != NEVER
        pointing = cond if self._future_pointers else cond & (cond_age >= 0)
        first = torch.zeros_like(cond)
        first[:, :1].fill_(True)
        spatial_visible = torch.cat((cond | first, recent), dim=1)
        pointer_visible = torch.cat((pointing, pointer), dim=1)
        visible = (
            spatial_visible.repeat_interleave(self.shape.tokens, dim=1),
            pointer_visible.repeat_interleave(self._pointer_tokens, dim=1),
        )
        return Recollection(
            spatial=torch.cat(
                (self._cond[:, :held].index_select(0, rows), self._recent.index_select(0, rows)),
                dim=1,
            ),
            spatial_age=recent_age,
            pointers=torch.cat(
                (
                    self._cond_pointers[:, :held].index_select(0, rows),
                    self._pointers.index_select(0, rows),
                ),
                dim=1,
            ),
            pointer_age=torch.cat((cond_age, pointer_age), dim=1),
            visible=torch.cat(visible, dim=1),
        )

    def remember(
        self, rows: Tensor, now: Tensor, memory: Tensor, pointer: Tensor, live: Tensor
    ) -> None:
        """Write a frame into the rings of the slots `rows`, int64 (b,), each at most once.

        `now` int64 (b,); `memory` bfloat16 (b, L, M); `pointer` float32 (b, C); what is not
        `live`, bool (b,), is written as a hole.
        """
        time = torch.where(live, now, NEVER)
        self._put_memory(rows, now, memory, time)
        self._put_pointer(rows, now, pointer, time)

    def restore(self, rows: Tensor, now: Tensor, memory: Tensor | None, pointer: Tensor) -> None:
        """`remember` again a frame whose `memory` may be gone; the oldest frame comes first."""
        if memory is not None:
            self._put_memory(rows, now, memory, now)
        self._put_pointer(rows, now, pointer, now)

    def _put_memory(self, rows: Tensor, now: Tensor, memory: Tensor, time: Tensor) -> None:
        cell = now.remainder(self.shape.recent)
        self._recent.index_put_((rows, cell), memory)
        self._recent_time.index_put_((rows, cell), time)

    def _put_pointer(self, rows: Tensor, now: Tensor, pointer: Tensor, time: Tensor) -> None:
        cell = now.remainder(self.shape.pointers)
        self._pointers.index_put_((rows, cell), pointer)
        self._pointer_time.index_put_((rows, cell), time)

    def condition(self, rows: Tensor, now: Tensor, memory: Tensor, pointer: Tensor) -> None:
        """Write a conditioning frame in place of the oldest one; see `remember`."""
        self.hold(rows, now, memory, pointer)
        self.remember(rows, now, memory, pointer, torch.ones_like(rows, dtype=torch.bool))

    def hold(self, rows: Tensor, now: Tensor, memory: Tensor, pointer: Tensor) -> None:
        """The same for a frame that is not displaced by others, so needs no place in the rings:
        K is enough for all that there are."""
        cell = self._conditioned.index_select(0, rows).remainder(self.shape.conditioning)
        self._cond.index_put_((rows, cell), memory)
        self._cond_pointers.index_put_((rows, cell), pointer)
        self._cond_time.index_put_((rows, cell), now)
        self._conditioned.index_add_(0, rows, torch.ones_like(rows))


def _is_recent(age: Tensor, times: Tensor, cond_times: Tensor, reach: int) -> Tensor:
    """bool (b, cells): written 1 to `reach` frames ago and no conditioning frame of the bank."""
    held = (times[:, :, None] == cond_times[:, None, :]).any(dim=2)
    return (times != NEVER) & (age >= 1) & (age <= reach) & ~held
