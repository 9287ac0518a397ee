"""One command from the shell to a run, and its answer in words. Imports no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.reach import client_keys
from pipeline.shape_words import numbers, read_mask
from stages.control_client import Answer, Controller, Verb
from stages.errors import ControlError, UsageError


def say(
    endpoint: str,
    verb: Verb,
    shape: Mapping[str, Any],
    fields: Mapping[str, Any],
    *,
    timeout_s: float,
    key: Path | None,
    server_key: Path | None,
    as_json: bool,
) -> int:
    """Send `verb`, print its answer, and return the exit code.

    Raises `MaskstreamError` for what cannot be sent and for a command that was refused, and where
    no answer comes.
    """
    told = _told(shape)
    with Controller(endpoint, timeout_s=timeout_s, keys=client_keys(key, server_key)) as run:
        answer = run.send(verb, **told, **fields)
    if as_json:
        sys.stdout.write(json.dumps(asdict(answer)) + "\n")
    elif answer.applied:
        sys.stdout.write(_line(verb, answer) + "\n")
    else:
        raise ControlError(f"{verb}: refused: {answer.reason} ({answer.detail})")
    return 0 if answer.applied else 1


def _told(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The shape as `Controller.send` takes it."""
    told: dict[str, Any] = {}
    on, beside = shape.get("point") or (), shape.get("beside") or ()
    if on or beside:
        told["points"] = [numbers("--point", text, 2) for text in (*on, *beside)]
        told["labels"] = [1] * len(on) + [0] * len(beside)
    if shape.get("box") is not None:
        told["box"] = numbers("--box", shape["box"], 4)
    if shape.get("mask") is not None:
        told["mask"] = read_mask("--mask", shape["mask"])
    if shape.get("text") is not None:
        told["text"] = shape["text"]
    if "found" in shape:
        told["boxes"] = [_found(text) for text in shape["found"]]
    if shape and len(told.keys() - {"labels"}) != 1:
        raise UsageError("expected one of --box, --point (with --not), --mask, --text")
    return told


def _found(text: str) -> tuple[float, ...]:
    found = numbers("--box", text, 6)
    if not found[5].is_integer():
        raise UsageError(f"--box {text}: expected a whole number, the class, at the end")
    return found


def _line(verb: Verb, answer: Answer) -> str:
    if verb == "status":
        return json.dumps(answer.data, indent=2)
    parts = [f"{verb}: applied"]
    if answer.object_id is not None:
        parts.append(f"object {answer.object_id}")
    if answer.frame_id is not None:
        parts.append(f"frame {answer.frame_id}")
    files: Sequence[str] = answer.data.get("files", ())
    return ", ".join((*parts, *files))
