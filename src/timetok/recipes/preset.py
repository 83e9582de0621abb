"""Presets: TOML files beside this one, or a user's own, with ``key=value`` changes on top."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from timetok.errors import DataError

_FOLDER = Path(__file__).parent / "presets"
_ARGUMENTS = {"vision", "transform", "trainer", "pooler", "lm", "rates"}
_COUNTS = {"num_clips", "num_samples", "num_frames", "turns"}


def load_preset(name: str, changes: Iterable[str] = ()) -> dict[str, Any]:
    """Read a preset, by its shipped name or the path of a TOML file, and apply changes.

    Those are ``key=value`` with dotted keys and TOML values (a bare word is a string); ``smoke=true`` makes those of
    the preset's ``[smoke]`` table. DataError: there is no such preset, it is no TOML, or a change names no key of it.

    >>> load_preset("shapes", ["stages.0.trainer.max_steps=10"])["stages"][0]["trainer"]["max_steps"]
    10
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    try:
        preset = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        names = sorted(path.stem for path in _FOLDER.glob("*.toml"))
        raise DataError(f"preset: expected one of {names} or a .toml file, got {name!r}") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"preset: {path.name} is not TOML: {error}") from error
    smoke = preset.pop("smoke", {})
    for change in sorted(changes, key=lambda change: not change.startswith("smoke=")):  # what is asked for outlasts it
        key, sign, text = change.partition("=")
        if not sign or not all(key.split(".")):
            raise DataError(f"--set: expected key=value, got {change!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        if key == "smoke" and not isinstance(value, bool):
            raise DataError(f"--set: expected smoke=true or smoke=false, got {change!r}")
        assigned = {key: value} if key != "smoke" else smoke if value else {}
        for each, new in assigned.items():
            _assign(preset, each.split("."), new)
    shipped = tomllib.loads((_FOLDER / "shapes.toml").read_text(encoding="utf-8"))
    _check("preset", {key: value for key, value in shipped.items() if key != "smoke"}, preset)
    return preset


def _check(where: str, wanted: Any, found: Any) -> None:
    """Every preset has the keys of shapes.toml; what goes to a library as arguments is checked there."""
    name = where.rpartition(".")[2]
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            raise DataError(f"{where}: expected a table, got {found!r}")
        optional = {"folder", "cache"} if name == "data" else set()
        missing, unknown = wanted.keys() - found.keys(), found.keys() - wanted.keys() - optional
        if missing or unknown:
            raise DataError(f"{where}: missing {sorted(missing)}, unknown {sorted(unknown)}; compare shapes.toml")
        for key, value in wanted.items():
            if key not in _ARGUMENTS:
                _check(f"{where}.{key}", value, found[key])
    elif isinstance(wanted, list):
        if not isinstance(found, list) or not found:
            raise DataError(f"{where}: expected at least one, got {found!r}")
        for number, each in enumerate(found):
            _check(f"{where}.{number}", wanted[0], each)
    elif name in _COUNTS and (not isinstance(found, int) or found < 1):
        raise DataError(f"{where} must be a whole number of at least 1, got {found!r}")


def _assign(preset: dict[str, Any], keys: list[str], value: Any) -> None:
    """Tables are the preset's; what stands in them is checked by whatever takes it as arguments."""
    table: Any = preset
    for key in keys[:-1]:
        if isinstance(table, list):
            table = table[int(key)] if key.isdecimal() and int(key) < len(table) else None
        else:
            table = table.get(key) if isinstance(table, dict) else None
    if not isinstance(table, dict) or (table is preset and keys[0] not in preset):
        raise DataError(f"--set: the preset has no {'.'.join(keys)!r}; it has the tables {', '.join(sorted(preset))}")
    if isinstance(table.get(keys[-1]), dict) and not isinstance(value, dict):
        raise DataError(f"--set: {'.'.join(keys)!r} is a table; set one of {', '.join(table[keys[-1]])} in it")
    table[keys[-1]] = value
