"""`maskstream kpi`: what it writes, what it refuses, and that it needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Outcome
from kpi_logs import HOSTILE, Made, hostile_events, write_events, write_log

Call = Callable[..., Outcome]


def one_line(outcome: Outcome) -> str:
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("maskstream: ")
    assert outcome.stderr.count("\n") == 1
    assert "Traceback" not in outcome.stderr
    return outcome.stderr


def commands(path: Path) -> list[list[str]]:
    return [["report", str(path)], ["tail", str(path)], ["compare", str(path), str(path)]]


# The report


def test_the_report_lies_beside_the_log(tmp_path: Path, call_main: Call) -> None:
    write_log(tmp_path, Made(frames=50))
    outcome = call_main("kpi", "report", str(tmp_path))
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout == f"{tmp_path / 'report.html'}\n"
    text = (tmp_path / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert text.endswith("</html>\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kpi.jsonl", "report.html"]


def test_the_report_goes_where_it_is_told_and_replaces_an_older_one(
    tmp_path: Path, call_main: Call
) -> None:
    write_log(tmp_path / "run", Made(frames=20))
    out = tmp_path / "page.html"
    out.write_text("old")
    log = str(tmp_path / "run" / "kpi.jsonl")
    assert call_main("kpi", "report", log, "--out", str(out)).code == 0
    assert out.read_text().startswith("<!doctype html>")
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("out", ["missing/page.html", ".", "run/config.yaml/page.html"])
def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, call_main: Call, out: str
) -> None:
    write_log(tmp_path / "run", Made(frames=20))
    (tmp_path / "run" / "config.yaml").touch()
    before = sorted(tmp_path.rglob("*"))
    outcome = call_main("kpi", "report", str(tmp_path / "run"), "--out", str(tmp_path / out))
    assert outcome.code == 1
    assert "cannot write" in one_line(outcome)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["kpi.jsonl", "kpi.jsonl.1"])
def test_the_log_itself_is_never_overwritten(tmp_path: Path, call_main: Call, name: str) -> None:
    write_log(tmp_path, Made(frames=60, max_bytes=10_000))
    target = tmp_path / name
    before = target.read_bytes()
    outcome = call_main("kpi", "report", str(tmp_path), "--out", str(target))
    assert outcome.code == 78
    assert "the log itself" in one_line(outcome)
    assert target.read_bytes() == before


def test_a_failure_while_drawing_leaves_nothing_behind(
    tmp_path: Path, call_main: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kpi.report.page as page

    def fail(*arguments: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(page, "report", fail)
    write_log(tmp_path, Made(frames=20))
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(ZeroDivisionError):
        call_main("kpi", "report", str(tmp_path))
    assert (tmp_path / "report.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kpi.jsonl", "report.html"]


# Bad input, for each command


@pytest.mark.parametrize("number", range(3))
def test_what_is_no_run_is_one_line_and_78(tmp_path: Path, call_main: Call, number: int) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        outcome = call_main("kpi", *commands(tmp_path / name)[number])
        assert outcome.code == 78
        assert "expected the folder of a run" in one_line(outcome)
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(
    "content", [b"", b"name,age\n" * 300, os.urandom(5000), b"\x00" * 5000, b'{"ts":1}\n']
)
def test_somebody_elses_file_is_one_line_and_78(
    tmp_path: Path, call_main: Call, content: bytes, number: int
) -> None:
    (tmp_path / "kpi.jsonl").write_bytes(content)
    outcome = call_main("kpi", *commands(tmp_path)[number])
    assert outcome.code == 78
    assert "expected the folder of a run" in one_line(outcome)
    assert [path.name for path in tmp_path.iterdir()] == ["kpi.jsonl"]


@pytest.mark.parametrize("number", [0, 2])
def test_a_log_that_cannot_be_read_is_one_line_and_78(
    tmp_path: Path, call_main: Call, number: int
) -> None:
    (tmp_path / "kpi.jsonl").symlink_to("/proc/self/mem")  # even root cannot read it
    outcome = call_main("kpi", *commands(tmp_path)[number])
    assert outcome.code == 78
    assert "Input/output error" in one_line(outcome)


@pytest.mark.parametrize("content", [b"name,age\n" * 300, b"\x89PNG\r" * 900, b"\x00" * 5000])
def test_tail_follows_nobody_elses_file(tmp_path: Path, call_main: Call, content: bytes) -> None:
    (tmp_path / "kpi.jsonl").write_bytes(content)
    outcome = call_main("kpi", "tail", str(tmp_path))
    assert outcome.code == 78
    assert "not a KPI log (expected the folder of a run" in one_line(outcome)


def test_a_torn_last_line_is_no_error(tmp_path: Path, call_main: Call) -> None:
    write_log(tmp_path, Made(frames=30))
    path = tmp_path / "kpi.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    outcome = call_main("kpi", "report", str(tmp_path))
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "The last line was cut" in (tmp_path / "report.html").read_text()


# Comparing


def test_a_comparison_for_a_person(tmp_path: Path, call_main: Call) -> None:
    a = write_log(tmp_path / "a", Made(frames=600, seed=1))
    b = write_log(tmp_path / "b", Made(frames=600, seed=2, segment_ms=10, torch="2.16.0"))
    outcome = call_main("kpi", "compare", str(a), str(b))
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "version of torch: 2.15.0 → 2.16.0" in outcome.stdout
    (line,) = (row for row in outcome.stdout.splitlines() if row.startswith("segment host p50"))
    assert "slower by 2" in line
    assert "more than noise" in line
    (line,) = (row for row in outcome.stdout.splitlines() if row.startswith("detect host p50"))
    assert "within noise" in line


def test_a_comparison_as_json(tmp_path: Path, call_main: Call) -> None:
    a = write_log(tmp_path / "a", Made(frames=600, seed=1))
    b = write_log(tmp_path / "b", Made(frames=600, seed=2, gpu=False))
    told = json.loads(call_main("kpi", "compare", str(a), str(b), "--json").stdout)
    assert {"what": "device", "a": "cuda:0", "b": "cpu"} in told["differences"]
    by_name = {change["name"]: change for change in told["changes"]}
    assert by_name["segment host p50 (ms)"]["verdict"] == "within noise"
    assert by_name["segment gpu p50 (ms)"]["b"] is None
    same = json.loads(call_main("kpi", "compare", str(a), str(a), "--json").stdout)
    assert same["differences"] == []


def test_hostile_text_does_not_reach_the_terminal(tmp_path: Path, call_main: Call) -> None:
    a = write_events(tmp_path / "a", hostile_events())
    b = write_log(tmp_path / "b", Made(frames=20))
    for args in (["compare", str(a), str(b)], ["compare", str(a), str(b), "--json"]):
        outcome = call_main("kpi", *args)
        assert (outcome.code, outcome.stderr) == (0, "")
        assert "\x1b" not in outcome.stdout
    assert "\x1b" in HOSTILE, "negative control"


# What it costs to start

HEAVY = {"torch", "torchvision", "sam2", "zmq", "uvicorn", "av"}


def imported(code: str) -> set[str]:
    """Packages that a new interpreter has imported when `code` has run."""
    script = (
        f"import sys\ntry:\n {code}\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {name.split(".")[0] for name in ended.stderr.split()}


@pytest.mark.parametrize("number", range(3))
def test_no_command_imports_what_runs_need(tmp_path: Path, number: int) -> None:
    args = commands(write_log(tmp_path, Made(frames=20)))[number]
    code = f"sys.argv = ['maskstream', 'kpi', *{args}]; import pipeline.cli; pipeline.cli.main()"
    modules = imported(code)
    assert "kpi" in modules
    assert not HEAVY & modules
    assert ("matplotlib" in modules) is (number == 0)
    assert "torch" in imported("import torch"), "negative control"


def test_a_mistake_does_not_wait_for_matplotlib(tmp_path: Path) -> None:
    args = ["report", str(tmp_path / "missing")]
    code = f"sys.argv = ['maskstream', 'kpi', *{args}]; import pipeline.cli; pipeline.cli.main()"
    assert "matplotlib" not in imported(code)
