"""Who may import whom: pipeline → stages → kpi, one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "stages", "kpi")
MAY_IMPORT = {
    "pipeline": {"pipeline", "stages", "kpi"},
    "stages": {"stages", "kpi"},
    "kpi": {"kpi"},
}
CONCRETE = ("stages.sources.", "stages.detectors.", "stages.segmenters.")
LIGHT = (
    *("stages/wire.py", "stages/packets.py", "stages/client.py", "stages/frame_sender.py"),
    *("stages/control_client.py", "stages/curve_keys.py", "stages/shapes.py"),
    *("stages/recording/reading.py", "stages/recording/verify.py", "stages/recording/writing.py"),
)
ULTRALYTICS_MAY_BE_IN = 1


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Every module that `source` imports, at any depth, and strings that name a member."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def breaches(package: str, source: str) -> set[str]:
    """What `source`, a file of `package`, imports against the rule."""
    ours = {name for name in imported(source) if name.split(".")[0] in (*PACKAGES, "tests")}
    return {name for name in ours if name.split(".")[0] not in MAY_IMPORT[package]}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    found = {path: breaches(package, path.read_text()) for path in files(package)}
    assert found, "no file was looked at"
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("kpi", "from stages.records import Frame"),
        ("stages", "def f():\n    import pipeline.run"),
        ("stages", "from tests import helpers"),
    ],
)
def test_the_rule_catches_a_breach(package: str, source: str) -> None:
    assert breaches(package, source)


def test_from_kpi_a_stage_needs_only_events_and_emit() -> None:
    allowed = {"kpi", "kpi.emit", "kpi.events", "kpi.edge_events"}
    for path in files("stages"):
        modules = {
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kpi")
        }
        assert modules <= allowed, path


def test_only_build_names_concrete_stages() -> None:
    for path in files("pipeline"):
        if path.name != "build.py":
            named = {name for name in imported(path.read_text()) if name.startswith(CONCRETE)}
            assert not named, path


def test_ultralytics_is_imported_in_one_file_only_and_lazily() -> None:
    holders = [
        path
        for package in PACKAGES
        for path in files(package)
        if any(name.split(".")[0] == "ultralytics" for name in imported(path.read_text()))
    ]
    assert len(holders) == ULTRALYTICS_MAY_BE_IN, holders
    top_level = ast.parse(holders[0].read_text()).body
    lazily = not any(
        isinstance(node, ast.Import | ast.ImportFrom) and "ultralytics" in ast.unparse(node)
        for node in top_level
    )
    assert lazily, holders[0]


def test_init_files_run_nothing() -> None:
    """Docstrings, imports and `__all__` only."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            for node in ast.parse(path.read_text()).body:
                quiet = isinstance(node, ast.Import | ast.ImportFrom | ast.Expr | ast.Assign)
                assert quiet, f"{path}: {ast.unparse(node)}"


@pytest.mark.parametrize("light", LIGHT)
def test_light_modules_import_no_heavy_package(light: str) -> None:
    heavy = {"torch", "torchvision", "sam2", "ultralytics", "av", "pydicom"}
    todo, seen = [light], set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported((ROOT / path).read_text()):
            assert name.split(".")[0] not in heavy, f"{path} imports {name}"
            candidate = name.replace(".", "/") + ".py"
            if name.split(".")[0] in PACKAGES and (ROOT / candidate).is_file():
                todo.append(candidate)
