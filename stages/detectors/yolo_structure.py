"""Checking a YOLO model YAML before anything is built from it.

ultralytics looks up the names in such a file among everything it has imported and evaluates the
activation as Python, so a structure from a file is data to distrust: only known layers with
plain arguments pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from stages.errors import ConfigError

HEADS = ("Detect", "v10Detect")
LAYERS = frozenset(
    {
        "A2C2f", "AConv", "ADown", "Bottleneck", "BottleneckCSP", "C1", "C2", "C2PSA", "C2f",
        "C2fCIB", "C2fPSA", "C3", "C3Ghost", "C3TR", "C3k2", "C3x", "CBFuse", "CBLinear", "Concat",
        "Conv", "ConvTranspose", "DWConv", "ELAN1", "Focus", "GhostBottleneck", "GhostConv",
        "HGBlock", "HGStem", "PSA", "RepC3", "RepNCSPELAN4", "SCDown", "SPP", "SPPELAN", "SPPF",
        "nn.BatchNorm2d", "nn.Identity", "nn.Upsample", *HEADS,
    }
)  # fmt: skip
"""Layers of ultralytics' detection models; each takes numbers, flags and the words below."""

_WORDS = frozenset({"nc", "nearest", "bilinear", "None", "True", "False"})
_ACTIVATION = re.compile(
    r"(torch\.)?nn\.(ELU|GELU|Hardswish|Identity|LeakyReLU|Mish|ReLU|ReLU6|SiLU)"
    r"\((inplace=)?(True|False|[0-9]+(\.[0-9]+)?)?\)"
)
_KEYS = ("nc", "depth_multiple", "width_multiple", "scale", "end2end", "reg_max", "activation")
_MAX_ROWS, _MAX_NESTED, _MAX_NUMBER = 200, 16, 4096

Structure = dict[str, object]
"""A checked model YAML, as `DetectionModel` takes it."""


def check_structure(raw: object, where: str) -> Structure:
    """The parts of a model YAML that define a detector, all checked.

    `where` names the file in messages. Other keys (file names, descriptions) are left out.
    Raises `ConfigError`.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: the model structure is not a mapping, expected a model YAML")
    checked: Structure = {key: raw[key] for key in _KEYS if raw.get(key) is not None}
    _check_settings(checked, where)
    channels = raw.get("channels", 3)
    if not isinstance(channels, int) or channels != 3:
        raise ConfigError(f"{where}: channels is {_brief(channels)}, expected 3 (RGB)")
    if raw.get("scales") is not None:
        checked["scales"] = _scales(raw["scales"], checked.get("scale"), where)
    rows = {part: _rows(raw.get(part), f"{where}: {part}") for part in ("backbone", "head")}
    layers = [str(row[2]) for part in rows.values() for row in part]
    if layers[-1] not in HEADS or any(layer in HEADS for layer in layers[:-1]):
        raise ConfigError(
            f"{where}: the last layer is {layers[-1]}, expected the only {' or '.join(HEADS)} "
            "(an object detector)"
        )
    return {**checked, **rows}


def _check_settings(settings: Structure, where: str) -> None:
    for key, value in settings.items():
        if key == "activation":
            good = isinstance(value, str) and _ACTIVATION.fullmatch(value) is not None
        elif key == "scale":
            good = isinstance(value, str) and len(value) <= 1
        elif key == "end2end":
            good = isinstance(value, bool)
        else:
            good = _is_number(value) and (key != "nc" or isinstance(value, int))
        if not good:
            raise ConfigError(f"{where}: {key} is {_brief(value)}, expected a plain {key}")


def _scales(raw: object, scale: object, where: str) -> dict[str, list[object]]:
    good = isinstance(raw, Mapping) and all(
        isinstance(name, str)
        and isinstance(values, list | tuple)
        and len(values) == 3
        and all(_is_number(value) for value in values)
        for name, values in raw.items()
    )
    if not good or not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: scales is not a table of [depth, width, max_channels]")
    if scale and scale not in raw:
        raise ConfigError(f"{where}: scale {scale!r} unknown, expected one of {', '.join(raw)}")
    return {name: list(values) for name, values in raw.items()}


def _rows(raw: object, where: str) -> list[list[object]]:
    if not isinstance(raw, list | tuple) or not 1 <= len(raw) <= _MAX_ROWS:
        raise ConfigError(f"{where}: expected a list of 1 to {_MAX_ROWS} layers")
    return [_row(row, f"{where}[{index}]") for index, row in enumerate(raw)]


def _row(raw: object, where: str) -> list[object]:
    if not isinstance(raw, list | tuple) or len(raw) != 4:
        raise ConfigError(f"{where}: {_brief(raw)}, expected [from, repeats, layer, arguments]")
    inputs, repeats, layer, arguments = raw
    if not isinstance(layer, str) or layer not in LAYERS:
        raise ConfigError(f"{where}: layer {_brief(layer)} is not one of a YOLO detector")
    # `type is` and not `isinstance`: a bool is no count.
    if type(repeats) is not int or not 1 <= repeats <= 100:
        raise ConfigError(f"{where}: repeats is {_brief(repeats)}, expected 1 to 100")
    sources = list(inputs) if isinstance(inputs, list | tuple) else inputs
    for index in sources if isinstance(sources, list) else [sources]:
        if type(index) is not int or not -_MAX_ROWS <= index < _MAX_ROWS:
            raise ConfigError(f"{where}: from is {_brief(inputs)}, expected layer numbers")
    if not isinstance(arguments, list | tuple) or len(arguments) > _MAX_NESTED:
        raise ConfigError(f"{where}: arguments are {_brief(arguments)}, expected a short list")
    return [sources, repeats, layer, [_argument(value, where) for value in arguments]]


def _argument(raw: object, where: str) -> object:
    if isinstance(raw, list | tuple) and len(raw) <= _MAX_NESTED and all(map(_is_number, raw)):
        return list(raw)
    if raw is None or isinstance(raw, bool) or _is_number(raw):
        return raw
    if isinstance(raw, str) and raw in _WORDS:
        return raw
    raise ConfigError(f"{where}: argument {_brief(raw)}, expected a number, a flag or a word")


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _MAX_NUMBER


def _brief(value: object) -> str:
    shown = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return shown[:60]
