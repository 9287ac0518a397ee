"""Who stands on whom: masks of two slots that show the same thing."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from stages.segmenters.slot_table import SlotTable

_COVERED: Final = 0.6
"""Share of the mask of an object that has just come, on others of its class, from which it is a
part of them."""
_NEW: Final = 3
"""Key frames for which an object counts as just come."""


def duplicates(table: SlotTable, least: float, astray: int) -> Tensor:
    """bool (N + 1,): objects that lie on others and have no right of their own to be there.

    Whoever came into sight a moment ago yields to a host, see `hosts`, with the same mask, and to
    hosts of its class whose masks are under most of its own. Of two that have been here for
    longer, the one with a detection on the last key frame, or a prompt, has the right: what lies
    under it has drifted there. Of two without, the older one stays.
    """
    shown = (table.logits > 0) & table.live[:, None, None]
    same = mask_iou(shown, shown) >= least
    new, host = newcomers(table), hosts(table, astray)
    intrudes = new[:, None] & host[None, :]
    rightful = (table.unseen < 0) | ((table.unseen == 0) & (table.missing == 0))
    older = table.object_ids[None, :] < table.object_ids[:, None]
    there = table.live[:, None] & table.live[None, :]
    yields = ~rightful[:, None] & (rightful[None, :] | older)
    yields = intrudes | (yields & ~intrudes.T)
    kin = host[None, :] & (table.class_ids[:, None] == table.class_ids[None, :])
    return (same & yields & there).any(dim=1) | (new & (_covered_by(kin, shown) >= _COVERED))


def _covered_by(others: Tensor, masks: Tensor) -> Tensor:
    """float32 (n,): share of each mask, bool (n, h, w), that lies on any of `others`, bool (n, n),
    of them; 0 where it is empty."""
    pixels = masks.flatten(1).float()
    under = (others.float() @ pixels) > 0
    share: Tensor = (pixels * under).sum(dim=1) / pixels.sum(dim=1).clamp(min=1)
    return share


def newcomers(table: SlotTable) -> Tensor:
    """bool (N + 1,): objects that came into sight a moment ago, not because somebody asked."""
    return (table.settled < _NEW) & (table.unseen >= 0)


def hosts(table: SlotTable, astray: int) -> Tensor:
    """bool (N + 1,): objects that others find in place: they have been there for a while, or
    somebody asked for them, and a detection saw them on one of the last `astray` key frames."""
    return table.live & ~newcomers(table) & (table.unseen < astray)


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """float32 (n, m) of bool (n, h, w) and (m, h, w); 0 where both are empty."""
    first, second = a.flatten(1).float(), b.flatten(1).float()
    both = first @ second.T
    iou: Tensor = both / (first.sum(1)[:, None] + second.sum(1)[None, :] - both).clamp(min=1)
    return iou
