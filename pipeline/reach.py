"""The keys of a run's sockets, said once for all of them, and those of its clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from stages.curve_keys import ClientKeys
from stages.errors import ConfigError

_ZMQ: Final = ("results", "control")


def with_curve(values: dict[str, Any]) -> dict[str, Any]:
    """A raw configuration whose top-level `curve` stands in every ZMQ section without its own."""
    curve = values.get("curve")
    return values if curve is None else _with(values, "curve", curve, _ZMQ)


def with_insecure_bind(values: dict[str, Any]) -> dict[str, Any]:
    """A raw configuration in which every section that binds says `insecure_bind`."""
    asked = ("openigtlink_out",) if "openigtlink_out" in values else ()
    return _with(values, "insecure_bind", True, (*_ZMQ, "http", *asked))


def _with(
    values: dict[str, Any], key: str, value: object, sections: tuple[str, ...]
) -> dict[str, Any]:
    """A copy; sections that are null, and what is no section, stay as they are."""
    made = dict(values)
    for name in sections:
        section = made.get(name, {})
        if isinstance(section, dict):
            made[name] = {key: value, **section}
    source = made.get("source")
    if isinstance(source, dict) and source.get("kind") == "zmq":
        made["source"] = {key: value, **source}
    return made


def client_keys(own: Path | None, server: Path | None) -> ClientKeys | None:
    """What `--key` and `--server-key` name; None where neither is given. Raises `ConfigError`."""
    if own is None and server is None:
        return None
    if own is None or server is None:
        missing = "--key" if own is None else "--server-key"
        raise ConfigError(f"{missing} is missing (expected --key and --server-key together)")
    return ClientKeys.load(own, server)
