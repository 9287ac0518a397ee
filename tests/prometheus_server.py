"""A real Prometheus for tests: it scrapes what it is told to, and answers queries."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from services import require

START_S = 30.0


@dataclass(frozen=True, slots=True)
class Series:
    """One element of an answer: a single number."""

    labels: dict[str, str]
    value: float


class QueryError(Exception):
    """Prometheus refused a query."""


class Prometheus:
    """A running one, by its port."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer of the HTTP API; raises `QueryError` with its words."""
        url = f"{self._base}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 (http)
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            said = error.read().decode()
            plain = error.headers.get_content_type() != "application/json"  # it still starts
            raise QueryError(said if plain else json.loads(said)["error"]) from error

    def query(self, expr: str, unix_s: float | None = None) -> list[Series]:
        """The vector that `expr` is now, or was then."""
        when = {} if unix_s is None else {"time": str(unix_s)}
        found = self.get("query", query=expr, **when)["result"]
        return [Series(one["metric"], float(one["value"][1])) for one in found]

    def await_data(self, expr: str, seconds: float = START_S) -> None:
        """Until `expr` has a finite value."""
        deadline = time.monotonic() + seconds
        while not any(math.isfinite(one.value) for one in self._or_none(expr)):
            assert time.monotonic() < deadline, f"no data of {expr}"
            time.sleep(0.1)

    def _or_none(self, expr: str) -> list[Series]:
        try:
            return self.query(expr)
        except (OSError, QueryError):  # not yet
            return []


@contextmanager
def scraping(
    folder: Path, jobs: dict[str, int], rules: Path, every: str = "200ms"
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes a port of this machine for each job; killed at the end."""
    port = _free_port()
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{where}"]}]}
            for job, where in jobs.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [
        require("prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            server = Prometheus(port)
            server.await_data("up == 1")
            yield server
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
