"""Presets: TOML files beside this one, or a user's own, with ``key=value`` changes on top."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from timetok.errors import DataError

_SHAPES = Path(__file__).parent / "presets" / "shapes.toml"
_ARGUMENTS = {"vision", "transform", "trainer", "pooler", "lm", "rates"}


def load_preset(name: str, changes: Iterable[str] = ()) -> dict[str, Any]:
    """Read a preset, by its shipped name or the path of a TOML file, and apply changes.

    Those are ``key=value`` with dotted keys and TOML values (a bare word is a string); ``smoke=true`` makes those of
    the preset's ``[smoke]`` table. DataError: there is no such preset, it is no TOML, or a key or a value does not fit.

    >>> load_preset("shapes", ["stages.0.trainer.max_steps=10"])["stages"][0]["trainer"]["max_steps"]
    10
    """
    path = Path(name) if name.endswith(".toml") else _SHAPES.with_name(f"{name}.toml")
    try:
        preset, shipped = (tomllib.loads(file.read_text(encoding="utf-8")) for file in (path, _SHAPES))
    except (OSError, ValueError) as error:
        names = sorted(path.stem for path in _SHAPES.parent.glob("*.toml"))
        raise DataError(f"preset: expected one of {names} or a TOML file, got {name!r}: {error}") from error
    asked, smoke = dict(map(_read_change, changes)), preset.pop("smoke", {})
    if asked.pop("smoke", False):
        asked = smoke | asked  # what is asked for outlasts it
    for key, value in asked.items():
        *names, last = key.split(".")
        table: Any = preset
        try:
            for each in names:
                table = table[int(each) if isinstance(table, list) else each]
            table[last] = value
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(f"--set: the preset has no {key!r}; its tables are {', '.join(sorted(preset))}") from error
    del shipped["smoke"]
    _check("preset", shipped, preset)
    return preset


def _read_change(change: str) -> tuple[str, Any]:
    key, sign, text = change.partition("=")
    if not sign or not all(key.split(".")) or (key == "smoke" and text not in ("true", "false")):
        raise DataError(f"--set: expected key=value, or smoke=true, got {change!r}")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def _check(key: str, like: Any, value: Any) -> None:
    """Keys and kinds of values are those of shapes.toml; what goes to a library as arguments is checked there."""
    kind = type(like)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or value == [] or (kind is int and value < min(like, 1)):  # of the whole numbers only the seed may be 0
        raise DataError(f"{key}: expected {kind.__name__} (counts are at least 1, lists not empty), got {value!r}")
    if kind is list:  # each of the stages as the first
        like, value = dict.fromkeys(range(len(value)), like[0]), dict(enumerate(value))
    if isinstance(like, dict) and key.rpartition(".")[2] not in _ARGUMENTS:
        missing, unknown = sorted(like.keys() - value.keys()), sorted(value.keys() - like.keys())
        if missing or unknown:
            raise DataError(f"{key}: missing {missing}, unknown {unknown}; compare shapes.toml")
        for name in like:
            _check(f"{key}.{name}", like[name], value[name])
