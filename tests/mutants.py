"""Valid commands, and what a seeded dice makes of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

VALID: Final[tuple[dict[str, Any], ...]] = (
    {"version": 1, "id": "a", "verb": "add", "box": [1, 2, 30, 40], "class_id": 1},
    {"id": "b", "verb": "add", "points": [[3, 4], [5, 6]], "labels": [1, 0], "frame_id": 9},
    {"id": "c", "verb": "add", "mask": {"size_hw": [48, 64], "counts": [1000, 1000, 1072]}},
    {"id": "d", "verb": "add", "text": "the needle", "epoch": 0},
    {"id": "e", "verb": "correct", "object_id": 0, "points": [[3, 4]], "labels": [1]},
    {"id": "f", "verb": "reinit", "object_id": 0, "box": [1, 2, 30, 40]},
    {"id": "g", "verb": "remove", "object_id": 1},
    {"id": "h", "verb": "rename", "object_id": 0, "name": "left vein"},
    {"id": "i", "verb": "reset"},
    {"id": "j", "verb": "pause"},
    {"id": "k", "verb": "resume"},
    {"id": "l", "verb": "status"},
    {"id": "m", "verb": "ping"},
    {"id": "n", "verb": "boxes", "boxes": [{"box": [1, 2, 3, 4], "score": 0.5, "class_id": 1}]},
)
_ODD: Final = (
    *(None, True, -1, 0, 2**63, 10**400, 1e308, 0.5, "", "\x00", "\ud800", "x" * 5000, [], {}),
    *([[]], [1] * 500, {"verb": "add"}, "../../etc/passwd", "${jndi}", float("nan"), float("inf")),
)


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """``count`` messages, each a valid command changed once to thrice."""
    dice = random.Random(seed)  # noqa: S311 (to be repeated)
    for number in range(count):
        command: Any = json.loads(json.dumps(dice.choice(VALID)))
        command["id"] = f"{seed}-{number}"
        if dice.random() < 0.5:
            for _ in range(dice.randint(1, 3)):
                _change(dice, command)
        raw = json.dumps(command).encode("utf-8", "surrogatepass")
        if dice.random() < 0.6:
            raw = _broken(dice, raw)
        yield raw


def _change(dice: random.Random, command: dict[str, Any]) -> None:
    key = dice.choice([*command, "epoch", "frame_id", "unknown", "mask"])
    match dice.randrange(4):
        case 0:
            command.pop(key, None)
        case 1:
            command[key] = deepcopy(dice.choice(_ODD))
        case 2 if isinstance(command.get(key), list) and command[key]:
            command[key][dice.randrange(len(command[key]))] = deepcopy(dice.choice(_ODD))
        case _:
            command[key] = deepcopy(dice.choice([None, *command.values()]))


def _broken(dice: random.Random, raw: bytes) -> bytes:
    at = dice.randrange(len(raw) + 1)
    match dice.randrange(7):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :]
        case 2:
            return raw[:at] + dice.randbytes(dice.randint(1, 64)) + raw[at:]
        case 3:
            return dice.randbytes(dice.randint(0, 300))
        case 4:
            return b"[" * dice.randint(1, 20_000)
        case 5:
            return raw + raw
        case _:
            return raw[:at] + raw[at : at + dice.randint(1, 20)] * 5 + raw[at:]
