"""What was made before the frames is not collected between them."""

from __future__ import annotations

import gc
import weakref

from pipeline.settled import settled


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_there_rests_and_what_comes_is_collected() -> None:
    there = Knot()
    with settled():
        assert gc.get_freeze_count() > 1000
        looked_at = len(gc.get_objects())
        assert looked_at < gc.get_freeze_count() // 10
        seen = weakref.ref(Knot()), weakref.ref(there)
        del there
        gc.collect()
        assert seen[0]() is None
        assert seen[1]() is not None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert seen[1]() is None
