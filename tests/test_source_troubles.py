"""Pictures that come and are not shown: each is counted, in the summary and as a metric."""

from __future__ import annotations

import ast
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome
from kpi_lines import read
from rtsp_script import Rtp, ScriptedServer, nals, packets, serve
from test_rtsp_bad_input import hang_up
from test_sources_rtsp import Log, log, memory

from kpi.emit import current_logger
from kpi.events import ErrorRaised, SourceTroubles
from kpi.metrics import SOURCE_TROUBLES
from kpi.prometheus import PrometheusSink
from pipeline.meter import Meter
from stages.grab import Grab
from stages.sources.rtsp import RtspConfig, RtspSource

__all__ = ["log"]  # a fixture

PICTURES = nals(40, keyframes=10)
DAMAGED = 12
ROOT = Path(__file__).parents[1]


def sent(pictures: list[list[bytes]], faster: float = 8.0) -> list[Rtp | bytes]:
    return [replace(one, wait_s=one.wait_s / faster) for one in packets(pictures)]


def damaged(by: Callable[[bytes], bytes]) -> list[list[bytes]]:
    """The pictures, the slice of one of them changed."""
    pictures = [list(picture) for picture in PICTURES]
    (pictures[DAMAGED][0],) = map(by, pictures[DAMAGED])
    return pictures


def noise(slice_: bytes) -> bytes:
    return slice_[:1] + np.random.default_rng(1).bytes(400)


def source_of(server: ScriptedServer) -> RtspSource:
    return RtspSource(RtspConfig.model_validate({"url": server.url, "frozen_after": None}))


def shown(source: RtspSource, connections: int = 1) -> int:
    """Pictures that came until all ``connections`` were over."""
    count = 0
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        picture = source.read(memory)
        assert picture is not None
        if picture.epoch == connections:
            source.close()
            return count
        count += 1
    raise TimeoutError("they did not end")


GOOD = serve(packets(PICTURES))
LAST = serve(packets(PICTURES[:2]))
"""So few that none of them is lost."""
WRONG: dict[str, tuple[list[list[bytes]], int, int]] = {
    "noise": (damaged(noise), 1, 7),
    "cut off": (damaged(lambda slice_: slice_[:4]), 1, 7),
    "begun between keyframes": (PICTURES[3:], 0, 7),
    "as it should be": (PICTURES, 0, 0),
}


@pytest.mark.parametrize(("pictures", "broken", "skipped"), WRONG.values(), ids=WRONG.keys())
def test_every_picture_that_came_is_shown_or_counted(
    log: Log, pictures: list[list[bytes]], broken: int, skipped: int
) -> None:
    with ScriptedServer(serve(sent(pictures), then=hang_up), LAST) as server:
        source = source_of(server)
        came = shown(source)
        counts = source.troubles.counts
    assert (counts["damaged"], counts["skipped"]) == (broken, skipped)
    assert came + counts.total() == len(pictures)
    told = [event.message for event in log.events if isinstance(event, ErrorRaised)]
    assert [message for message in told if "damaged" in message] == [
        "a picture is damaged; none is shown before the next keyframe (damaged: 1)"
    ][:broken]


def test_counts_go_on_from_one_connection_to_the_next(log: Log) -> None:
    bad = serve(sent(damaged(noise)), then=hang_up)
    with ScriptedServer(bad, bad, LAST) as server:
        source = source_of(server)
        came = shown(source, 2)
        counts = source.troubles.counts
    assert (counts["damaged"], counts["skipped"]) == (2, 14)
    assert came + counts.total() == 2 * len(PICTURES)


def test_a_chain_that_is_too_slow_loses_pictures_of_a_live_source_and_counts_them(
    log: Log,
) -> None:
    with ScriptedServer(serve(sent(PICTURES, faster=40.0), then=hang_up), serve([])) as server:
        source = source_of(server)
        grab = Grab(source, torch.device("cpu"), mailbox="every", depth=1)
        grab.start()
        taken, until = 0, time.monotonic() + 20.0
        while "reconnecting" not in log.states and time.monotonic() < until:
            taken += grab.get(0.05) is not None
            time.sleep(0.05)
        grab.stop()
    lost = source.troubles.counts["lost"]
    assert lost > 0
    assert grab.grabbed + lost == len(PICTURES)
    assert grab.grabbed == taken + sum(grab.dropped.values())


def test_a_meter_tells_what_is_new_and_all_of_it() -> None:
    logger, counts = Log(), Counter({"damaged": 2})
    meter = Meter(tuple, None, "cam", lambda: counts.copy())
    sink = PrometheusSink("cam", (), {})
    token = current_logger.set(logger)
    try:
        meter._tell()
        counts += Counter({"damaged": 1, "lost": 4})
        meter.close()
        meter.close()
    finally:
        current_logger.reset(token)
    first, second = (
        SourceTroubles("cam", {"damaged": 2}),
        SourceTroubles("cam", {"damaged": 1, "lost": 4}),
    )
    assert logger.events == [first, second]
    for event in (*logger.events, SourceTroubles("cam", {"of no kind": 1})):
        sink.write(0.0, event)
    text = sink.render().decode()
    for kind, count in (("damaged", 3), ("lost", 4), ("skipped", 0)):
        assert f'maskstream_source_troubles_total{{kind="{kind}",source="cam"}} {count}.0' in text
    assert "maskstream_kpi_events_ignored_total 1.0" in text


def kinds(source: str) -> set[str]:
    """What is counted there, as far as it stands in words."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in ("add", "count")
        and "troubles" in ast.unparse(call.func.value)
        and isinstance(call.args[0], ast.Constant)
    }


def test_every_kind_has_its_series() -> None:
    assert kinds("self._troubles.add('new', 'a kind')") == {"new"}
    files = sorted((ROOT / "stages" / "sources").glob("*.py"))
    found = set().union(*(kinds(path.read_text()) for path in files))
    assert {"damaged", "skipped", "lost", "left out"} <= found <= set(SOURCE_TROUBLES)


def test_a_run_tells_them_in_its_summary_and_its_last_line(
    tmp_path: Path, call_main: Callable[..., Outcome]
) -> None:
    out, config = tmp_path / "run", tmp_path / "run.yaml"
    with ScriptedServer(serve(sent(damaged(noise), faster=1.0), then=hang_up), GOOD) as server:
        config.write_text(
            f"name: t\nsource: {{kind: rtsp, source_id: cam, url: '{server.url}'}}\n"
            "grab: {mailbox: every, depth: 64}\ndetector: {kind: none}\npreview: null\n"
            "segmenter: {kind: sam2_image, model: demo, max_objects: 1}\n"
            "results: null\ncontrol: null\nhttp: null\naudited_frames: 0\n"
        )
        ended = call_main("run", str(config), "--frames", "25", "--out", str(out))
    assert ended.code == 0, ended.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["frames"]["grabbed"] == 25
    assert summary["source_troubles"]["damaged"] == 1
    assert summary["source_troubles"]["skipped"] == 7
    told: Counter[str] = Counter()
    for line in read(out / "kpi.jsonl"):
        if line["event"] == "source_troubles":
            counts = line["counts"]
            assert isinstance(counts, dict)
            told += Counter(counts)
    assert told == Counter(summary["source_troubles"]), "the events add up"
    assert "; not grabbed, at the source: 1 damaged, " in ended.stderr
    assert "7 skipped" in ended.stderr
