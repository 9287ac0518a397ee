"""Whether an address is this machine's alone: `is_loopback`, `is_local`."""

from __future__ import annotations

import ipaddress
import re


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``; a name other than `localhost` may be
    anywhere."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(endpoint: str) -> bool:
    """Whether a ZMQ ``endpoint`` joins processes of this machine alone: ipc, or tcp on
    loopback."""
    tcp = re.fullmatch(r"tcp://\[?(.+?)\]?:(?:\d+|\*)", endpoint)
    return endpoint.startswith("ipc://") or (tcp is not None and is_loopback(tcp[1]))
