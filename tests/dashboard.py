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

    def as_sent(self, source: str, interval: str) -> str:
        """What Grafana would send for one source."""
        return self.expr.replace("$source", source).replace("$__rate_interval", interval)


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


def metrics_in(expr: str) -> set[str]:
    return set(re.findall(r"\bmaskstream_\w+", expr))
