"""A process from which nobody can be reached: `cut_off`."""

from __future__ import annotations

import socket

import pytest


def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name resolver and all connections fail the test, also where the hub could be asked."""

    def no_network(*_: object) -> None:
        raise AssertionError("tried to go online")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    with pytest.raises(AssertionError, match="online"):
        socket.create_connection(("127.0.0.1", 9))
