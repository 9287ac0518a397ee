"""The folder of a run: never over another run, never half-made, refused before models load."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.folder import RunFolder
from stages.errors import ConfigError


def refusal(out: Path) -> str:
    with pytest.raises(ConfigError, match="expected a new or empty folder") as caught:
        RunFolder("t", out)
    message = str(caught.value)
    assert message.startswith(f"{out}: ")
    assert "\n" not in message
    return message


def test_by_default_runs_lie_side_by_side_in_the_order_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        folder = RunFolder("demo", None)
        folder.create()
        names.append(folder.path.name)
        time.sleep(0.002)
    assert sorted(set(names)) == names
    assert all(name.endswith("Z-demo") for name in names)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == names


def test_looking_at_a_folder_writes_nothing(tmp_path: Path) -> None:
    RunFolder("t", tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = RunFolder("t", tmp_path / "a" / "b")
    folder.create()
    assert (tmp_path / "a" / "b").is_dir()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    RunFolder("t", tmp_path).create()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    first = RunFolder("t", tmp_path / "out")
    first.create()
    first.summary.write_text("{}")
    assert "not empty" in refusal(tmp_path / "out")
    assert first.summary.read_text() == "{}"


def test_a_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("mine")
    assert "not a folder" in refusal(file)
    assert "not a folder" in refusal(file / "run")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("target", ["nowhere", "out"], ids=["dangling", "loop"])
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "out").symlink_to(tmp_path / target)
    assert "not a folder" in refusal(tmp_path / "out")


def test_a_link_to_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "there")
    RunFolder("t", tmp_path / "out").create()


def test_a_folder_that_takes_no_files_is_refused() -> None:
    refusal(Path("/proc/run"))


def test_a_name_too_long_is_refused() -> None:
    assert "too long" in refusal(Path("x" * 300))


def test_a_folder_that_was_taken_meanwhile_is_refused(tmp_path: Path) -> None:
    folder = RunFolder("t", tmp_path / "out")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        folder.create()


def test_every_file_of_a_run_lies_in_it(tmp_path: Path) -> None:
    folder = RunFolder("t", tmp_path)
    files = {
        folder.config: "config.yaml",
        folder.endpoints: "endpoints.json",
        folder.kpi: "kpi.jsonl",
        folder.summary: "summary.json",
        folder.preview: "preview.png",
        folder.film: "preview.mp4",
        folder.error_log: "error.log",
    }
    assert {path: path.name for path in files} == files
    assert {path.parent for path in files} == {tmp_path}
