"""The run's HTTP server, from its section of the configuration."""

from __future__ import annotations

from contextlib import ExitStack

from kpi.http import HttpServer
from kpi.prometheus import PrometheusSink
from pipeline.http_config import HttpConfig
from pipeline.status import RunStatus
from stages.errors import HttpError


def serve(
    config: HttpConfig | None, metrics: PrometheusSink, status: RunStatus, stack: ExitStack
) -> HttpServer | None:
    """Bind and answer until `stack` ends; None where the configuration has no such section.

    Raises `ConfigError` for a token that is none, `HttpError` for an address that cannot be had.
    """
    if config is None:
        return None
    token = config.token()
    try:
        server = HttpServer(
            config.host,
            config.port,
            metrics=metrics.render,
            not_ready=status.health.not_ready,
            not_live=status.health.not_live,
            status=status.snapshot,
            token=token,
        )
    except OSError as error:
        raise HttpError(str(error.strerror or error)) from error
    stack.callback(server.close)
    server.start()
    return server
