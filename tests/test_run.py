"""Whole runs with the demo weights: the main job, the audit, a subscriber in another process."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from jsonschema import Draft202012Validator
from PIL import Image
from rich.console import Console

from kpi.gather import gather
from kpi.stats import spread
from pipeline.config import load_config
from pipeline.frame_flow import RunOptions
from pipeline.run import start
from pipeline.summary import write_summary

LOCAL = ["results.endpoint=tcp://127.0.0.1:0", "http.port=0", "control.endpoint=tcp://127.0.0.1:0"]
UNPACED = [*LOCAL, "source.fps=null", "source.ahead=0"]


def run(out: Path, config: str, options: RunOptions, *overrides: str) -> tuple[int, dict[str, Any]]:
    """Exit code and summary of one run in this process."""
    settings = RunOptions(options.frames, out, options.audit, options.wait_subscribers)
    with (out.parent / "log.txt").open("w") as log:
        code = start(load_config(config, overrides), settings, Console(file=log))
    return code, json.loads((out / "summary.json").read_text())


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "kpi.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short demo run."""
    out = tmp_path_factory.mktemp("demo") / "run"
    code, _ = run(out, "demo", RunOptions(frames=60), *UNPACED)
    assert code == 0
    return out


@pytest.mark.timeout(300)
def test_the_demo_accounts_for_every_frame_and_copies_nothing(demo: Path) -> None:
    summary = json.loads((demo / "summary.json").read_text())
    frames, copies = summary["frames"], summary["host_copies"]
    assert frames["grabbed"] == 60
    assert frames["grabbed"] == frames["published"] + sum(frames["dropped"].values())
    assert frames["published"] >= 59
    assert summary["audited_frames"] == 3
    assert (copies["hot_path_d2h"], copies["hot_path_h2d"], copies["hot_path_syncs"]) == (0, 0, 0)
    assert copies["upload_h2d"] == copies["header_d2h"] == 60
    assert summary["exit_code"] == 0
    assert summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]


@pytest.mark.timeout(300)
def test_the_demo_finds_what_is_there(demo: Path) -> None:
    quality = json.loads((demo / "summary.json").read_text())["quality"]
    assert quality["object_frames"] > 60
    assert quality["mean_iou"] >= 0.80
    assert quality["recall"] >= 0.90


def test_the_demo_leaves_a_picture_with_colour_on_it(demo: Path) -> None:
    pixels = np.asarray(Image.open(demo / "preview.png").convert("RGB")).astype(int)
    assert pixels.shape == (480, 640, 3)
    coloured = np.abs(pixels[..., 0] - pixels[..., 2]) > 40
    assert coloured.mean() > 0.005


def test_the_demo_tells_its_events(demo: Path) -> None:
    told = events(demo)
    names = [event["event"] for event in told]
    assert names[0] == "run_started"
    assert "run_finished" in names
    assert names.count("frame_published") == 60
    masks = [event for event in told if event["event"] == "sam_mask_output"]
    assert len(masks) == 60
    assert {event["as_numpy"] for event in masks} == {0}
    published = next(event for event in told if event["event"] == "frame_published")
    assert set(published["stages_ms"]) == {"detect", "encode", "segment", "pack", "to_host"}
    assert all(earlier["ts"] <= later["ts"] for earlier, later in pairwise(told))


def test_every_line_of_the_demos_log_fits_its_schema(demo: Path) -> None:
    schema = json.loads((ROOT / "configs" / "kpi_events.schema.json").read_text())
    validator = Draft202012Validator(schema)
    told = events(demo)
    assert [error.message for event in told for error in validator.iter_errors(event)] == []
    assert {"device_sample", "frame_published", "run_finished"} <= {e["event"] for e in told}


def test_the_demo_tells_how_long_its_frames_waited(demo: Path) -> None:
    told = [event for event in events(demo) if event["event"] == "frame_published"]
    for event in told:
        assert 0 <= event["queue_ms"] <= event["latency_ms"]
    host = [sum(stage["host"] for stage in event["stages_ms"].values()) for event in told]
    latency = sum(event["latency_ms"] for event in told)
    explained = sum(host) + sum(event["queue_ms"] for event in told)
    assert 0.5 * latency < explained < 1.05 * latency, "work and waiting make up the way"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("detail", ["frame", "second", "off"])
def test_a_full_disk_costs_lines_of_the_log_and_nothing_else(tmp_path: Path, detail: str) -> None:
    """A file may grow to 8 KiB here; what `second` and `off` write fits."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    quiet = [*UNPACED, "preview=null", f"kpi.detail={detail}"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 10, limits[1]))
    try:
        code, summary = run(tmp_path / "run", "demo", RunOptions(frames=30), *quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 0
    assert summary["frames"] == {"grabbed": 30, "published": 30, "dropped": {}}
    told = events(tmp_path / "run")
    names = [event["event"] for event in told]
    assert names[0] == "run_started"
    assert (names.count("frame_published") > 0) == (detail == "frame")
    assert (summary["kpi"]["lost"]["JsonlSink"] > 30) == (detail == "frame")
    if detail == "second":
        seconds = [event for event in told if event["event"] == "frame_second"]
        assert sum(second["published"] for second in seconds) == 30
    assert ("run_finished" in names) == (detail != "frame")


def test_every_frame_says_what_was_done_for_it(demo: Path) -> None:
    """Both the detector and the tracker rest on every second frame."""
    told = [event for event in events(demo) if event["event"] == "frame_published"]
    assert [event["kind"] for event in told[:6]] == ["key", "held"] * 3


def test_a_summary_that_cannot_be_written_is_shown(tmp_path: Path) -> None:
    log = io.StringIO()
    write_summary(tmp_path / "gone" / "summary.json", {"fps": 30.0}, Console(file=log))
    first, _, rest = log.getvalue().partition("\n")
    assert "No such file" in first
    assert json.loads(rest) == {"fps": 30.0}


def test_a_summary_whose_disk_hangs_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody reads hangs whoever opens it to write."""
    monkeypatch.setattr("pipeline.summary._WRITE_S", 0.2)
    os.mkfifo(tmp_path / "summary.json.tmp")
    log = io.StringIO()
    write_summary(tmp_path / "summary.json", {"fps": 30.0}, Console(file=log))
    first, _, rest = log.getvalue().partition("\n")
    assert "not written within 0.2 s" in first
    assert json.loads(rest) == {"fps": 30.0}
    os.close(os.open(tmp_path / "summary.json.tmp", os.O_RDONLY | os.O_NONBLOCK))  # lets it go


def test_summary_and_report_say_the_same(demo: Path) -> None:
    """The summary counts in buckets 1 % wide, the report reads every frame's event."""
    summary, history = json.loads((demo / "summary.json").read_text()), gather(demo)
    assert (history.published, history.drops.total) == (60, 0)
    columns = {"latency_ms": history.latency, "age_ms": history.age}
    for name, row in columns.items():
        assert row is not None
        told = (row.p50, row.p95, row.p99, row.max)
        assert list(summary[name].values()) == pytest.approx(told, rel=0.0101, abs=1e-3), name
    for stage in history.frames.stages:
        row = spread(stage.host_ms)
        assert row is not None
        told = (row.p50, row.p95, row.p99, row.max)
        counted = summary["stages_ms"][stage.name]["host"].values()
        assert list(counted) == pytest.approx(told, rel=0.0101, abs=2e-3), stage.name


def test_the_resolved_config_and_endpoints_are_written(demo: Path) -> None:
    assert load_config(str(demo / "config.yaml")).name == "demo"
    endpoints = json.loads((demo / "endpoints.json").read_text())
    assert endpoints["results"].startswith("tcp://127.0.0.1:")
    assert endpoints["http"].startswith("http://127.0.0.1:")


@pytest.mark.timeout(300)
def test_the_audit_passes_on_the_resident_chain(tmp_path: Path) -> None:
    code, summary = run(tmp_path / "run", "demo", RunOptions(frames=12, audit=True), *UNPACED)
    assert code == 0
    assert summary["audited_frames"] == summary["frames"]["published"] == 12


@pytest.mark.timeout(300)
def test_the_audit_fails_on_as_numpy_and_names_the_copy(tmp_path: Path) -> None:
    options = RunOptions(frames=12, audit=True)
    code, summary = run(tmp_path / "run", "demo", options, *UNPACED, "as_numpy=true")
    assert code == 1
    assert "stages/as_numpy.py" in summary["error"]
    frames = summary["frames"]
    assert frames["grabbed"] == frames["published"] + sum(frames["dropped"].values())


@pytest.mark.timeout(300)
def test_as_numpy_runs_and_its_summary_says_what_it_costs(tmp_path: Path) -> None:
    code, summary = run(tmp_path / "run", "demo", RunOptions(frames=10), *UNPACED, "as_numpy=true")
    assert code == 0
    assert summary["as_numpy"] is True
    assert summary["host_copies"]["hot_path_d2h"] > 0
    assert summary["host_copies"]["hot_path_syncs"] > 0
    masks = [e for e in events(tmp_path / "run") if e["event"] == "sam_mask_output"]
    assert {event["as_numpy"] for event in masks} == {1}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("roi", ["null", "{y: 41, x: 83, height: 401, width: 503}"])
def test_both_chains_publish_the_same_masks(tmp_path: Path, roi: str) -> None:
    """Each frame afresh: when a tracked object begins depends on when the host reads a header."""
    afresh = "segmenter={kind: sam2_image}"
    found = []
    for name, as_numpy in (("resident", "false"), ("legacy", "true")):
        overrides = [*UNPACED, afresh, f"as_numpy={as_numpy}", f"source.roi={roi}"]
        _, summary = run(tmp_path / name, "demo", RunOptions(frames=8), *overrides)
        found.append(summary["quality"])
    assert found[0] == found[1]
    assert found[0]["mean_iou"] > 0.5


@pytest.mark.timeout(300)
def test_a_region_is_segmented_in_its_place(tmp_path: Path) -> None:
    roi = "source.roi={y: 60, x: 100, height: 400, width: 500}"
    options = RunOptions(frames=20, audit=True)
    code, summary = run(tmp_path / "run", "demo", options, *UNPACED, roi)
    assert code == 0
    assert summary["quality"]["mean_iou"] > 0.6
    copies = [e for e in events(tmp_path / "run") if e["event"] == "host_copies"]
    assert sum(e["copied_bytes"] for e in copies if e["where"] == "upload") == 20 * 400 * 500


@pytest.mark.timeout(300)
def test_a_scan_with_faults_accounts_for_every_frame(tmp_path: Path) -> None:
    faults = ", ".join(
        f"{{kind: {kind}, at: {at}, frames: 4}}"
        for kind, at in (("garbage", 6), ("frozen", 14), ("drop", 22), ("resize", 28))
    )
    options = RunOptions(frames=36, audit=True)
    code, summary = run(tmp_path / "run", "demo", options, *UNPACED, f"source.faults=[{faults}]")
    assert code == 0
    frames = summary["frames"]
    assert frames["grabbed"] == 36 == frames["published"] + sum(frames["dropped"].values())
    epochs = {e["epoch"] for e in events(tmp_path / "run") if e["event"] == "frame_published"}
    assert epochs == {0, 1, 2}
    assert summary["quality"]["mean_iou"] > 0.3


@pytest.mark.timeout(300)
def test_the_cine_segments_its_prompt(tmp_path: Path) -> None:
    overrides = [*LOCAL, "source.realtime=false", "grab.mailbox=every"]
    code, summary = run(tmp_path / "run", "ultrasound_cine", RunOptions(), *overrides)
    assert code == 0
    assert summary["frames"]["published"] == 30
    published = [e for e in events(tmp_path / "run") if e["event"] == "frame_published"]
    assert {event["objects"] for event in published} == {1}
    assert all(event["presence"][0] > 0 for event in published), "a lost object is counted too"
    assert (tmp_path / "run" / "preview.png").is_file()


SUBSCRIBER = """
import sys
from stages.client import Subscriber
with Subscriber(sys.argv[1], high_water_mark=1000) as results:
    frames, masks = [], 0
    while len(frames) < int(sys.argv[2]):
        message = results.receive(60.0)
        if message is None:
            break
        frames.append(message.frame_id)
        masks += len(message.masks())
    assert "torch" not in sys.modules
    print(len(frames), results.lost, masks, frames == sorted(frames))
"""


@pytest.mark.timeout(300)
def test_a_subscriber_in_another_process_gets_every_packet(tmp_path: Path) -> None:
    endpoint, count = f"ipc://{tmp_path}/results", 60
    subscriber = subprocess.Popen(
        [sys.executable, "-c", SUBSCRIBER, endpoint, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    options = RunOptions(frames=count, wait_subscribers=1)
    overrides = [*UNPACED, f"results.endpoint={endpoint}", "results.hwm=1000"]
    code, summary = run(tmp_path / "run", "demo", options, *overrides)
    out, err = subscriber.communicate(timeout=60)
    assert code == 0
    assert summary["frames"]["published"] == count
    received, lost, masks, ordered = out.split()
    assert (int(received), int(lost), ordered) == (count, 0, "True"), err
    objects = sum(
        e.get("objects", 0) for e in events(tmp_path / "run") if e["event"] == "frame_published"
    )
    assert int(masks) == objects > 0


SENDER = """
import sys, time
import numpy as np
from stages.frame_sender import FrameSender
rng = np.random.default_rng(0)
with FrameSender(sys.argv[1], "zmq") as run:
    while True:
        run.send(rng.integers(0, 256, (120, 160, 3), np.uint8), spacing_mm=(0.5, 0.25))
        time.sleep(0.02)
"""


@pytest.mark.timeout(300)
def test_a_run_of_what_another_process_sends(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/frames"
    sender = subprocess.Popen(
        [sys.executable, "-c", SENDER, endpoint], cwd=Path(__file__).parent.parent
    )
    try:
        overrides = [*LOCAL, f"source.endpoint={endpoint}", "source.spacing_mm=null"]
        code, summary = run(tmp_path / "run", "zmq", RunOptions(frames=20), *overrides)
    finally:
        sender.kill()
        sender.wait(10)
    assert code == 0
    frames = summary["frames"]
    assert frames["grabbed"] == 20 == frames["published"] + sum(frames["dropped"].values())
    assert frames["published"] > 0
    bound = json.loads((tmp_path / "run" / "endpoints.json").read_text())
    assert bound["frames"] == endpoint
