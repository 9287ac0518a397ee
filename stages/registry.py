"""A typed table of the members of one kind of stage, imported only when one is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from stages.base import Section

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member lives: its module, its config class and the class that is the stage."""

    module: str
    config: str
    stage: str


class Registry(Generic[T]):
    """`kind` in the configuration → config class and stage class."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = dict(members)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self._members)

    def folder(self, kind: str) -> Path:
        """Where the module of `kind` lies; nothing is imported. Raises `KeyError`."""
        spec = find_spec(self._members[kind].module)
        if spec is None or spec.origin is None:
            raise KeyError(kind)
        return Path(spec.origin).parent

    def config_class(self, kind: str) -> type[Section]:
        """The config class of `kind`; raises `KeyError` for an unknown one."""
        return cast(type[Section], self._load(kind, "config"))

    def create(self, section: Section, *args: Any) -> T:  # noqa: ANN401 (each kind's own)
        """The stage that `section` configures, constructed as `Stage(section, *args)`."""
        kind = str(section.kind)  # type: ignore[attr-defined]  # every member's config has it
        return cast(T, self._load(kind, "stage")(section, *args))

    def _load(self, kind: str, what: str) -> Any:  # noqa: ANN401
        member = self._members[kind]
        return getattr(import_module(member.module), getattr(member, what))
