"""Finding and reading a configuration file: plain YAML, nothing clever, nothing executed."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from stages.errors import ConfigError

MAX_BYTES = 1 << 20
_NO_RUN = "compose"
"""Lies among the configurations, and starts what watches them."""
_SHOWN = 160


def shipped_configs() -> Path:
    """The folder of shipped configurations: inside the wheel, or beside the packages."""
    package = Path(str(resources.files("pipeline")))
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_runs() -> list[Path]:
    """The configurations in it that `maskstream run` takes by name."""
    return sorted(path for path in shipped_configs().glob("*.yaml") if path.stem != _NO_RUN)


def find_config(name_or_path: str) -> Path:
    """A file if there is one, else a shipped configuration by its name."""
    path = Path(name_or_path)
    if os.path.isfile(path):  # never raises, whatever the name
        return path
    shipped = {file.stem: file for file in shipped_runs()}
    if name_or_path in shipped:
        return shipped[name_or_path]
    names = ", ".join(shipped)
    raise ConfigError(f"{name_or_path}: no such file (expected a YAML file, or one of {names})")


def parse_yaml(path: Path) -> dict[str, Any]:
    """The mapping in `path`; duplicate keys, aliases and tags of Python objects are refused."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror} (expected a readable YAML file)") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes (expected a configuration)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (expected YAML)") from error
    value = _load(text, str(path))
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ConfigError(f"{path}: holds {found} (expected keys and values)")
    return value


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`raw` with each `a.b=value` set; the value is read as YAML."""
    values = copy.deepcopy(raw)
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = key.split(".")
        if not equals or not all(parts):
            raise ConfigError(f"--set {override}: expected KEY.KEY=VALUE")
        section = values
        for index, part in enumerate(parts[:-1]):
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                where = ".".join(parts[: index + 1])
                raise ConfigError(f"--set {override}: {where} is a value (expected a section)")
        section[parts[-1]] = _load(text, f"--set {override[:_SHOWN]}")
    return values


def _load(text: str, where: str) -> Any:  # noqa: ANN401 (whatever YAML holds)
    """The one value in `text`; a `ConfigError` begins with `where`."""
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 (a SafeLoader)
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply (expected a configuration)") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {_one_line(error)}") from error
    except (ValueError, KeyError) as error:  # a date, number or flag that is none, `2024-13-01`
        raise ConfigError(f"{where}: {_brief(error)} (expected plain YAML)") from error


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses duplicate keys, and aliases (a few bytes can expand to GBs)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is no text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _one_line(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"not YAML: {_brief(error)}"
    mark = error.problem_mark
    problem = " ".join((error.problem or "cannot be read").split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem} (expected plain YAML)"


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:_SHOWN]
