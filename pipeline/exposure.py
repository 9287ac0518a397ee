"""Which of a run's ports anyone on the network may use: `exposed`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

from pipeline.config import RunConfig
from stages.curve import Reach
from stages.local_sockets import is_open


@runtime_checkable
class _WithoutKeys(Protocol):
    """A section of something that knows no CURVE."""

    @property
    def open_to_all(self) -> bool:
        """Whether anyone on the network may use it."""


def exposed(config: RunConfig, endpoints: Mapping[str, str]) -> Iterator[str]:
    """Names of those that are; ``endpoints``: what was bound, by name."""
    sections: dict[str, object] = {
        "results": config.results,
        "control": config.control,
        "frames": config.source,
        "openigtlink": config.openigtlink_out,
        "http": config.http,
    }
    for name, section in sections.items():
        if isinstance(section, Reach):
            is_exposed = is_open(endpoints.get(name, ""), section)
        else:
            is_exposed = isinstance(section, _WithoutKeys) and section.open_to_all
        if is_exposed:
            yield name
