"""Encrypted streams: a server that nobody vouches for gets no password and shows no picture."""

from __future__ import annotations

import http.server
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rtsp_script import Script, ScriptedServer, nals, packets, serve
from services import require
from test_network_video import Web
from test_sources_rtsp import Log, aside, eventually, log, memory, open_source

from stages.sources.rtsp import RtspSource

__all__ = ["log", "open_source"]  # fixtures

Open = Callable[..., RtspSource]
PICTURES = nals(200)


@dataclass
class Camera:
    """An RTSP server behind TLS."""

    url: str
    certificate: Path
    heard: list[bytes]


class Heard:
    """A connection that remembers what it was told."""

    def __init__(self, inside: ssl.SSLSocket, heard: list[bytes]) -> None:
        self._inside, self._heard = inside, heard

    def recv(self, count: int) -> bytes:
        data = self._inside.recv(count)
        self._heard.append(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Camera]:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [require("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        [*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, stderr=subprocess.DEVNULL
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    heard: list[bytes] = []

    def encrypted(script: Script) -> Script:
        def serve_it(client: socket.socket) -> None:
            with context.wrap_socket(client, server_side=True) as inside:
                script(Heard(inside, heard))  # type: ignore[arg-type]

        return serve_it

    with ScriptedServer(encrypted(serve(packets(PICTURES)))) as server:
        url = f"rtsps://me:CANARY@127.0.0.1:{server.port}/test"
        yield Camera(url, certificate, heard)


def test_a_camera_that_is_vouched_for_is_shown(open_source: Open, log: Log, camera: Camera) -> None:
    assert open_source(camera.url, tls_ca=str(camera.certificate)).read(memory) is not None
    assert log.states == ["connecting", "streaming"]


def test_one_that_nobody_vouches_for_is_not(open_source: Open, log: Log, camera: Camera) -> None:
    source = open_source(camera.url)
    reader = aside(lambda: source.read(memory))
    eventually(lambda: log.states.count("reconnecting") >= 1)
    source.close()
    reader.join(20)
    assert "streaming" not in log.states
    assert b"".join(camera.heard) == b""


def test_unless_it_need_not_be(open_source: Open, log: Log, camera: Camera) -> None:
    assert open_source(camera.url, tls_verify=False).read(memory) is not None
    assert b"rtsps://" in b"".join(camera.heard)


@pytest.mark.parametrize("vouched", [True, False])
def test_https_is_held_to_the_same(
    open_source: Open, log: Log, camera: Camera, vouched: bool
) -> None:
    handler = type("OurWeb", (Web,), {"asked": [], "clip": camera.certificate})
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(camera.certificate, camera.certificate.with_name("key.pem"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{server.server_port}/camera"
        told = {"tls_ca": str(camera.certificate)} if vouched else {}
        source = open_source(url, connect_within_s=20, **told)
        reader = aside(lambda: source.read(memory))
        eventually(lambda: bool({"streaming", "reconnecting"} & set(log.states)))
        source.close()
        reader.join(20)
        server.shutdown()
    assert ("streaming" in log.states) == bool(handler.asked) == vouched
