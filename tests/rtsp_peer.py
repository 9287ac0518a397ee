"""A real RTSP server for a test, in a process of its own: `RtspServer`."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.closing import Closing

PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).parent / "rtsp_server.py"
BARS = ("white", "yellow", "cyan", "green", "magenta", "red", "blue")
"""Of the test picture, from the left, at full brightness."""
RGB = {
    "white": (255, 255, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "green": (0, 255, 0),
    "magenta": (255, 0, 255),
    "red": (255, 0, 0),
    "blue": (0, 0, 255),
}
NEEDS = (
    "import gi; gi.require_version('GstRtspServer', '1.0'); "
    "from gi.repository import Gst, GstRtspServer; Gst.init(None); "
    "assert all(Gst.ElementFactory.find(n) for n in "
    "('videotestsrc', 'x264enc', 'rtph264pay'))"
)


@cache
def _lacks() -> str | None:
    if not Path(PYTHON).exists():
        return f"{PYTHON} is not there"
    ended = subprocess.run([PYTHON, "-c", NEEDS], capture_output=True, text=True, check=False)
    return None if ended.returncode == 0 else "GStreamer's RTSP server library is not there"


def require_rtsp_server() -> None:
    """Skips the test where the server cannot run; see `services.require`."""
    reason = _lacks()
    if reason is not None and os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and REQUIRE_SERVICES=1")
    if reason is not None:
        pytest.skip(reason)


class RtspServer(Closing):
    """Serves colour bars at `url`; ``options`` are those of `rtsp_server.py`."""

    def __init__(self, port: int = 0, **options: object) -> None:
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        self._process = subprocess.Popen(
            [PYTHON, str(SCRIPT), "--port", str(port), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        assert told, "the server did not start"
        self.port = int(told)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/test"

    def resize(self, size: str) -> None:
        """Change the size of the pictures, as `640x480`, while they flow."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{size}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Let it hang."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def bars(pixels: NDArray[np.uint8]) -> tuple[str, ...]:
    """The names of the colours of the seven bars that (H, W, 3) ``pixels`` show."""
    height, width = pixels.shape[:2]
    row = pixels[height // 4].astype(int)
    seen = [row[int((n + 0.5) * width / len(BARS))] for n in range(len(BARS))]
    return tuple(min(RGB, key=lambda name: int(np.abs(one - RGB[name]).sum())) for one in seen)
