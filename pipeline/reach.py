"""The keys of a run's sockets, said once for all of them, and those of its clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from stages.curve_keys import ClientKeys
from stages.errors import ConfigError

_ZMQ: Final = ("results", "control")
_BINDING: Final = (*_ZMQ, "http", "openigtlink_out")
_UNLESS_NAMED: Final = ("openigtlink_out",)
"""Sections that are off where the configuration has them not."""


def with_curve(values: dict[str, Any]) -> dict[str, Any]:
    """A raw configuration whose top-level `curve` stands in every ZMQ section without its own."""
    curve = values.get("curve")
    return values if curve is None else _with(values, "curve", curve, _ZMQ, ("zmq",))


def with_insecure_bind(values: dict[str, Any]) -> dict[str, Any]:
    """A raw configuration in which every section that binds says `insecure_bind`."""
    return _with(values, "insecure_bind", True, _BINDING, ("zmq", "openigtlink"))


def _with(
    values: dict[str, Any],
    key: str,
    value: object,
    sections: tuple[str, ...],
    sources: tuple[str, ...],
) -> dict[str, Any]:
    """A copy; sections that are null or off, and what is no section, stay as they are.
    ``sources``: the kinds of source that know the key, too."""
    made = dict(values)
    for name in sections:
        section = made.get(name, None if name in _UNLESS_NAMED else {})
        if isinstance(section, dict):
            made[name] = {key: value, **section}
    source = made.get("source")
    if isinstance(source, dict) and source.get("kind") in sources:
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
