"""One real run of the demo: its log, summary, report and metrics tell the same, and a browser has
nothing to complain of its report."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, cli_starter
from prometheus_client.parser import text_string_to_metric_families
from services import require
from test_kpi_report import ALWAYS, Page, chromium, complaints

from kpi.metrics import SECONDS

pytestmark = pytest.mark.timeout(240)

START_S = 100.0
FRAMES = 60
QUANTILES = (0.5, 0.95, 0.99)
SETTINGS = (
    *(
        "results.endpoint=tcp://127.0.0.1:0",
        "http.port=0",
        "control.endpoint=tcp://127.0.0.1:0",
        "source.ahead=60",
    ),
    *("kpi.flush_s=0.1", "kpi.device_interval_s=0.5"),
)
SPANS = {"grab_to_packet": "latency_ms", "capture_to_publish": "age_ms", "queue": "queue_ms"}
"""Span of the histogram -> field of `frame_published`."""
LOADED = "<script>onload = () => document.title = [...document.images].map(i => i.naturalWidth)"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run left."""

    out: Path
    scraped: str
    """The last `/metrics` before it was told to end."""
    frames: list[dict[str, Any]]
    """Every `frame_published` of the log."""
    summary: dict[str, Any]

    def values(self, field: str) -> list[float]:
        """Of every published frame, milliseconds."""
        return [frame[field] for frame in self.frames]

    def buckets(self, **labels: str) -> list[int]:
        """Counts up to each bound of the latency histogram with `labels`, the last of all."""
        wanted = {"source": "phantom", **labels}
        return [
            int(sample.value)
            for family in text_string_to_metric_families(self.scraped)
            for sample in family.samples
            if sample.name == "maskstream_latency_seconds_bucket"
            and wanted.items() <= sample.labels.items()
        ]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("demo")
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    config = str(ROOT / "configs" / "demo.yaml")
    out = folder / "out"
    with cli_starter() as start:
        process = start("run", config, "--out", str(out), *options, cwd=folder)
        deadline, scraped = time.monotonic() + START_S, ""
        while published(scraped) < FRAMES:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the run does not get on"
            time.sleep(0.2)
            scraped = scrape(out)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=START_S)
        assert process.returncode == 0, stderr
        report = start("kpi", "report", str(out), cwd=folder)
        assert report.communicate(timeout=START_S) == (f"{out / 'report.html'}\n", "")
    lines = [json.loads(line) for line in (out / "kpi.jsonl").read_text().splitlines()]
    frames = [line for line in lines if line["event"] == "frame_published"]
    return Ran(out, scraped, frames, json.loads((out / "summary.json").read_text()))


def scrape(out: Path) -> str:
    """The run's `/metrics`; empty before it answers."""
    try:
        address = json.loads((out / "endpoints.json").read_text())["http"]
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:  # noqa: S310
            return str(answer.read().decode())
    except (OSError, json.JSONDecodeError):  # not yet
        return ""


def published(scraped: str) -> int:
    found = re.search(r'^maskstream_frames_total{outcome="published".*} (.*)$', scraped, re.M)
    return 0 if found is None else int(float(found[1]))


def exact(values: list[float], quantile: float) -> float:
    return float(np.quantile(values, quantile, method="inverted_cdf"))


# What it tells


def test_the_log_the_summary_and_the_report_have_the_same_frames(ran: Ran) -> None:
    count = len(ran.frames)
    assert count >= FRAMES
    assert ran.summary["frames"]["published"] == count
    shown = Page((ran.out / "report.html").read_text())
    assert shown.row("published") == ["published", str(count), str(count)]


@pytest.mark.parametrize("field", ["latency_ms", "age_ms"])
def test_percentiles_of_summary_and_report_are_those_of_the_log(ran: Ran, field: str) -> None:
    values = ran.values(field)
    found = [*(exact(values, quantile) for quantile in QUANTILES), max(values)]
    assert list(ran.summary[field].values()) == pytest.approx(found, rel=0.011, abs=0.001)
    row = Page((ran.out / "report.html").read_text()).row(f"{field.removesuffix('_ms')} (ms)")
    shown = [float(cell.replace(",", "")) for cell in row[1:]]
    assert shown == pytest.approx(found, rel=6e-4), "four digits, however the last one is rounded"


@pytest.mark.parametrize("span", SPANS)
def test_the_histogram_has_every_frame_of_the_log_in_its_bucket(ran: Ran, span: str) -> None:
    """The frames until it was scraped; both were told each in the same order."""
    buckets = ran.buckets(span=span)
    assert len(buckets) == len(SECONDS) + 1
    assert FRAMES <= buckets[-1] <= len(ran.frames)
    values = np.array(ran.values(SPANS[span])[: buckets[-1]]) / 1e3
    assert buckets == [int((values <= bound).sum()) for bound in (*SECONDS, np.inf)]


@pytest.mark.parametrize("quantile", [0.05, *QUANTILES])
@pytest.mark.parametrize("span", SPANS)
def test_a_quantile_of_the_metrics_is_in_the_bucket_of_the_exact_one(
    ran: Ran, span: str, quantile: float
) -> None:
    buckets = ran.buckets(span=span)
    values = ran.values(SPANS[span])[: buckets[-1]]
    low, high = bucket_of(buckets, quantile)
    assert low < exact(values, quantile) / 1e3 <= high
    outside = 2 * high if np.isfinite(high) else low / 2
    moved = [value + 1e3 * outside - exact(values, quantile) for value in values]
    assert not low < exact(moved, quantile) / 1e3 <= high, "negative control"


def bucket_of(buckets: list[int], quantile: float) -> tuple[float, float]:
    """The bounds between which Prometheus would interpolate, seconds."""
    bounds = (-np.inf, *SECONDS, np.inf)
    index = int(np.searchsorted(buckets, np.ceil(quantile * buckets[-1])))
    return bounds[index], bounds[index + 1]


# In a browser


@pytest.mark.slow
def test_a_browser_shows_the_report_of_a_run_and_has_nothing_to_complain(ran: Ran) -> None:
    require("chromium")
    page = ran.out / "report.html"
    shown = chromium(page, "--dump-dom")
    assert complaints(shown.stderr) == []
    assert set(Page(shown.stdout).pictures) >= ALWAYS
    assert Page(shown.stdout).pictures == Page(page.read_text()).pictures
    widths = widths_in_browser(ran.out / "measured.html", page.read_text())
    assert len(widths) == len(Page(page.read_text()).pictures)
    assert min(widths) > 100, "every picture is there"


@pytest.mark.slow
def test_a_picture_that_does_not_load_is_seen(ran: Ran) -> None:
    require("chromium")
    text = (ran.out / "report.html").read_text()
    broken = text.replace("data:image/svg+xml;base64,", "data:image/svg+xml;base64,AAAA", 1)
    assert min(widths_in_browser(ran.out / "broken.html", broken)) == 0


def widths_in_browser(path: Path, text: str) -> list[int]:
    """Pixels of every picture as the browser has it, 0 where it has not; the page is let run the
    one script that tells them."""
    allowed = text.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    assert allowed != text
    path.write_text(allowed.replace("</main>", f"{LOADED}</script></main>"))
    shown = chromium(path, "--dump-dom").stdout
    title = re.search(r"<title>([\d,]+)</title>", shown)
    assert title is not None, shown[:2000]
    return [int(width) for width in title[1].split(",")]
