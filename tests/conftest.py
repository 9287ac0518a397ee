"""What every test shares: the real command, and what a machine must have for a test to run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 120.0
"""For one command; a few seconds on a machine that does nothing else."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str
    seconds: float


class RunCli(Protocol):
    """Runs `maskstream ARGUMENTS` in a process of its own."""

    def __call__(self, *args: str, cwd: Path, timeout: float = TIMEOUT_S) -> Outcome: ...


class StartCli(Protocol):
    """Starts `maskstream ARGUMENTS`, or what another module makes of it; killed when the test
    ends, if it has not ended by itself."""

    def __call__(
        self, *args: str, cwd: Path, module: str = "pipeline.cli"
    ) -> subprocess.Popen[str]: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu` is skipped where there is no CUDA GPU; `REQUIRE_GPU=1` says that here
    it must not be."""
    if item.get_closest_marker("gpu") is None:
        return
    reason = missing_gpu()
    if reason is not None and os.environ.get("REQUIRE_GPU") == "1":
        pytest.fail(f"{reason}, and REQUIRE_GPU=1", pytrace=False)
    if reason is not None:
        pytest.skip(reason)


def missing_gpu() -> str | None:
    """Why tests that need a CUDA GPU cannot run; imports torch only where there may be one."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return "this machine has no NVIDIA device"
    import torch

    return None if torch.cuda.is_available() else "torch finds no CUDA GPU"


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """No test depends on which ran before it; tests that import no torch still import none."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


@contextmanager
def cli_starter() -> Iterator[StartCli]:
    """Gives the starter; kills what it started and has not ended."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str, cwd: Path, module: str = "pipeline.cli") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture
def start_cli() -> Iterator[StartCli]:
    with cli_starter() as start:
        yield start


@pytest.fixture
def run_cli(start_cli: StartCli) -> RunCli:
    def run(*args: str, cwd: Path, timeout: float = TIMEOUT_S) -> Outcome:
        started = time.monotonic()
        process = start_cli(*args, cwd=cwd)
        stdout, stderr = process.communicate(timeout=timeout)
        return Outcome(process.returncode, stdout, stderr, time.monotonic() - started)

    return run


@pytest.fixture
def call_main(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Calls the command's entry point in this process: `call(*arguments)`."""
    from pipeline.cli import main

    def call(*args: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["maskstream", *args])
        capfd.readouterr()
        started = time.monotonic()
        with pytest.raises(SystemExit) as end:
            main()
        seconds = time.monotonic() - started
        stdout, stderr = capfd.readouterr()
        return Outcome(int(end.value.code or 0), stdout, stderr, seconds)

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)
