"""Finding the line of Python that a person has to change."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType, TracebackType

import torch

Line = tuple[str, int]

_ROOT = Path(__file__).resolve().parents[1]
_OWN = tuple(f"{_ROOT / name}/" for name in ("pipeline", "stages", "kpi"))
_MACHINERY = (f"{_ROOT}/pipeline/audit", f"{_ROOT}/pipeline/fake_cuda", f"{_ROOT}/stages/exits")
_TORCH = f"{Path(torch.__file__).resolve().parent}/"
_SITE = ("/site-packages/", "/dist-packages/")
_STDLIB = f"{Path(sysconfig.get_paths()['stdlib']).resolve()}/"


def caller() -> str:
    """`file:line` of the innermost code on this thread's stack that is neither torch's nor the
    audit's; where that is a library's, also the innermost line of project code."""
    return _describe(_stack(sys._getframe(1)))


def raised_at(trace: TracebackType | None) -> str:
    """The same for an exception: the innermost line of its traceback."""
    lines: list[Line] = []
    while trace is not None:
        lines.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return _describe(reversed(lines))


def _stack(frame: FrameType | None) -> Iterator[Line]:
    while frame is not None:
        yield frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back


def _describe(lines: Iterable[Line]) -> str:
    innermost: Line | None = None
    generated: Line | None = None
    for line in lines:
        name = line[0]
        if name.startswith("<"):  # a dataclass's __init__, a graph module, `python -c`
            generated = generated or line
        elif name.startswith((_TORCH, *_MACHINERY)):
            continue
        elif not _is_library(name):
            return _pair(innermost, line)
        else:
            innermost = innermost or line
    found = innermost or generated
    return _show(found) if found else "an unknown line"


def _pair(innermost: Line | None, project: Line) -> str:
    if innermost is None:
        return _show(project)
    return f"{_show(innermost)}, called from {_show(project)}"


def _is_library(name: str) -> bool:
    if name.startswith(_OWN):  # also where these packages are installed
        return False
    return any(part in name for part in _SITE) or name.startswith(_STDLIB)


def _show(line: Line) -> str:
    name, number = line
    for part in _SITE:
        name = name.rpartition(part)[2]
    for start in (f"{_ROOT}/", _STDLIB):
        name = name.removeprefix(start)
    return f"{name}:{number}"
