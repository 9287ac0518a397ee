"""CUDA IPC: refused in one line where it cannot be; two real processes where there is a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Outcome
from result_packets import random_result

from pipeline.build import build_cuda_ipc
from pipeline.config import load_config
from stages.cuda_ring import CudaView, check_cuda_ipc
from stages.errors import ConfigError
from stages.ring_place import RingError
from stages.sinks.cuda_ipc import CudaIpc, CudaIpcConfig, make_cuda_ipc
from stages.sinks.zmq_publisher import ZmqPublisher, ZmqPublisherConfig
from stages.to_host import ToHost

CUDA = torch.device("cuda", 0)
SIZE_HW = (480, 640)


def test_it_is_off_unless_asked_for() -> None:
    config = load_config("demo")
    assert config.cuda_ipc is None
    assert build_cuda_ipc(config, torch.device("cpu")) is None


def test_without_a_gpu_the_command_says_so_in_one_line(
    call_main: Callable[..., Outcome], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = [
        "--set",
        "cuda_ipc={}",
        "--set",
        "device=cpu",
        "--set",
        "http=null",
        "--set",
        "control=null",
    ]
    outcome = call_main("run", "demo", "--out", str(out), *words)
    assert outcome.code == 78
    assert "cuda_ipc: the run's device is cpu (expected cuda" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not out.exists()


@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
@pytest.mark.parametrize(
    "value", ["expandable_segments:True", "max_split_size_mb:64, expandable_segments: true"]
)
def test_memory_that_cannot_be_shared_by_handle_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    check_cuda_ipc(CUDA)
    monkeypatch.setenv(name, "expandable_segments:False")
    check_cuda_ipc(CUDA)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name} has expandable_segments:True"):
        check_cuda_ipc(CUDA)


@pytest.mark.parametrize(
    ("setting", "said"), [("as_numpy=true", "as_numpy is true"), ("results=null", "results is")]
)
def test_what_it_builds_on_must_be_there(setting: str, said: str) -> None:
    config = load_config("demo", ("cuda_ipc={}", setting))
    with pytest.raises(ConfigError, match=said):
        build_cuda_ipc(config, CUDA)


def test_a_reader_that_does_not_see_the_gpu_says_so() -> None:
    told = {"uuid": "GPU-none", "slots": 2, "slot_bytes": 8, "handle": [], "events": []}
    with pytest.raises(RingError, match="which is none of the"):
        CudaView(told)


# With a GPU


class OnGpu:
    """A run on the GPU, as far as readers see it."""

    def __init__(self, slots: int = 16) -> None:
        self.ipc: CudaIpc = make_cuda_ipc(CudaIpcConfig(slots=slots), CUDA)
        section = ZmqPublisherConfig(endpoint="tcp://127.0.0.1:0")
        self.publisher = ZmqPublisher(section, "cam1", ())
        self.to_host = ToHost(CUDA)
        rng = np.random.default_rng(0)
        self.packets = [random_result(rng, 8, SIZE_HW, "cuda:0")[0] for _ in range(4)]
        self.steps = 0

    def step(self) -> None:
        packet = self.packets[self.steps % len(self.packets)]
        self.steps += 1
        self.ipc.ring.prepare(packet)
        pending = self.to_host.submit(self.ipc.ring.put(packet), masks=False)
        while not pending.ready():
            time.sleep(0.0002)
        self.publisher.write(pending.host_packet())
        self.publisher.poll()
        self.ipc.poll()

    def reader(self, count: int) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "tests" / "host_ring.py"), self.publisher.endpoint]
        command += [self.ipc.endpoint, str(count), "cuda"]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        self.ipc.close()
        self.publisher.close()


@pytest.mark.gpu
@pytest.mark.timeout(180)
def test_two_processes_see_equal_masks_on_the_gpu() -> None:
    rig = OnGpu()
    with rig.reader(50) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            rig.step()
            time.sleep(0.01)
        assert process.stdout is not None
        lines = [json.loads(line) for line in process.stdout]
    rig.close()
    assert process.returncode == 0
    assert len(lines) == 50
    assert all(line["areas"] == line["told"] for line in lines)
    assert any(sum(line["areas"]) for line in lines)


@pytest.mark.gpu
@pytest.mark.timeout(300)
def test_a_killed_reader_harms_nothing_and_no_memory_grows_on_the_gpu() -> None:
    rig = OnGpu()
    with rig.reader(1_000_000) as process:
        deadline = time.monotonic() + 120
        while not rig.ipc.ring.wanted and time.monotonic() < deadline:
            rig.step()
            time.sleep(0.01)
        for _ in range(500):
            rig.step()
        process.kill()
    before = torch.cuda.memory_allocated(CUDA), torch.cuda.memory_reserved(CUDA)
    for _ in range(10_000):
        rig.step()
    assert (torch.cuda.memory_allocated(CUDA), torch.cuda.memory_reserved(CUDA)) == before
    with rig.reader(5) as again:
        deadline = time.monotonic() + 120
        while again.poll() is None and time.monotonic() < deadline:
            rig.step()
            time.sleep(0.01)
    rig.close()
    assert again.returncode == 0
