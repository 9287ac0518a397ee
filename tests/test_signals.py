"""SIGINT and SIGTERM end a run cleanly, wherever it is."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import StartCli
from tiny_sam2 import write_model

from pipeline.signals import interruptible

pytestmark = pytest.mark.timeout(150)

SIGNALS = [signal.SIGINT, signal.SIGTERM]
START_S = 100.0
END_S = 5.0
"""From the signal to the last event; the interpreter's own end comes on top."""
CONFIG = """\
name: t
device: cpu
source: {{kind: phantom, size_hw: [96, 128], fps: 30}}
grab: {{mailbox: every}}
detector: {{kind: none}}
segmenter:
  kind: sam2_image
  model: {structure}
  checkpoint: {weights}
  max_objects: 1
  prompts: [{{name: all, box: [10, 10, 100, 80]}}]
results: {{endpoint: "tcp://127.0.0.1:0"}}
control: {{endpoint: "tcp://127.0.0.1:0"}}
http: {{port: {port}}}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_model(tmp_path_factory.mktemp("sam2"))


def write_config(folder: Path, tiny: tuple[Path, Path], port: int = 0) -> None:
    text = CONFIG.format(structure=tiny[0], weights=tiny[1], port=port)
    (folder / "c.yaml").write_text(text)


def await_that(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_S
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not get there"
        time.sleep(0.02)


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[float, str]:
    """Send the signal and wait: when it was sent (Unix seconds), and what stderr says."""
    sent = time.time()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=START_S)
    return sent, stderr


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "kpi.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_run_within_seconds_and_every_frame_is_accounted_for(
    start_cli: StartCli,
    tiny: tuple[Path, Path],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    write_config(tmp_path, tiny)
    out = tmp_path / "out"
    process = start_cli("run", "c.yaml", "--out", "out", cwd=tmp_path)
    log = out / "kpi.jsonl"
    await_that(lambda: log.exists() and '"frame_published"' in log.read_text(), process)
    sent, stderr = end(process, number)

    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    summary = json.loads((out / "summary.json").read_text())
    frames = summary["frames"]
    assert summary["error"] is None
    assert frames["published"] > 0
    assert frames["grabbed"] == frames["published"] + sum(frames["dropped"].values())
    told = events(out)
    names = [event["event"] for event in told]
    finished = told[names.index("run_finished")]
    assert finished["ts"] - sent < END_S
    assert {key: finished[key] for key in frames} == frames
    assert told[-1] == {**told[-1], "event": "kpi_events_dropped", "dropped": 0}
    assert names.count("frame_published") == frames["published"]
    assert names.count("frame_dropped") == sum(frames["dropped"].values())


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_models_load_ends_cleanly_and_leaves_nothing(
    start_cli: StartCli, tiny: tuple[Path, Path], tmp_path: Path, number: signal.Signals
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    write_config(tmp_path, tiny, port)
    process = start_cli("run", "c.yaml", cwd=tmp_path)
    await_that(lambda: answers(port), process)  # HTTP serves before the models are loaded
    _, stderr = end(process, number)
    assert (process.returncode, stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_an_import_swallows_still_ends_the_start(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():  # noqa: PT012 (what is swallowed)
        with suppress(BaseException):
            signal.raise_signal(number)
        time.sleep(0)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
