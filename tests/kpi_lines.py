"""Lines of a KPI log: made, read strictly, and cut short by a disk that is full."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kpi.edge_events import SubscriberState


def event(number: int, topic: str = "result/cam") -> SubscriberState:
    return SubscriberState(topic=topic, subscribers=number)


def strict(line: str) -> dict[str, object]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    loaded = json.loads(line, parse_constant=refuse)
    assert isinstance(loaded, dict)
    return loaded


def read(path: Path) -> list[dict[str, object]]:
    return [strict(line) for line in path.read_text().splitlines()]


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """A file may not grow beyond `size` bytes: writes come up short, then fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
