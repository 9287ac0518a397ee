"""A recording's folder: new, private, locked; and the deletion of old ones."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from recordings import ANY_SPACE, log_options, logits, manifest, video

from stages.errors import RecordingError
from stages.recording import folder as folders
from stages.recording.folder import RecordingFolder, is_being_written
from stages.recording.manifest import FORMAT, SCHEMA, Manifest, load, parse, render
from stages.recording.npy_writer import NpyOptions
from stages.recording.reading import open_recording
from stages.recording.retire import retire_recordings
from stages.recording.sealed_json import sealed
from stages.recording.verify import verify
from stages.recording.writing import create_log, create_npy, reopen_log


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        log = create_log(tmp_path / "root", manifest(), log_options())
        log.append(logits(0).entry())
        npy = create_npy(tmp_path / "root", manifest("npy"), NpyOptions(space=ANY_SPACE))
        npy.append(video(0))
    finally:
        os.umask(before)
    log.close()
    npy.close()
    paths = sorted((tmp_path / "root").rglob("*"))
    assert len(paths) == 11
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_a_recording_is_never_overwritten(tmp_path: Path) -> None:
    create_log(tmp_path, manifest(), log_options()).close()
    with pytest.raises(RecordingError, match="exists, and a recording is never overwritten"):
        create_log(tmp_path, manifest(), log_options())


def test_one_writer_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = create_log(tmp_path, manifest(), log_options())
    path = tmp_path / "s"
    assert is_being_written(path)
    told = "another process is recording there"
    with pytest.raises(RecordingError, match=told) as caught:
        reopen_log(path, log_options())
    assert "\n" not in str(caught.value)
    program = (
        "import sys; from pathlib import Path; from stages.recording.writing import reopen_log\n"
        f"try: reopen_log(Path({str(path)!r}))\n"
        "except Exception as error: sys.exit(str(error))"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told in other.stderr
    log.append(logits(0).entry())
    log.close()
    assert not is_being_written(path)
    # Without the lock two would write, and one would destroy the other's order.
    first = reopen_log(path, log_options())
    with monkeypatch.context() as patch:
        patch.setattr(folders.fcntl, "flock", lambda fd, how: None)
        second = reopen_log(path, log_options())
    first.append(logits(1).entry())
    second.append(logits(2).entry())
    first.close()
    second.close()
    assert not verify(path).is_whole


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "a\n", "ü", "x" * 129])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordingError, match="expected at most 128 letters") as caught:
        create_log(tmp_path, manifest(session_id=name), log_options())
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_symlinks_below_the_root_are_refused(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    root.mkdir()
    (root / "predictions").symlink_to(outside)
    with pytest.raises(RecordingError, match="is a symlink or no folder"):
        create_npy(root, manifest("npy"))
    (root / "s").symlink_to(outside)
    with pytest.raises(RecordingError, match="never overwritten"):
        create_log(root, manifest())
    assert list(outside.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0 and not os.access("/proc", os.R_OK), reason="no /proc")
def test_where_nothing_can_be_made_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", Path("/proc/self")):
        with pytest.raises(RecordingError) as caught:
            create_log(root, manifest())
        assert str(root) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_manifest_says_what_it_said() -> None:
    said = Manifest(
        *("log", "s", "cam", (480, 640), ("vessel", "Gefäß"), 0.5, "m.yaml", "ab" * 32),
        versions={"numpy": "2.0"},
        recorded=("packet", "logits"),
        logits_dtype="int8",
        exported_from="float16",
        cleaning=("fill_hole_area",),
    )
    assert parse(render(said), "x") == said


def test_a_manifest_of_before_is_read() -> None:
    told = asdict(manifest()) | {"format": FORMAT, "schema": SCHEMA}
    del told["exported_from"], told["cleaning"]
    assert parse(sealed(told, indent=2), "x").cleaning == ()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\xff", "is not JSON"),
        (b"[1]\n", "no JSON object"),
        (b"{" * 100_000, "is not JSON"),
        (render(manifest()).replace(b'"s"', b'"t"'), "check sum is wrong"),
        (render(manifest()).replace(b"  ", b"   "), "check sum is wrong"),
        (render(manifest())[:-1], "check sum is wrong"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(raw: bytes, told: str) -> None:
    with pytest.raises(RecordingError, match=told):
        parse(raw, "manifest.json")


def test_a_manifest_of_a_later_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.recording.manifest.SCHEMA", 2)
    later = render(manifest())
    monkeypatch.undo()
    with pytest.raises(RecordingError, match="schema: got 2, expected 1"):
        parse(later, "manifest.json")


def recorded_at(root: Path, name: str, created_s: int) -> Path:
    told = Manifest("log", name, created_unix_ns=created_s * 10**9)
    log = create_log(root, told, log_options())
    log.append(logits(0, objects=40).entry())
    log.close()
    return root / name


def test_the_oldest_recordings_are_deleted(tmp_path: Path) -> None:
    a, b, c = (recorded_at(tmp_path, name, at) for name, at in (("c", 1), ("b", 2), ("a", 3)))
    foreign = tmp_path / "other"
    foreign.mkdir()
    (foreign / "frame_00000.npy").touch()
    (b / "notes.txt").write_text("mine")
    size = sum(path.stat().st_size for path in c.iterdir())
    assert retire_recordings(tmp_path, 10 * size, None) == ()
    assert retire_recordings(tmp_path, 2 * size + 100, None) == (a,)
    assert not a.exists()
    assert retire_recordings(tmp_path, None, 10.0, now_unix_ns=12_500_000_000) == (b,)
    assert [path.name for path in b.iterdir()] == ["notes.txt"]
    assert foreign.exists()
    assert load(c).session_id == "a"
    log = reopen_log(c, log_options())
    assert retire_recordings(tmp_path, 0, None) == (), "what is being written is spared"
    log.close()
    with open_recording(c) as recording:
        assert len(recording.frames()) == 1


def test_a_folder_that_is_let_go_can_be_taken(tmp_path: Path) -> None:
    RecordingFolder.create(tmp_path, "x").close()
    RecordingFolder.reopen(tmp_path / "x").close()
    with pytest.raises(RecordingError, match="No such file"):
        RecordingFolder.reopen(tmp_path / "y")
