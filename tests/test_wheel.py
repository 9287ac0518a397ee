"""The wheel holds what it must and no more, and works from any folder, with nothing but what it
asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow

PIP = ("-m", "pip", "--disable-pip-version-check")
INSTALL_S = 120
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


def asked_for(wheel: Path) -> list[Distribution]:
    """What is installed here of what the wheel asks for, and that asks for, and so on."""
    (info,) = (one for one in zipfile.Path(wheel).iterdir() if one.name.endswith(".dist-info"))
    requires = PathDistribution(cast("Any", info)).requires or ()
    todo = [line for line in requires if "extra ==" not in line]
    found: dict[tuple[str, str], Distribution] = {}
    while todo:
        one = Requirement(todo.pop())
        for extra in ("", *one.extras):
            if (one.name, extra) not in found:
                found[one.name, extra] = distribution(one.name)
                todo += [
                    str(asked)
                    for asked in map(Requirement, found[one.name, extra].requires or ())
                    if asked.marker is None or asked.marker.evaluate({"extra": extra})
                ]
    return list(found.values())


def link(package: Distribution, folder: Path) -> None:
    """Install what is installed here a second time, without its bytes."""
    for file in package.files or ():
        source, target = Path(str(file.locate())), folder / file
        if ".." not in file.parts and source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)


DFINE_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    call(*build, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel and what it asks for, nothing else."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    (packages,) = (environment / "lib").glob("python*/site-packages")
    for package in asked_for(wheel):
        link(package, packages)
    call(python, *PIP, "install", "--no-index", wheel, cwd=environment)
    return environment / "bin"


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
        "--set",
        "source.ahead=0",
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


def test_nothing_else_is_there_and_versions_fit(installed: Path, tmp_path: Path) -> None:
    call(installed / "python", *PIP, "check", cwd=tmp_path)
    looked = "from importlib.util import find_spec; print(find_spec('torch'), find_spec('pytest'))"
    torch, pytest = call(installed / "python", "-c", looked, cwd=tmp_path).rsplit(maxsplit=1)
    assert torch != "None"
    assert pytest == "None"


@pytest.mark.timeout(INSTALL_S + 300)
def test_doctor_finds_nothing_lacking_there(installed: Path, tmp_path: Path) -> None:
    assert "lacking" not in call(installed / "maskstream", "doctor", cwd=tmp_path)
