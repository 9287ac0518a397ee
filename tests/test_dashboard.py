"""The dashboard file holds together; a real Prometheus is asked its queries elsewhere."""

from __future__ import annotations

import yaml
from conftest import ROOT
from dashboard import dashboard, queries

ROWS = [
    "Live state",
    "Latency distribution",
    "Stages",
    "Drops by reason",
    "Objects and presence",
    "GPU and process",
    "Transport and records",
]


def test_every_row_is_there_and_holds_queries() -> None:
    panels = dashboard()["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == ROWS
    assert {query.row for query in queries()} == set(ROWS)


def test_it_is_found_again_and_asks_the_chosen_data_source() -> None:
    board = dashboard()
    assert board["uid"] == "maskstream"
    source = ROOT / "configs/grafana/provisioning/datasources/prometheus.yaml"
    provisioned = yaml.safe_load(source.read_text())["datasources"][0]["uid"]
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables) == ["datasource", "source"]
    assert variables["datasource"]["current"]["value"] == provisioned
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    asked = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in asked if panel["datasource"] != chosen] == []
    targets = [target for panel in asked for target in panel["targets"]]
    assert [target["expr"] for target in targets if target["datasource"] != chosen] == []


def test_panels_have_names_ids_and_places_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    titles = [panel["title"] for panel in panels if panel["title"] != "Subscribers"]
    assert len(set(titles)) == len(titles)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) == 23


def test_queries_of_a_source_follow_the_variable() -> None:
    for query in queries():
        if "source" in query.expr:
            assert 'source=~"$source"' in query.expr, query
        assert "instance=" not in query.expr
        assert query.expr.count("(") == query.expr.count(")")
