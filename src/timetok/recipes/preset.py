"""Presets: TOML files beside this one, or a user's own, with ``key=value`` changes on top."""

import sys
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from timetok.errors import DataError, raised_as
from timetok.recipes import lita

_FOLDERS = Path(__file__).parent / "presets", Path(__file__).parents[3] / "examples"  # these, of a checkout
_ARGUMENTS = {"vision", "transform", "trainer", "pooler", "lm", "lora", "sets", "rates"}


def load_preset(name: str, changes: Iterable[str] = ()) -> dict[str, Any]:
    """Read a preset, by its shipped name or the path of a TOML file, and apply changes.

    Those are ``key=value`` with dotted keys and TOML values (a bare word is a string); ``smoke=true`` makes those of
    the preset's ``[smoke]`` table. A file may name another as its ``base``, with ``[changes]`` of the same form.
    DataError: there is no such preset, it is no TOML, or a key or a value does not fit.

    >>> load_preset("shapes", ["stages.0.trainer.max_steps=10"])["stages"][0]["trainer"]["max_steps"]
    10
    """
    preset, asked = _read(name), dict(map(_read_change, changes))
    smoke, like = preset.pop("smoke", {}), _read("lita-7b") if "start" in preset else deepcopy(preset)
    if asked.pop("smoke", False):
        asked = smoke | asked  # what is asked for outlasts it
    _change(preset, asked)
    _check("preset", like, preset)
    return preset


def load_recipe(preset: Mapping[str, Any]) -> Any:
    """LITA's recipe with what the module named by the preset's ``code`` has in its place; DataError if it has none."""
    own: dict[str, Any] = {}
    if code := preset["code"]:
        with raised_as(DataError, f"code: expected a module beside the preset, got {code!r}", ImportError):
            own = vars(import_module(code))
    return SimpleNamespace(**{**vars(lita), **own, "TASKS": lita.TASKS | own.get("TASKS", {})})


def _read(name: str, *derived: Path) -> dict[str, Any]:
    """A preset by its name or path, with those of which it is the base, nearest last."""
    shipped = {path.stem: path for folder in _FOLDERS for path in sorted(folder.glob("*.toml"))}
    path, told = shipped.get(name, Path(name)), f"preset: expected one of {[*shipped]} or a TOML file, got {name!r}"
    with raised_as(DataError, told, OSError, ValueError):
        preset = tomllib.loads(path.read_text(encoding="utf-8"))
    if path in derived:
        raise DataError(f"base: expected a preset that does not lead back to itself, got {name!r}")
    if preset.get("code") and (folder := str(path.parent.resolve())) not in sys.path:
        sys.path.append(folder)
    if "base" not in preset:
        return preset
    base = _read(str(preset["base"]), *derived, path)
    _change(base, {key: preset[key] for key in preset.keys() - {"base", "changes"}} | preset.get("changes", {}))
    return base


def _change(preset: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        *names, last = key.split(".")
        table: Any = preset
        told = f"--set: the preset has no {key!r}; its tables are {', '.join(sorted(preset))}"
        with raised_as(DataError, told, LookupError, TypeError, ValueError):
            for each in names:
                table = table[int(each) if isinstance(table, list) else each]
            table[last] = value


def _read_change(change: str) -> tuple[str, Any]:
    key, sign, text = change.partition("=")
    if not sign or not all(key.split(".")) or (key == "smoke" and text not in ("true", "false")):
        raise DataError(f"--set: expected key=value, or smoke=true, got {change!r}")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def _check(key: str, like: Any, value: Any) -> None:
    """Keys and kinds of values are those of a shipped preset; what goes to a library as arguments is checked there."""
    kind = type(like)
    fits = type(value) is kind or (kind is float and type(value) is int)
    if not fits or value == [] or (kind is int and value < min(like, 1)):  # of the whole numbers only the seed may be 0
        raise DataError(f"{key}: expected {kind.__name__} (counts are at least 1, lists not empty), got {value!r}")
    if kind is list:  # each of the stages as the first
        like, value = dict.fromkeys(range(len(value)), like[0]), dict(enumerate(value))
    if isinstance(like, dict) and key.rpartition(".")[2] not in _ARGUMENTS:
        missing, unknown = sorted(like.keys() - value.keys()), sorted(value.keys() - like.keys())
        if missing or unknown:
            raise DataError(f"{key}: missing {missing}, unknown {unknown}; compare the shipped presets")
        for name in like:
            _check(f"{key}.{name}", like[name], value[name])
