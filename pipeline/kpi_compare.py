"""`maskstream kpi compare`: two runs side by side. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kpi.compare import Change
from kpi.compare import compare as changes_between
from kpi.compared_run import WARM_UP_FRAMES
from kpi.gather import gather
from kpi.history import History
from kpi.reading import LogError
from kpi.text import printable
from stages.errors import ConfigError

_WIDTH = 110
"""Where the output is no terminal."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something about the two runs that is not the same."""

    what: str
    a: str | None
    b: str | None


def compare(a: Path, b: Path, as_json: bool) -> int:
    """Print what changed from run `a` to run `b`; returns 0, whatever it was.

    Raises `ConfigError` for a log that cannot be read.
    """
    try:
        first, second = gather(a), gather(b)
    except LogError as error:
        raise ConfigError(str(error)) from error
    differences = list(_differences(first, second))
    changes = changes_between(first, second)
    if as_json:
        sys.stdout.write(_json(a, b, differences, changes) + "\n")
    else:
        _show((a, first), (b, second), differences, changes)
    return 0


def _differences(a: History, b: History) -> Iterator[Difference]:
    """Between the two environments: configuration, device, driver, versions."""
    one, other = _environment(a), _environment(b)
    for what in dict.fromkeys((*one, *other)):
        if one.get(what) != other.get(what):
            yield Difference(what, one.get(what), other.get(what))


def _environment(history: History) -> dict[str, str | None]:
    started = history.started
    if started is None:
        return {}
    named = {f"version of {name}": version for name, version in started.versions.items()}
    return {
        "name": started.name,
        "device": started.device,
        "GPU": started.gpu_name,
        "driver": started.driver,
        "config sha256": started.config_sha256,
        **named,
    }


def _json(a: Path, b: Path, differences: list[Difference], changes: tuple[Change, ...]) -> str:
    fields = {
        "a": str(a),
        "b": str(b),
        "differences": [asdict(difference) for difference in differences],
        "changes": [
            {
                "name": change.name,
                "a": change.a,
                "b": change.b,
                "share": change.share,
                "low": change.low,
                "high": change.high,
                "verdict": change.verdict,
                "told": change.told,
            }
            for change in changes
        ],
    }
    return json.dumps(fields, allow_nan=False)


def _show(
    a: tuple[Path, History],
    b: tuple[Path, History],
    differences: list[Difference],
    changes: tuple[Change, ...],
) -> None:
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=_WIDTH)
    for name, (path, history) in (("A", a), ("B", b)):
        frames, seconds = history.published, history.seconds
        console.print(Text(f"{name}  {path}: {frames} frames published in {seconds:.1f} s"))
    for difference in differences:
        was, now = (printable(str(v), 80) for v in (difference.a, difference.b))
        console.print(Text(f"{printable(difference.what)}: {was} → {now}"))
    table = Table("", "A", "B", "B - A", "verdict", box=None, pad_edge=False)
    for column in table.columns[1:4]:
        column.justify = "right"
    for change in changes:
        style = "bold" if change.verdict == "more than noise" else "dim"
        cells = (_number(change.a), _number(change.b), _interval(change), change.told)
        table.add_row(Text(printable(change.name)), *map(Text, cells), style=style)
    console.print(table)
    console.print(
        f"B - A: 99.9 % interval of a block bootstrap, without the first {WARM_UP_FRAMES} frames."
        " It knows the noise within these two runs; whether another run of A would differ as"
        " much, only another run of A tells.",
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _interval(change: Change) -> str:
    if change.low is None or change.high is None:
        return "–"
    return f"{change.low:+.3g} … {change.high:+.3g}"
