"""`maskstream sources list`."""

from __future__ import annotations

import inspect

from rich.console import Console
from rich.table import Table

from pipeline.build import SOURCES


def show_kinds() -> None:
    """Print each kind of source with what its configuration says of it."""
    table = Table(show_header=False, box=None)
    for kind in sorted(SOURCES.kinds):
        said = inspect.getdoc(SOURCES.config_class(kind)) or ""
        table.add_row(kind, said.partition("\n\n")[0].replace("\n", " "))
    Console().print(table)
