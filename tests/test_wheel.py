"""The wheel holds what it must and no more, and works from any folder in an empty environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

CONSTRAINTS = ROOT / "constraints.txt"
PIP = ("-m", "pip", "--disable-pip-version-check")
INSTALL_S = 540
FRAMES = 20
CONFIGS = [path for path in (ROOT / "configs").rglob("*") if path.is_file()]
"""Those of runs, and what watches them."""


def call(*command: str | Path, cwd: Path, timeout: float = INSTALL_S) -> str:
    """What the command says; fails the test with it where the command fails. Nothing of this
    tree or of the environment that the tests run in can be imported."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**kept, "PYTHONNOUSERSITE": "1", "SAM2_BUILD_CUDA": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    return ended.stdout


def pinned(name: str) -> str:
    match = re.search(rf"^{name}==.*$", CONSTRAINTS.read_text(), re.MULTILINE)
    assert match is not None
    return match[0]


DFINE_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    call(*build, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A package index that pip reaches."""
    command = [sys.executable, *PIP, "install", "--dry-run", "--no-deps", "--ignore-installed"]
    command += ["--retries", "1", pinned("typing_extensions")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if ended.returncode == 0:
        return
    reason = "pip reaches no package index"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and REQUIRE_SERVICES=1: {ended.stderr[-1000:]}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def installed(wheel: Path, index: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The `bin` of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("installed")
    # There is no wheel of sam2 on the index, and it builds only where torch is installed.
    sam2 = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, pinned("sam2"))
    call(sys.executable, *PIP, *sam2, cwd=folder)
    environment = folder / "venv"
    venv.create(environment, with_pip=True)
    install = ("install", "--quiet", "--no-compile", "-c", CONSTRAINTS, "--find-links", folder)
    python = environment / "bin" / "python"
    call(python, *PIP, *install, "--only-binary", "sam2", wheel, cwd=folder)
    yield environment / "bin"
    shutil.rmtree(environment)  # gigabytes


def test_it_holds_the_packages_their_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = archive.read(f"{info}/METADATA").decode()
    expected = {
        *(f"pipeline/{path.relative_to(ROOT)}" for path in CONFIGS),
        *(f"{package}/py.typed" for package in ("pipeline", "stages", "kpi")),
        "stages/detectors/weights/yolo_demo.safetensors",
        "stages/detectors/weights/yolo_demo.yaml",
        *(f"stages/detectors/weights/dfine_demo/{name}" for name in DFINE_FILES),
        "stages/segmenters/weights/sam2_demo.safetensors",
        "stages/segmenters/weights/sam2_demo.yaml",
        "pipeline/cli.py",
        f"{info}/licenses/LICENSE",
        f"{info}/entry_points.txt",
    }
    assert expected - names == set()
    assert {name.split("/")[0] for name in names} == {"pipeline", "stages", "kpi", info}
    unwanted = [name for name in names if "__pycache__" in name or "/tests/" in name]
    assert unwanted == []
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: torch>=" in metadata


@pytest.mark.timeout(INSTALL_S + 300)
def test_it_runs_in_an_empty_environment_from_another_folder(
    installed: Path, tmp_path: Path
) -> None:
    where = call(installed / "python", "-c", "import stages; print(stages.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent))
    ports = (
        "--set",
        "results.endpoint=tcp://127.0.0.1:0",
        "--set",
        "http.port=0",
        "--set",
        "control.endpoint=tcp://127.0.0.1:0",
    )
    run = ("run", "demo", "--frames", str(FRAMES), "--out", "out", *ports)
    call(installed / "maskstream", *run, cwd=tmp_path)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["frames"] == {"grabbed": FRAMES, "published": FRAMES, "dropped": {}}
    copies = summary["host_copies"]
    assert [copies[f"hot_path_{what}"] for what in ("d2h", "h2d", "syncs")] == [0, 0, 0]
    assert summary["quality"]["mean_iou"] > 0
    assert {"maskstream", "torch", "sam2"} <= set(summary["versions"])
    assert (tmp_path / "out" / "preview.png").stat().st_size > 0


@pytest.mark.timeout(INSTALL_S + 300)
def test_doctor_finds_nothing_lacking_there(installed: Path, tmp_path: Path) -> None:
    assert "lacking" not in call(installed / "maskstream", "doctor", cwd=tmp_path)
