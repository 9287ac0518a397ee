"""The report: true to the raw events, harmless whatever the log holds, whole whatever it lacks."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from kpi_logs import HOSTILE, Made, events, hostile_events, write_events, write_log
from PIL import Image
from services import require

from kpi.detail import EverySecond, NoFigures
from kpi.events import Event, RunStarted
from kpi.gather import gather
from kpi.jsonl import JsonlSink
from kpi.report.html import number, table
from kpi.report.page import duration, report
from pipeline.percentiles import Percentiles

SVG = "data:image/svg+xml;base64,"
ALWAYS = {"Latency and age over time", "How latency and age are spread"}


class Page(HTMLParser):
    """What stands in a report."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: dict[str, str] = {}
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag == "img":
            named = dict(attrs)
            self.pictures[named["alt"] or ""] = named["src"] or ""
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data

    def row(self, *begins: str) -> list[str]:
        """The one row that begins so."""
        (row,) = [row for row in self.rows if tuple(row[: len(begins)]) == begins]
        return row


def page(folder: Path) -> Page:
    return Page(report(gather(folder), "unnamed"))


def written(folder: Path, told: list[tuple[float, Event]], detail: object) -> Path:
    folder.mkdir()
    sink = JsonlSink(folder / "kpi.jsonl", detail=detail)  # type: ignore[arg-type]
    for ts, event in told:
        sink.write(ts, event)
    sink.close()
    return folder


def test_percentiles_agree_with_the_raw_events_and_with_the_summary(tmp_path: Path) -> None:
    write_log(tmp_path, Made(frames=500, gpu=False))
    raw = [json.loads(line) for line in (tmp_path / "kpi.jsonl").read_text().splitlines()]
    frames = [line for line in raw if line["event"] == "frame_published"]
    columns = {
        ("latency (ms)",): [line["latency_ms"] for line in frames],
        ("age (ms)",): [line["age_ms"] for line in frames],
        ("segment", "host"): [line["stages_ms"]["segment"]["host"] for line in frames],
    }
    shown = page(tmp_path)
    for begins, values in columns.items():
        exact = [*np.quantile(values, (0.5, 0.95, 0.99), method="inverted_cdf"), max(values)]
        assert shown.row(*begins)[len(begins) :] == [number(value) for value in exact]
        histogram = Percentiles()
        for value in values:
            histogram.add(value)
        buckets = histogram.summary().values()
        assert list(buckets) == pytest.approx(exact, rel=0.0101), "a bucket is 1 % wide"
    assert max(columns["age (ms)",]) != max(columns["latency (ms)",]), "negative control"


def test_every_picture_is_a_whole_svg_of_its_own(tmp_path: Path) -> None:
    shown = page(write_log(tmp_path, Made(drop_every=10)))
    assert set(shown.pictures) == {
        *ALWAYS,
        "Where the time of a frame goes",
        "Dropped frames",
        "Objects and their presence",
        "The device beside the latency",
    }
    for uri in shown.pictures.values():
        assert uri.startswith(SVG)
        root = ET.fromstring(base64.b64decode(uri.removeprefix(SVG)))  # noqa: S314 (our own)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 10


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    text = report(gather(write_log(tmp_path, Made())), "unnamed")
    assert Page(text).tags.isdisjoint({"script", "iframe", "object", "embed"})
    links = [v for k, v in Page(text).attributes if k in ("src", "href") and v is not None]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "default-src 'none'" in text


def test_the_same_log_gives_the_same_page(tmp_path: Path) -> None:
    write_log(tmp_path, Made(frames=50))
    assert report(gather(tmp_path), "x") == report(gather(tmp_path), "x")


def test_the_page_of_a_long_run_is_no_larger_than_a_short_ones(tmp_path: Path) -> None:
    short = report(gather(write_log(tmp_path / "a", Made(frames=2_900))), "x")
    long = report(gather(write_log(tmp_path / "b", Made(frames=40_000))), "x")
    assert len(long) < 1.2 * len(short)


def test_hostile_text_and_absurd_numbers_do_no_harm(tmp_path: Path) -> None:
    shown = page(write_events(tmp_path, hostile_events()))
    assert "script" not in shown.tags
    assert any("<script>alert(1)" in cell for row in shown.rows for cell in row), "shown as text"
    for uri in shown.pictures.values():
        ET.fromstring(base64.b64decode(uri.removeprefix(SVG)))  # noqa: S314 (our own)
    text = report(gather(tmp_path), HOSTILE)
    assert "\x1b" not in text
    assert text.encode("utf-8"), "a lone surrogate would not encode"
    assert "<script>" in HOSTILE, "negative control"
    assert "<script>" not in text


def test_every_frame_is_accounted_for(tmp_path: Path) -> None:
    shown = page(write_log(tmp_path, Made(frames=300, drop_every=20)))
    assert shown.row("published") == ["published", "285", "285"]
    assert shown.row("dropped: mailbox") == ["dropped: mailbox", "15", "15"]
    assert shown.row("grabbed") == ["grabbed", "300", "300"]


def test_frames_that_the_log_misses_are_told(tmp_path: Path) -> None:
    told = events(Made(frames=300))
    write_events(tmp_path, told[:50] + told[60:])
    text = report(gather(tmp_path), "x")
    assert "Grabbed = published + dropped, exactly." not in text
    assert "events are missing" in text


def test_a_run_that_crashed_has_a_report(tmp_path: Path) -> None:
    write_log(tmp_path, Made(finished=False))
    path = tmp_path / "kpi.jsonl"
    path.write_bytes(path.read_bytes()[:-25])
    text = report(gather(tmp_path), "x")
    assert "The log has no end" in text
    assert "The last line was cut" in text
    assert set(Page(text).pictures) >= ALWAYS
    whole = report(gather(write_log(tmp_path / "whole", Made())), "x")
    assert "About this log" not in whole, "negative control"


def test_a_run_without_a_published_frame_has_a_report(tmp_path: Path) -> None:
    text = report(gather(write_log(tmp_path, Made(frames=0))), "x")
    assert "no published frame" in text
    assert not ALWAYS & set(Page(text).pictures)


def test_a_log_of_a_single_event_has_a_report(tmp_path: Path) -> None:
    write_events(tmp_path, [(1.0, RunStarted("alone", "cpu", None, None, {}, "ab", 1))])
    assert "<h1>alone</h1>" in report(gather(tmp_path), "x")


def test_a_log_of_seconds_has_a_report(tmp_path: Path) -> None:
    made = Made(frames=300, drop_every=20, slow_frame=100)
    shown = page(written(tmp_path / "run", events(made), EverySecond("cam")))
    assert set(shown.pictures) >= {*ALWAYS, "Dropped frames", "Where the time of a frame goes"}
    assert shown.row("published") == ["published", "285", "285"]
    assert shown.row("latency (ms), a typical second")


def test_a_log_without_figures_has_a_report(tmp_path: Path) -> None:
    text = report(gather(written(tmp_path / "run", events(Made()), NoFigures())), "x")
    assert "no published frame" in text
    assert "applied" in text, "the prompt is there"


def test_states_faults_and_prompts_are_listed(tmp_path: Path) -> None:
    shown = page(write_log(tmp_path, Made(slow_frame=100)))
    cells = [cell for row in shown.rows for cell in row]
    assert {"streaming", "frame limit", "device xid", "XID 31", "applied"} <= set(cells)


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.21, "3.2 s"), (125, "2 min 05 s"), (7500, "2 h 05 min")]
)
def test_a_duration_is_readable(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_unknown_numbers_are_dashes() -> None:
    shown = table(("a", "b"), [(None, 1.0), (float("nan"), 2.0)])
    assert shown.count("–") == 2
    assert "nan" not in shown


# In a browser


def chromium(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            require("chromium"),
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--enable-logging=stderr", "--v=0", "--window-size=1080,3000"),
            f"--user-data-dir={page.parent / 'profile'}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )


def complaints(stderr: str) -> list[str]:
    """What a page said on its console; other lines are about the browser itself."""
    return re.findall(r"^.*:CONSOLE.*$", stderr, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_browser_shows_the_report_and_has_nothing_to_complain(tmp_path: Path) -> None:
    require("chromium")
    made = Made(drop_every=10, source_id=HOSTILE)
    text = report(gather(write_log(tmp_path / "run", made)), "x")
    (tmp_path / "report.html").write_text(text)
    shown = chromium(tmp_path / "report.html", "--dump-dom")
    assert complaints(shown.stderr) == []
    dom = Page(shown.stdout)
    assert set(dom.pictures) == set(Page(text).pictures)
    assert "script" not in dom.tags
    picture = tmp_path / "shot.png"
    chromium(tmp_path / "report.html", f"--screenshot={picture}")
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    coloured = np.abs(pixels[..., 0] - pixels[..., 2]) > 60
    assert coloured.mean() > 0.002, "the curves, in blue and orange"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_browser_would_complain_of_a_page_that_loads_or_runs_something(tmp_path: Path) -> None:
    require("chromium")
    text = report(gather(write_log(tmp_path / "run", Made(frames=20))), "x")
    bad = text.replace("</main>", '<script>console.error("x")</script></main>')
    (tmp_path / "bad.html").write_text(bad)
    assert complaints(chromium(tmp_path / "bad.html", "--dump-dom").stderr)
