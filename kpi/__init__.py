"""KPI events of a run: typed, emitted without blocking, written by one thread."""

from kpi.emit import emit

__all__ = ["emit"]
