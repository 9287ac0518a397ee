"""`maskstream doctor`: what it finds, and the exit code that follows from it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from conftest import RunCli, missing_gpu

import pipeline.doctor as doctor
from pipeline.config import load_config
from pipeline.doctor import Finding
from stages.detectors.yolo import DEMO_WEIGHTS


def found(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Everything that a run needs is there, whether or not this tree is installed."""
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "torch"))
    monkeypatch.setattr(doctor, "_WEIGHTS", ())
    return monkeypatch


def test_a_machine_that_can_run_gets_0(
    able: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.doctor() == 0
    shown = capsys.readouterr().out
    assert "lacking" not in shown
    for what in ("Python", "CPU", "memory", "NVIDIA driver", metadata.version("torch")):
        assert what in shown


def test_a_missing_package_is_lacking_and_gets_1(
    able: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    able.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    packages = found(doctor._packages())
    assert packages["numpy"] == ("numpy", "ok", metadata.version("numpy"))
    assert packages["no-such-package"].state == "fail"
    assert doctor.doctor() == 1
    assert "lacking" in capsys.readouterr().out


def test_a_missing_extra_is_no_reason_to_fail(able: pytest.MonkeyPatch) -> None:
    able.setattr(doctor, "OPTIONAL", ("no-such-package",))
    assert found(doctor._packages())["no-such-package"].state == "absent"
    assert doctor.doctor() == 0


def test_missing_demo_weights_are_lacking_and_get_1(able: pytest.MonkeyPatch) -> None:
    able.setattr(doctor, "_WEIGHTS", ("detectors/weights/no_such",))
    (finding,) = doctor._weights()
    assert finding.state == "fail"
    assert "no_such.safetensors is missing" in finding.detail
    assert doctor.doctor() == 1


def test_a_port_in_use_is_told_and_is_no_reason_to_fail(able: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        able.setattr(doctor, "_PORTS", {"results": port})
        (finding,) = doctor._ports()
        assert finding.state == "absent"
        assert "in use" in finding.detail
        assert doctor.doctor() == 0
    (finding,) = doctor._ports()
    assert finding == (f"port {port}", "ok", "results: free")


def test_it_looks_at_the_ports_and_weights_that_a_run_takes() -> None:
    demo = load_config("demo")
    assert demo.results is not None
    assert demo.http is not None
    assert demo.results.endpoint.endswith(f":{doctor._PORTS['results']}")
    assert demo.http.port == doctor._PORTS["HTTP"]
    stages = DEMO_WEIGHTS.parents[2]
    looked_at = {stages / f"{stem}.safetensors" for stem in doctor._WEIGHTS}
    shipped = {path for path in stages.rglob("*.safetensors") if "_demo" in str(path)}
    assert looked_at == shipped
    assert DEMO_WEIGHTS in looked_at


@pytest.mark.skipif(missing_gpu() is None, reason="this machine has a CUDA GPU")
def test_without_a_gpu_it_says_that_runs_go_on_the_cpu() -> None:
    gpu = found(doctor._gpu())["GPU"]
    assert gpu.state == "absent"
    assert "CPU" in gpu.detail


@pytest.mark.gpu
def test_each_gpu_is_named_with_its_memory() -> None:
    import torch

    findings = found(doctor._gpu())
    first = findings["cuda:0"]
    assert first.state == "ok"
    assert torch.cuda.get_device_name(0) in first.detail
    assert "GiB free" in first.detail
    assert findings["NVIDIA driver"].state == "ok"


@pytest.mark.timeout(150)
def test_the_command_says_what_its_exit_code_says(run_cli: RunCli, tmp_path: Path) -> None:
    outcome = run_cli("doctor", cwd=tmp_path)
    assert outcome.stderr == ""
    assert outcome.code == int("lacking" in outcome.stdout)
    assert "Python" in outcome.stdout
    assert not list(tmp_path.iterdir())
