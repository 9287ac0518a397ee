"""`maskstream` whose `/metrics` holds the interpreter, so that every scrape costs frames: the
negative control of tests that count what strangers cost."""

from __future__ import annotations

from kpi.prometheus import PrometheusSink
from pipeline.cli import main

STEPS = 30_000_000
"""Of a loop in C, about half a second in which no other thread runs."""

_render = PrometheusSink.render


def render(sink: PrometheusSink) -> bytes:
    sum(range(STEPS))
    return _render(sink)


if __name__ == "__main__":
    PrometheusSink.render = render  # type: ignore[method-assign]
    main()
