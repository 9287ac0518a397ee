"""The shipped Grafana dashboard, as tests read it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from conftest import ROOT

PATH = ROOT / "configs" / "grafana" / "dashboard.json"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of one panel, as Grafana has it: with variables."""

    row: str
    panel: str
    expr: str

    def as_sent(self, source: str, instance: str, interval: str) -> str:
        """What Grafana would send for one source of one run."""
        values = {"$source": source, "$instance": instance, "$__rate_interval": interval}
        sent = self.expr
        for variable, value in values.items():
            sent = sent.replace(variable, value)
        return sent


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(PATH.read_text())
    return loaded


def queries() -> list[Query]:
    """Every query, in the order of the panels."""
    found, row = [], ""
    for panel in dashboard()["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        for target in panel.get("targets", []):
            found.append(Query(row, panel["title"], target["expr"]))
    return found


def unfiltered(expr: str, with_source: set[str]) -> list[str]:
    """The metrics in `expr` that are not selected by every variable that their labels allow;
    those of `with_source` have the label `source`, and all have `instance` from Prometheus."""
    found = []
    for name, _, selected in re.findall(r"\b(maskstream_\w+)(\{([^}]*)\})?", expr):
        wanted = {'instance=~"$instance"'}
        if name in with_source:
            wanted.add('source=~"$source"')
        if not wanted <= set(selected.split(", ")):
            found.append(name)
    return found


def metrics_in(expr: str) -> set[str]:
    return set(re.findall(r"\bmaskstream_\w+", expr))
