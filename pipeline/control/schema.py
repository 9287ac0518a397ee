"""The JSON Schema of commands and answers.

python -m pipeline.control.schema [FILE]     writes it (default: configs/control.schema.json)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.control.answers import Answer
from pipeline.control.commands import COMMAND

DEFAULT_PATH = Path(__file__).parents[2] / "configs" / "control.schema.json"


def control_schema() -> dict[str, Any]:
    """A command is one of its `oneOf`; an answer is `$defs/Answer`."""
    schema = COMMAND.json_schema()
    schema["$defs"]["Answer"] = Answer.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "One command of the control channel",
        **schema,
    }


def text() -> str:
    """The schema as it lies in the file."""
    return json.dumps(control_schema(), indent=2) + "\n"


def main(arguments: list[str]) -> None:
    """Write the schema to the file named, or to the one that is shipped."""
    path = Path(arguments[0]) if arguments else DEFAULT_PATH
    path.write_text(text())


if __name__ == "__main__":
    main(sys.argv[1:])
