"""`maskstream doctor`: what this machine has and lacks for a run."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from pipeline.build import tracker_bytes, video_decoder_missing
from pipeline.device import driver_version
from pipeline.versions import OPTIONAL, PACKAGES, package_version

if TYPE_CHECKING:
    import torch

State = Literal["ok", "absent", "fail"]
_MARK = {"ok": "[green]ok[/]", "absent": "[yellow]absent[/]", "fail": "[red]lacking[/]"}
_PORTS = {"results": 5556, "HTTP": 9108}
_WEIGHTS = (
    "segmenters/weights/sam2_demo",
    "detectors/weights/yolo_demo",
    "detectors/weights/dfine_demo/model",
)


class Finding(NamedTuple):
    """One line of the report; `fail` is what a run cannot do without."""

    what: str
    state: State
    detail: str


def doctor() -> int:
    """Print the findings; 0 when a run is possible, 1 when something it needs is lacking."""
    findings = [*_machine(), *_gpu(), *_packages(), *_weights(), *_tracker(), *_ports()]
    table = Table(title="maskstream doctor", title_justify="left", show_header=False)
    for finding in findings:
        table.add_row(finding.what, _MARK[finding.state], finding.detail)
    Console().print(table)
    return int(any(finding.state == "fail" for finding in findings))


def _machine() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    yield Finding("Python", "ok", platform.python_version())
    yield Finding("CPU", "ok", f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}")
    yield Finding("memory", "ok", f"{memory.available / 2**30:.1f} GiB free")


def _gpu() -> Iterator[Finding]:
    import torch

    built = torch.version.cuda
    yield Finding("CUDA build", "ok" if built else "absent", f"torch for CUDA {built}")
    if not torch.cuda.is_available():
        yield Finding("GPU", "absent", "no CUDA GPU that torch can use: runs go on the CPU")
    else:
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            name = torch.cuda.get_device_name(index)
            detail = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            yield Finding(f"cuda:{index}", "ok", detail)
    driver = driver_version()
    yield Finding("NVIDIA driver", "ok" if driver else "absent", driver or "NVML does not answer")
    yield _nvdec(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _nvdec(device: torch.device) -> Finding:
    missing = video_decoder_missing(device) if device.type != "cpu" else "no GPU that torch can use"
    if missing is not None:
        return Finding("NVDEC", "absent", f"{missing}: PyAV decodes on the host")
    return Finding("NVDEC", "ok", "source.decoder: nvdec, for rtsp (not yet tried on a GPU)")


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        version = package_version(name)
        yield Finding(name, "ok" if version else "fail", version or "not installed")
    for name in OPTIONAL:
        version = package_version(name)
        yield Finding(name, "ok" if version else "absent", version or "not installed, an extra")


def _weights() -> Iterator[Finding]:
    for stem in _WEIGHTS:
        path = Path(str(resources.files("stages"))) / f"{stem}.safetensors"
        present = path.is_file()
        detail = f"{path.stat().st_size / 2**20:.1f} MiB" if present else f"{path} is missing"
        yield Finding(
            f"weights {Path(stem.removesuffix('/model')).name}", "ok" if present else "fail", detail
        )


def _tracker() -> Iterator[Finding]:
    """What `sam2_stream` allocates once and then never exceeds."""
    slots, conditioning = 8, 4
    for name, size in tracker_bytes(slots, conditioning).items():
        detail = f"{size:,} bytes for {slots} objects, {conditioning} conditioning frames"
        yield Finding(f"memory of {name}", "ok", detail)


def _ports() -> Iterator[Finding]:
    for name, port in _PORTS.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                yield Finding(f"port {port}", "absent", f"{name}: {error.strerror}")
                continue
        yield Finding(f"port {port}", "ok", f"{name}: free")
