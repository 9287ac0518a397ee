"""`maskstream record`: verify, info and export, with what is right and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from recordings import log_options, logits, manifest

from stages.recording.entry import Stamp
from stages.recording.manifest import Manifest
from stages.recording.writing import create_log, create_npy

Call = Callable[..., Outcome]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    told = Manifest(
        *("log", "s", "cam1", (24, 40), ("vessel",)),
        model="m.yaml",
        config_sha256="a" * 64,
        logits_dtype="float16",
        cleaning=("non_overlap",),
    )
    log = create_log(tmp_path, told, log_options())
    for frame_id in (5, 6, 9):
        log.append(logits(frame_id).entry())
    log.drop("ring full", Stamp(0, 10), 4)
    log.close()
    return tmp_path / "s"


def damage(path: Path) -> None:
    with (path / "segment-000000.log").open("r+b") as file:
        raw = file.read()
        file.seek(raw.index(logits(6).values.tobytes()))
        file.write(b"\x01")


def test_verify_counts_what_is_there(call_main: Call, path: Path) -> None:
    outcome = call_main("record", "verify", str(path))
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == (
        f"{path}: log, 3 records, 3 frames with logits, 1 segment, 1 gap of 4 records, closed\n"
    )


def test_verify_fails_with_a_line_for_each_flaw(call_main: Call, path: Path) -> None:
    damage(path)
    outcome = call_main("record", "verify", str(path))
    assert outcome.code == 1
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("maskstream: segment-000000.log byte ")
    assert line.endswith("its check sum is wrong: the record is damaged")


def test_verify_tells_a_torn_tail(call_main: Call, path: Path) -> None:
    segment = path / "segment-000000.log"
    raw = segment.read_bytes()
    segment.write_bytes(raw[: raw.index(logits(9).values.tobytes()) + 8])
    outcome = call_main("record", "verify", str(path))
    assert outcome.code == 0
    assert "2 records, 2 frames with logits" in outcome.stdout
    assert "a torn tail of " in outcome.stdout
    assert "not closed: its writer was killed, or its end cut off" in outcome.stdout
    outcome = call_main("record", "verify", str(path), "--closed")
    assert (outcome.code, outcome.stderr) == (1, "maskstream: it has no end\n")


def test_verify_of_what_is_being_written(call_main: Call, tmp_path: Path) -> None:
    log = create_log(tmp_path, manifest(), log_options())
    outcome = call_main("record", "verify", str(tmp_path / "s"))
    log.close()
    assert outcome.code == 0
    assert "still being written" in outcome.stdout


def test_info_tells_what_it_is(call_main: Call, path: Path) -> None:
    outcome = call_main("record", "info", str(path))
    assert outcome.code == 0
    rows = {}
    for line in outcome.stdout.splitlines():
        name, value = line.split(maxsplit=1)
        rows[name] = value
    assert rows["layout"] == "log"
    assert rows["session"] == "s"
    assert rows["source"] == "cam1"
    assert rows["picture"] == "40x24"
    assert rows["frames"] == "3, 5..9"
    assert rows["classes"] == "vessel"
    assert rows["logits"] == "float16, mask where above 0, cleaned by non_overlap"
    assert rows["gaps"] == "1 gap of 4 records"
    told = json.loads(call_main("record", "info", str(path), "--json").stdout)
    assert told["entries"] == {"meta": 1, "logits": 3, "gap": 1, "book": 1}
    assert told["manifest"]["model"] == "m.yaml"


def test_export_writes_numpy_files_once(call_main: Call, path: Path, tmp_path: Path) -> None:
    arguments = ("record", "export", str(path), "--layout", "npy", "--out", str(tmp_path / "out"))
    outcome = call_main(*arguments)
    folder = tmp_path / "out" / "predictions" / "s"
    assert (outcome.code, outcome.stdout) == (0, f"{folder}: 3 frames\n"), outcome.stderr
    assert np.load(folder / "frame_00009.npy").shape == (2, 1, 24, 40)
    assert "3 frames with logits" in call_main("record", "verify", str(folder)).stdout
    told = call_main("record", "info", str(folder))
    assert told.code == 0
    assert "float32, before the export float16, mask where above 0" in told.stdout
    again = call_main(*arguments)
    assert again.code == 1
    assert again.stderr.strip().endswith("never overwritten (expected a new name)")


def test_export_tells_what_it_leaves_out(call_main: Call, path: Path, tmp_path: Path) -> None:
    damage(path)
    outcome = call_main("record", "export", str(path), "--out", str(tmp_path / "out"))
    assert outcome.code == 1
    assert "2 frames" in outcome.stdout
    assert "maskstream: left out: frame 6: " in outcome.stderr


@pytest.mark.parametrize("verb", ["verify", "info", "export"])
@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("missing", "No such file or directory (expected the folder of a recording)"),
        ("empty", "no recording (expected segment-*.log, or frame_*.npy)"),
        ("file", "Not a directory (expected the folder of a recording)"),
        ("x" * 300, "File name too long (expected the folder of a recording)"),
    ],
)
def test_what_is_no_recording_is_one_line(
    call_main: Call, tmp_path: Path, verb: str, what: str, told: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    out = ("--out", str(tmp_path / "out")) if verb == "export" else ()
    outcome = call_main("record", verb, str(tmp_path / what), *out)
    assert outcome.code == 1
    assert outcome.stderr.strip() == f"maskstream: {tmp_path / what}: {told}"


def test_names_in_a_recording_do_nothing_to_the_terminal(call_main: Call, tmp_path: Path) -> None:
    log = create_log(tmp_path, Manifest("log", "s", "\x1b[2J"), log_options())
    log.close()
    assert "\x1b" not in call_main("record", "info", str(tmp_path / "s")).stdout


def test_usage(call_main: Call, path: Path) -> None:
    assert call_main("record", "export", str(path)).code == 2
    assert call_main("record", "export", str(path), "--out", "x", "--layout", "zarr").code == 2
    assert call_main("record", "verify").code == 2


def npy(root: Path, session: str) -> Path:
    create_npy(root, Manifest("npy", session)).close()
    return root / "predictions" / session


def test_the_folder_of_a_run_or_of_results_leads_to_its_numpy_files(
    call_main: Call, tmp_path: Path
) -> None:
    found = npy(tmp_path, "clip")
    for verb in ("verify", "info"):
        assert call_main("record", verb, str(tmp_path)).code == 0
    assert call_main("record", "verify", str(tmp_path)).stdout.startswith(f"{found}: npy, ")
    npy(tmp_path, "another")
    outcome = call_main("record", "info", str(tmp_path))
    assert outcome.code == 1
    assert outcome.stderr == (
        f"maskstream: {tmp_path}: holds 2 recordings "
        f"(expected one of them, such as {tmp_path}/predictions/another)\n"
    )


@pytest.mark.parametrize(
    ("where", "words", "told"),
    [
        ("pipeline.record_report.verify", ("record", "verify"), "{} was not read to its end"),
        ("pipeline.record_export.export_npy", ("record", "export"), "not all of {} was exported"),
        ("pipeline.rerun.rerun", ("rerun",), "{} was not compared"),
    ],
)
def test_an_interrupt_is_no_verdict(
    call_main: Call,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    words: tuple[str, ...],
    told: str,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    out = ("--out", str(tmp_path / "out")) if "export" in words else ()
    outcome = call_main(*words, str(path), *out)
    assert outcome.code == 1
    assert outcome.stderr == f"maskstream: interrupted: {told.format(path)}\n"
