"""A real Prometheus scrapes a real run, and an exporter that has everything: each query of the
dashboard and of the alerts is asked."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from conftest import ROOT, cli_starter
from dashboard import Query, metrics_in, queries
from exporters import MUTE, RUN, STILL, WHOLE, Job, stand_still, stay_mute, tell_everything
from numpy.typing import NDArray
from prometheus_server import Prometheus, QueryError, Series, scraping

from kpi.metrics import SECONDS

pytestmark = pytest.mark.timeout(180)

RULES = ROOT / "configs" / "prometheus" / "alerts.yaml"
INTERVAL = "5s"
START_S = 100.0
EMPTY_WITHOUT_A_GPU = {
    "p95 on the GPU": "stages have GPU times only on a GPU",
    "Work": "NVML's",
    "Memory": "NVML's",
    "Power": "NVML's",
    "Temperature": "NVML's",
    "Clocks": "NVML's",
    "Slowed down": "NVML's",
    "PCIe": "NVML's",
    "Memory errors": "NVML's",
}
"""Panels that a run on a machine without a GPU may leave empty, and why."""
MAY_BE_EMPTY = ("maskstream_gpu_",)
ALERTS: list[dict[str, str]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]


class Watched(NamedTuple):
    prometheus: Prometheus
    ports: dict[str, int]
    """By the name of the job."""
    latencies_ms: list[float]
    """Of the frames that `STILL` was told."""
    log: Path
    """The KPI log of `RUN`."""

    def sent(self, job: Job, query: Query) -> str:
        """What Grafana would send for `job`, its run chosen too."""
        return query.as_sent(job.source, f"127.0.0.1:{self.ports[job.name]}", INTERVAL)

    def problems(self, job: Job, expr: str) -> str | None:
        """Why `expr` shows nothing of `job`; None where it has a number to show."""
        try:
            found = self.prometheus.query(expr)
        except QueryError as error:
            return f"refused: {error}"
        if not any(math.isfinite(one.value) for one in found if _is_of(job, one)):
            return "no data"
        return None


def _is_of(job: Job, series: Series) -> bool:
    """Sums lose the job and keep the source; what has neither was selected by its source."""
    labels = series.labels
    if "job" in labels:
        return labels["job"] == job.name
    return labels.get("source", job.source) == job.source


def port_of_run(out: Path) -> int:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError, json.JSONDecodeError):  # not there, or half of it
            endpoints = json.loads((out / "endpoints.json").read_text())
            return int(endpoints["http"].rpartition(":")[2])
        time.sleep(0.1)
    pytest.fail("the run does not start")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        start = stack.enter_context(cli_starter())
        settings = (
            *(
                "results.endpoint=tcp://127.0.0.1:0",
                "http.port=0",
                "control.endpoint=tcp://127.0.0.1:0",
                "source.ahead=60",
            ),
            *("kpi.device_interval_s=0.2", "preview=null"),
        )
        options = [word for setting in settings for word in ("--set", setting)]
        start("run", "demo", "--out", "out", *options, cwd=folder)
        whole = tell_everything(stack)
        still, latencies = stand_still(stack)
        ports = {WHOLE.name: whole, STILL.name: still, MUTE.name: stay_mute(stack)}
        ports[RUN.name] = port_of_run(folder / "out")
        server = stack.enter_context(scraping(folder, ports, RULES))
        log = folder / "out" / "kpi.jsonl"
        watched = Watched(server, ports, latencies, log)
        for job in (RUN, WHOLE):
            selected = f'maskstream_frames_total{{source="{job.source}",outcome="published"}}'
            server.await_data(f"rate({selected}[{INTERVAL}]) > 0")
        time.sleep(2.0)  # device samples are rates, and the packets are told once a second
        yield watched


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.panel)
def test_a_query_of_the_dashboard_has_data(watched: Watched, query: Query) -> None:
    problem = watched.problems(WHOLE, watched.sent(WHOLE, query))
    assert problem is None, "on a machine that has everything"
    problem = watched.problems(RUN, watched.sent(RUN, query))
    if problem is not None:
        assert problem == "no data"
        assert query.panel in EMPTY_WITHOUT_A_GPU


@pytest.mark.parametrize("query", queries(), ids=lambda query: query.panel)
def test_a_query_shows_the_chosen_run_alone(watched: Watched, query: Query) -> None:
    for job in (WHOLE, RUN):
        found = watched.prometheus.query(watched.sent(job, query))
        assert [one for one in found if not _is_of(job, one)] == []


def test_a_query_without_a_filter_shows_the_other_runs(watched: Watched) -> None:
    for name in ("maskstream_gpu_power_watts", "maskstream_errors_total"):
        found = watched.prometheus.query(name)
        assert [one for one in found if not _is_of(RUN, one)]


def test_only_what_may_be_absent_may_be_empty() -> None:
    names = {query.panel for query in queries()}
    assert EMPTY_WITHOUT_A_GPU.keys() <= names
    for query in queries():
        absent = any(name.startswith(MAY_BE_EMPTY) for name in metrics_in(query.expr))
        if query.panel in EMPTY_WITHOUT_A_GPU:
            assert absent or 'clock="gpu"' in query.expr, query


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_is_there(watched: Watched, rule: dict[str, str]) -> None:
    series = watched.prometheus.query(rule["expr"])  # raises where it is refused
    assert not [one for one in series if not math.isfinite(one.value)]
    assert unknown(watched.prometheus, rule["expr"]) == set()


def test_prometheus_evaluates_every_alert(watched: Watched) -> None:
    (group,) = watched.prometheus.get("rules")["groups"]
    assert [rule["name"] for rule in group["rules"]] == [rule["alert"] for rule in ALERTS]
    assert {(rule["health"], rule.get("lastError", "")) for rule in group["rules"]} == {("ok", "")}


def test_alerts_fire_on_what_is_wrong_and_on_nothing_else(watched: Watched) -> None:
    """On the exporter that drops every second frame, has a fault, a hot GPU, a paused recorder
    and nobody listening; `for` is not waited for."""
    expected = {"DroppingFrames", "SubscribersMissing", "GpuThrottling", "RecorderPaused"}
    assert firing(watched.prometheus, WHOLE) == {f"Maskstream{name}" for name in expected}


def test_a_run_that_streams_and_never_had_a_result_is_stale(watched: Watched) -> None:
    expected = {"MaskstreamSourceStale", "MaskstreamNotReady"}
    assert firing(watched.prometheus, MUTE) == expected
    assert not firing(watched.prometheus, RUN) & {*expected, "MaskstreamHangs"}


def firing(prometheus: Prometheus, job: Job) -> set[str]:
    """The alerts whose condition `job` meets."""
    return {
        rule["alert"]
        for rule in ALERTS
        if any(_is_of(job, one) for one in prometheus.query(rule["expr"]))
    }


@pytest.mark.parametrize(
    ("misspelt", "problem"),
    [
        ('rate(maskstream_frame_total{source=~"whole"}[5s])', "no data"),
        ("maskstream_gpu_utilisation_ratio", "no data"),
        ('maskstream_frames_total{souce=~"whole"}', "no data"),
        ("rate(maskstream_frames_total)", "refused: invalid parameter"),
        ("histogram_quantil(0.5, maskstream_objects)", "refused: invalid parameter"),
    ],
)
def test_a_misspelt_query_is_caught(watched: Watched, misspelt: str, problem: str) -> None:
    found = watched.problems(WHOLE, misspelt)
    assert found is not None
    assert found.startswith(problem)


def test_a_misspelt_metric_of_an_alert_is_caught(watched: Watched) -> None:
    assert unknown(watched.prometheus, "maskstream_suorce_up == 0") == {"maskstream_suorce_up"}


def unknown(prometheus: Prometheus, expr: str) -> set[str]:
    """Metrics in `expr` that nobody exports."""
    names: list[str] = prometheus.get("label/__name__/values")
    return metrics_in(expr) - set(names)


PERCENTS = [5, 50, 95, 99]


@pytest.mark.parametrize("percent", PERCENTS)
def test_a_quantile_agrees_with_the_raw_events_within_a_bucket(
    watched: Watched, percent: int
) -> None:
    selected = f'source="{STILL.source}",span="grab_to_packet"'
    buckets = f"maskstream_latency_seconds_bucket{{{selected}}}"
    (found,) = watched.prometheus.query(f"histogram_quantile({percent / 100}, {buckets})")
    latencies = np.array(watched.latencies_ms) / 1e3
    assert in_one_bucket(found.value, latencies, percent)
    assert not in_one_bucket(found.value, 10 * latencies, percent), "negative control"
    (sum_s,) = watched.prometheus.query(f"maskstream_latency_seconds_sum{{{selected}}}")
    assert sum_s.value == pytest.approx(latencies.sum())


@pytest.mark.parametrize("percent", PERCENTS)
def test_a_quantile_of_a_live_run_agrees_with_its_log_within_a_bucket(
    watched: Watched, percent: int
) -> None:
    """Both queries ask for one moment, and the log is read up to the frames of then."""
    selected = f'source="{RUN.source}",span="grab_to_packet"'
    buckets = f"maskstream_latency_seconds_bucket{{{selected}}}"
    then = time.time() - 1.0  # a scrape under way has the time at which it began
    (count,) = watched.prometheus.query(f"maskstream_latency_seconds_count{{{selected}}}", then)
    quantile = f"histogram_quantile({percent / 100}, {buckets})"
    (found,) = watched.prometheus.query(quantile, then)
    latencies = first_latencies_s(watched.log, int(count.value))
    assert in_one_bucket(found.value, latencies, percent)
    assert not in_one_bucket(found.value, latencies / 100, percent), "negative control"
    (sum_s,) = watched.prometheus.query(f"maskstream_latency_seconds_sum{{{selected}}}", then)
    assert sum_s.value == pytest.approx(latencies.sum())


def first_latencies_s(log: Path, count: int) -> NDArray[np.float64]:
    """Of so many frames published first; waits until the log has them."""
    deadline = time.monotonic() + START_S
    while True:
        lines = [line for line in log.read_text().splitlines() if '"frame_published"' in line]
        if len(lines) > count:  # the last may be half there
            return np.array([json.loads(line)["latency_ms"] for line in lines[:count]]) / 1e3
        assert time.monotonic() < deadline, "the log does not get on"
        time.sleep(0.2)


def in_one_bucket(found_s: float, latencies_s: NDArray[np.float64], percent: int) -> bool:
    """Whether the percentile of the raw events lies in the bucket that `found_s` is of."""
    exact = float(np.percentile(latencies_s, percent, method="inverted_cdf"))
    bounds = np.array((0.0, *SECONDS))
    above = int(np.searchsorted(bounds, exact))
    if above == len(bounds):  # Prometheus tells the highest bound
        return found_s == bounds[-1]
    return bool(bounds[above - 1] <= found_s <= bounds[above])
