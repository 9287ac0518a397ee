"""Who may read a run over HTTP: this machine, who carries the token, or, if told so, everyone."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console
from test_signals import write_config
from tiny_sam2 import write_model

from kpi.http import HttpServer
from kpi.prometheus import PrometheusSink
from pipeline.chain import RESIDENT_STAGES
from pipeline.config import load_config
from pipeline.frame_flow import RunOptions
from pipeline.health import Health
from pipeline.http_config import HttpConfig, is_loopback
from pipeline.run import start
from pipeline.serve import serve
from pipeline.status import RunStatus
from pipeline.tally import Tally
from stages.errors import ConfigError

TOKEN = "0123456789abcdef-Token"  # noqa: S105


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def served(stack: ExitStack, **config: object) -> HttpServer:
    tally = Tally(RESIDENT_STAGES)
    status = RunStatus("t", "cam", tally, Health(tally, stale_after_s=5, hung_after_s=10))
    section = HttpConfig.model_validate({"port": 0, **config})
    server = serve(section, PrometheusSink("cam", RESIDENT_STAGES, {}), status, stack)
    assert server is not None
    return server


def ask(server: HttpServer, path: str = "/metrics", **headers: str) -> tuple[int, str | None]:
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        client.request("GET", path, headers=headers)
        answer = client.getresponse()
        return answer.status, answer.headers["WWW-Authenticate"]
    finally:
        client.close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/status", "/nowhere"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_with_a_token_every_answer_wants_it(
    stack: ExitStack, token_file: Path, host: str, path: str
) -> None:
    server = served(stack, host=host, token_file=str(token_file))
    for wrong in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN}x"}):
        assert ask(server, path, **wrong) == (401, "Bearer")
    assert ask(server, path, Authorization=f"Basic {TOKEN}") == (401, "Bearer")
    assert ask(server, path, Authorization=f"Bearer {TOKEN}")[0] in (200, 404, 503)


def test_beyond_loopback_any_name_of_the_machine_will_do(
    stack: ExitStack, token_file: Path
) -> None:
    server = served(stack, host="0.0.0.0", token_file=str(token_file))  # noqa: S104
    authorized = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(server, Host="camera-1.lab:9108", **authorized)[0] == 200
    assert ask(server, Host="camera-1.lab:9108")[0] == 401


def test_a_token_on_loopback_does_not_let_other_names_in(
    stack: ExitStack, token_file: Path
) -> None:
    server = served(stack, token_file=str(token_file))
    assert ask(server, Host="evil.example", Authorization=f"Bearer {TOKEN}")[0] == 421


def test_beyond_loopback_without_a_token_only_if_told_so(stack: ExitStack) -> None:
    with pytest.raises(ValidationError, match="beyond this machine, a token_file, or"):
        HttpConfig(host="0.0.0.0")  # noqa: S104
    server = served(stack, host="0.0.0.0", insecure_bind=True)  # noqa: S104
    assert ask(server, Host="camera-1.lab")[0] == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("192.0.2.1", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("0", False),
    ],
)
def test_what_only_this_machine_reaches(host: str, local: bool) -> None:
    assert is_loopback(host) is local
    assert HttpConfig(host=host, insecure_bind=True).open_to_all is not local


@pytest.mark.parametrize(("host", "told"), [("0.0.0.0", True), ("127.0.0.1", False)])  # noqa: S104
def test_a_run_that_anyone_may_read_says_so(tmp_path: Path, host: str, told: bool) -> None:
    write_config(tmp_path, write_model(tmp_path))
    settings = [f"http.host={host}", "http.insecure_bind=true", "preview=null"]
    with (tmp_path / "log.txt").open("w") as log:
        options = RunOptions(frames=2, out=tmp_path / "out")
        config = load_config(str(tmp_path / "c.yaml"), settings)
        assert start(config, options, Console(file=log)) == 0
    warned = "whoever reaches it may read it" in (tmp_path / "log.txt").read_text()
    assert warned is told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "No such file"),
        (b"", "holds no token"),
        (b"short", "holds no token"),
        (b"two words that are long enough", "holds no token"),
        (TOKEN.encode() + b"\n" + TOKEN.encode(), "holds no token"),
        (b"x" * 600, "holds no token"),
        (b"\xff" * 40, "holds no token"),
    ],
)
def test_a_file_without_a_token(
    tmp_path: Path, stack: ExitStack, text: bytes | None, expected: str
) -> None:
    path = tmp_path / "token"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        served(stack, token_file=str(path))
    assert str(caught.value).startswith(f"http.token_file: {path}")
    assert expected in str(caught.value)
    assert "expected" in str(caught.value)
    assert not text or text.decode("latin-1") not in str(caught.value)
