"""Whole runs that others look at over OpenIGTLink."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Outcome, StartCli
from igtl_cxx import compiled
from igtl_messages import image, image_body, message
from igtl_receivers import Received, Receiver, pyigtl_client, pyigtl_message
from igtl_senders import SHAPE, numbered
from test_live_run import Watched, free_port

WAIT_S = 60.0
QUIET = "preview: null\nresults: null\ncontrol: null\nhttp: null\nopenigtlink_out: {port: 0}\n"
SEGMENTER = "segmenter: {kind: sam2_image, model: demo, max_objects: 3}\n"
PHANTOM = (
    f"name: out\n{QUIET}{SEGMENTER}"
    "source: {kind: phantom, size_hw: [120, 160], fps: 10}\ndetector: {kind: yolo, weights: demo}\n"
)


SHORT_S = 0.2


def through(port: int) -> str:
    """Whatever is sent to that port."""
    return (
        f"name: through\n{QUIET}{SEGMENTER}detector: {{kind: none}}\n"
        f"source: {{kind: openigtlink, listen: true, port: {port}}}\n"
    )


def send_until(sender: socket.socket, done: Callable[[], bool]) -> None:
    """Send pictures until `done`."""
    for index in range(600):
        sender.sendall(image(numbered(index), seconds=int(time.time()) + index))
        if done():
            return
        time.sleep(0.05)
    raise TimeoutError("it never happened")


def started(start_cli: StartCli, folder: Path, text: str) -> tuple[subprocess.Popen[str], Watched]:
    path, run = folder / "run.yaml", Watched(folder / "run")
    path.write_text(text)
    return start_cli("run", str(path), "--out", str(run.folder), cwd=folder), run


def stopped(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, errors
    return errors


def copies_of(run: Watched) -> dict[str, int]:
    """Its `host_copies`."""
    return json.loads((run.folder / "summary.json").read_text())["host_copies"]


@pytest.mark.timeout(180)
def test_pyigtl_looks_at_the_phantom(start_cli: StartCli, tmp_path: Path) -> None:
    process, run = started(start_cli, tmp_path, PHANTOM)
    endpoint = run.endpoint("openigtlink")
    with pyigtl_client(endpoint) as client:
        before = time.time()
        found = [pyigtl_message(client, "Masks") for _ in range(5)]
        for each in found:
            assert each.image.shape == (1, 120, 160)
            assert each.image.dtype == np.uint8
            assert before - 5.0 < each.timestamp <= time.time()
        assert any(each.image.any() for each in found)
        points = pyigtl_message(client, "Centroids")
    stopped(process)
    assert len(points.names) == len(points.positions)
    told = [event["subscribers"] for event in run.events("subscriber_state")]
    assert 1 in told


@pytest.mark.timeout(180)
def test_masks_are_copied_for_those_who_look_alone(start_cli: StartCli, tmp_path: Path) -> None:
    port = free_port()
    process, run = started(start_cli, tmp_path, through(port))
    endpoint = run.endpoint("openigtlink")
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as sender:
        send_until(sender, lambda: len(run.events("frame_published")) > 10)
        run.eventually(lambda: bool(run.events("host_copies")))
        before = list(run.events("host_copies"))
        with Receiver(endpoint) as receiver:
            receiver.socket.settimeout(SHORT_S)
            send_until(sender, lambda: received(receiver) is not None)
    stopped(process)
    assert {event["where"] for event in before} == {"upload", "header"}
    copies = copies_of(run)
    assert 0 < copies["egress_d2h"] < copies["header_d2h"] - 10


@pytest.mark.timeout(180)
def test_the_cxx_library_looks_at_the_phantom(start_cli: StartCli, tmp_path: Path) -> None:
    program = compiled(ROOT / "tests" / "igtl_receiver.cxx", tmp_path)
    process, run = started(start_cli, tmp_path, PHANTOM)
    port = run.endpoint("openigtlink").rpartition(":")[2]
    seen = subprocess.run([program, port, "5"], capture_output=True, text=True, timeout=WAIT_S)
    stopped(process)
    assert seen.returncode == 0
    lines = [line.split() for line in seen.stdout.splitlines()]
    assert not [line for line in lines if line[0] == "BAD"]
    images = [line for line in lines if line[0] == "IMAGE"]
    assert len(images) == 5
    assert all(line[3:8] == ["160", "120", "1", "3", "1"] for line in images)
    assert all(abs(float(line[2]) - time.time()) < WAIT_S for line in images)


@pytest.mark.timeout(180)
def test_a_stopped_receiver_stops_no_run(start_cli: StartCli, tmp_path: Path) -> None:
    program = compiled(ROOT / "tests" / "igtl_receiver.cxx", tmp_path)
    process, run = started(start_cli, tmp_path, PHANTOM.replace("120, 160", "480, 640"))
    endpoint = run.endpoint("openigtlink")
    command = [program, endpoint.rpartition(":")[2], "100000"]
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL) as receiver,
        Receiver(endpoint) as healthy,
    ):
        try:
            healthy.until("IMAGE")
            receiver.send_signal(signal.SIGSTOP)
            began = len(run.events("frame_published"))
            for _ in range(30):
                healthy.until("IMAGE")
            assert len(run.events("frame_published")) >= began + 25
        finally:
            receiver.kill()
    stopped(process)


@pytest.mark.timeout(180)
def test_pose_spacing_and_time_go_through_a_run_unchanged(
    start_cli: StartCli, tmp_path: Path
) -> None:
    """PlusServer to 3D Slicer, with us between them."""
    matrix = (0.0, 0.0, -0.25, -0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 12.5, -7.25, 100.75)
    port = free_port()
    process, run = started(start_cli, tmp_path, through(port))
    endpoint = run.endpoint("openigtlink")
    began_s = int(time.time())
    sent = {}
    with (
        socket.create_connection(("127.0.0.1", port), WAIT_S) as sender,
        Receiver(endpoint) as receiver,
    ):
        assert receiver.until("STATUS").code in (13, 16)
        sender.settimeout(WAIT_S)
        receiver.socket.settimeout(SHORT_S)
        found = None
        for index in range(300):
            fraction = index * 7_654_321
            body = image_body(numbered(index), matrix=matrix)
            sender.sendall(message("IMAGE", body, seconds=began_s, fraction=fraction))
            sent[began_s * 1_000_000_000 + round(fraction * 1e9 / 2**32)] = index
            found = received(receiver) or found
            if found is not None and index > 10:
                break
        assert found is not None
    stopped(process)
    assert found.pixels.shape == SHAPE
    assert min(abs(found.unix_ns - each) for each in sent) <= 1
    assert np.allclose(found.numbers[:6], matrix[:6], atol=1e-6)
    assert np.allclose(found.numbers[9:], matrix[9:], atol=1e-5)


def received(receiver: Receiver) -> Received | None:
    """The next picture, if one comes soon."""
    try:
        return receiver.until("IMAGE")
    except TimeoutError:
        return None


@pytest.mark.timeout(180)
def test_who_looks_is_told_when_the_source_stalls_and_when_it_ends(
    start_cli: StartCli, tmp_path: Path
) -> None:
    port = free_port()
    process, run = started(start_cli, tmp_path, through(port))
    endpoint = run.endpoint("openigtlink")
    with Receiver(endpoint) as receiver:
        receiver.socket.settimeout(WAIT_S)
        with socket.create_connection(("127.0.0.1", port), WAIT_S) as sender:
            for index in range(3):
                sender.sendall(image(numbered(index), seconds=int(time.time()) + index))
                time.sleep(0.1)
            receiver.until_code(1)
            stalled = time.monotonic()
            receiver.until_code(7)
            assert time.monotonic() - stalled < 20.0
        receiver.until_code(16)
        process.send_signal(signal.SIGINT)
        assert receiver.rest()[-1].code == 19
    process.communicate(timeout=WAIT_S)


def test_a_taken_port_ends_the_command_in_one_line(
    call_main: Callable[..., Outcome], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = tmp_path / "run.yaml"
        config.write_text(PHANTOM.replace("port: 0", f"port: {port}"))
        outcome = call_main("run", str(config), "--out", str(tmp_path / "run"))
    assert outcome.code == 1
    assert f"openigtlink_out: cannot listen on 127.0.0.1 port {port}" in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_listening_beyond_this_machine_is_refused_by_name(
    call_main: Callable[..., Outcome], tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(PHANTOM.replace("{port: 0}", "{port: 0, host: 0.0.0.0}"))
    outcome = call_main("run", str(config), "--out", str(tmp_path / "run"))
    assert outcome.code == 78
    assert "insecure_bind: true" in outcome.stderr
