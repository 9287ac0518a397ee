"""What the project says about itself is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import conftest
import pytest
import yaml
from conftest import ROOT, Outcome
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipeline.config import parse_config
from pipeline.folder import RunFolder
from pipeline.yaml_file import shipped_runs

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
PAGES = [
    page for folder in (".", "docs", "stages/*/weights") for page in ROOT.glob(f"{folder}/*.md")
]
# Written so that this file does not hold them.
MACHINE_PATHS = re.compile("|".join(f"/{name}/" for name in ("work", "root", "home", "Users")))
REGISTRY = re.compile(r"/[s]imple\b|[i]ndex-url|[t]rusted-host")


def tracked() -> list[Path]:
    """The files that belong to the project: what git tracks, or would."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    paths = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file() and "shared" not in path.parts]


def text_of(path: Path) -> str | None:
    """None for what is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def leaks(text: str) -> list[str]:
    return [*MACHINE_PATHS.findall(text), *REGISTRY.findall(text)]


def test_no_file_names_a_path_of_some_machine_or_a_registry() -> None:
    texts = {path: text for path in tracked() if (text := text_of(path)) is not None}
    assert ROOT / "README.md" in texts
    assert {str(path): found for path, text in texts.items() if (found := leaks(text))} == {}


@pytest.mark.parametrize(
    "text", ["see /" + "home/me/x", "https://host/" + "simple", "-i" + "ndex-url x"]
)
def test_a_leak_is_seen(text: str) -> None:
    assert leaks(text)


def makefile() -> str:
    return (ROOT / "Makefile").read_text()


def test_every_make_target_that_is_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile(), re.MULTILINE))
    ci = (ROOT / ".ci" / "run").read_text()
    shown = set(re.findall(r"(?:^|`)make ([a-z-]+)", "\n".join([README, ci]), re.MULTILINE))
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    shown |= set(re.findall(r"^make ([a-z-]+)", contributing, re.MULTILINE))
    assert {"demo", "test", "lint"} <= shown
    assert shown <= targets
    phony = re.search(r"^\.PHONY: (.*)$", makefile(), re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets


def test_make_runs_every_benchmark() -> None:
    """What is run as a module and writes results; other modules are parts of these."""
    benches = re.search(r"^BENCHES := (.*)$", makefile(), re.MULTILINE)
    assert benches is not None
    modules = {path.stem: path.read_text() for path in (ROOT / "benchmarks").glob("*.py")}
    runs = {
        name for name, text in modules.items() if '"__main__"' in text and "write_json(" in text
    }
    assert len(runs) > 10
    assert sorted(benches[1].split()) == sorted(runs)


def shown_commands(text: str) -> list[str]:
    """Lines of code blocks that call the command, without their comments."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("maskstream ")]


COMMANDS = [line for page in PAGES for line in shown_commands(page.read_text())]


def test_the_readme_shows_every_command() -> None:
    shown = {line.split()[1] for line in shown_commands(README)}
    live = {"run", "doctor", "subscribe", "kpi", "sources", "keys", "control"}
    assert shown == {*live, "models", "record", "image", "video", "replay", "rerun"}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_that_is_shown_parses(call_main: Callable[..., Outcome], line: str) -> None:
    outcome = call_main(*shlex.split(line, comments=True)[1:], "--help")
    assert outcome.code == 0, outcome.stderr


def test_an_option_that_does_not_exist_would_not_parse(
    call_main: Callable[..., Outcome],
) -> None:
    assert call_main("run", "demo", "--no-such", "--help").code == 2


def test_the_configuration_in_the_readme_is_one() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        parse_config(yaml.safe_load(block), Path("README.md"))


def test_the_readme_names_every_file_of_a_run_and_every_configuration(tmp_path: Path) -> None:
    folder = RunFolder("t", tmp_path)
    files = (folder.config, folder.endpoints, folder.kpi, folder.summary, folder.preview)
    names = [path.name for path in files]
    names += [path.stem for path in shipped_runs()]
    assert [name for name in names if f"`{name}`" not in README] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_changelog_has_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == PROJECT["version"]


def test_the_license_is_apache_2() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("package", ["pipeline", "stages", "kpi"])
def test_the_packages_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_ci_is_a_script_that_can_run() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("reason", "required", "outcome"),
    [
        ("no GPU here", None, pytest.skip.Exception),
        ("no GPU here", "1", pytest.fail.Exception),
        (None, "1", None),
    ],
)
def test_a_gpu_test_is_skipped_without_a_gpu_and_fails_where_one_is_required(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    reason: str | None,
    required: str | None,
    outcome: type[BaseException] | None,
) -> None:
    monkeypatch.setattr(conftest, "missing_gpu", lambda: reason)
    monkeypatch.setenv("REQUIRE_GPU", required or "0")
    conftest.pytest_runtest_setup(request.node)  # not marked: nothing happens
    request.node.add_marker("gpu")
    with nullcontext() if outcome is None else pytest.raises(outcome, match=reason):
        conftest.pytest_runtest_setup(request.node)


# The tested versions


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines[0].startswith("# ")
    parsed = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+-]+)", line) for line in lines[1:]]
    assert all(parsed), [line for line, match in zip(lines[1:], parsed, strict=True) if not match]
    found = [(match[1], Version(match[2])) for match in parsed if match]
    names = [name.lower() for name, _ in found]
    assert names == sorted(names)
    assert len(set(map(canonicalize_name, names))) == len(names)
    return {canonicalize_name(name): version for name, version in found}


UNTESTED_EXTRAS = {"sam3"}  # CUDA only, and at odds with the tested versions


def requirements() -> list[Requirement]:
    all_extras = PROJECT["optional-dependencies"]
    extras = [lines for name, lines in all_extras.items() if name not in UNTESTED_EXTRAS]
    listed = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [Requirement(line) for line in listed]


def test_every_requirement_has_a_tested_version_in_its_range() -> None:
    tested = pins()
    for requirement in requirements():
        version = tested.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement}: no version in constraints.txt"
        assert version in requirement.specifier, f"{requirement}: {version}"


def test_the_platform_is_not_pinned() -> None:
    """torch names the versions of its CUDA wheels itself, and other platforms have none."""
    cuda = [name for name in pins() if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert cuda == ["nvidia-ml-py"]
    assert not any(version.local for version in pins().values())
