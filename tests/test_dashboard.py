"""The dashboard file holds together; a real Prometheus is asked its queries elsewhere."""

from __future__ import annotations

import pytest
import yaml
from conftest import ROOT
from dashboard import Query, dashboard, metrics_in, queries, unfiltered
from test_kpi_prometheus import FULL, make, published, series

from kpi.edge_events import RecorderState

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
    assert list(variables) == ["datasource", "source", "instance"]
    assert variables["datasource"]["current"]["value"] == provisioned
    assert "allValue" not in variables["instance"], "all of the chosen source, not all there are"
    assert 'source=~"$source"' in variables["instance"]["query"]["query"]
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


@pytest.fixture(scope="module")
def with_source() -> set[str]:
    """The names of a run's samples that have the label `source`."""
    sink = make()
    sink.write(0.0, published())
    sink.write(0.0, FULL)
    sink.write(0.0, RecorderState("kpi", "recording"))
    found = series(sink)
    assert metrics_in(" ".join(query.expr for query in queries())) <= {name for name, _ in found}
    return {name for name, labels in found if "source" in dict(labels)}


@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.panel}: {query.expr}")
def test_a_query_follows_the_variables(query: Query, with_source: set[str]) -> None:
    assert unfiltered(query.expr, with_source) == []
    assert query.expr.count("(") == query.expr.count(")")


@pytest.mark.parametrize(
    "expr",
    [
        "maskstream_gpu_power_watts",
        "rate(maskstream_gpu_energy_joules_total[$__rate_interval])",
        'maskstream_gpu_power_watts{gpu="GPU-1"}',
        'maskstream_gpu_power_watts{instance="$instance"}',
        'maskstream_objects{instance=~"$instance"}',
        'maskstream_objects{source=~"$source"}',
        'maskstream_process_threads{instance=~"$instance"} / maskstream_process_cpu_cores',
    ],
)
def test_a_query_without_a_filter_is_caught(expr: str, with_source: set[str]) -> None:
    assert len(unfiltered(expr, with_source)) == 1


def test_what_is_shown_says_whose_it_is(with_source: set[str]) -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            if panel["type"] == "heatmap":
                continue  # of all that are chosen together
            whose = "source" if metrics_in(target["expr"]) <= with_source else "instance"
            assert f"{{{{{whose}}}}}" in target["legendFormat"], target
