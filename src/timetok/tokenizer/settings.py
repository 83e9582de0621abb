"""``time_tokens.json``: how moments were written beside a saved tokenizer."""

import os
from dataclasses import asdict
from pathlib import Path

from timetok.atomic import read_json, write_json
from timetok.codecs import MomentCodec
from timetok.errors import ArgumentError, ModelFolderError
from timetok.timegrid import TimeGrid
from timetok.tokenizer.adding import CODECS

SETTINGS_FILE = "time_tokens.json"


def write_settings(folder: str | os.PathLike[str], codec: MomentCodec, lita_spacing: bool) -> None:
    """Write the file; of somebody's own codec it says only that it is one."""
    name = next((name for name, kind in CODECS.items() if type(codec) is kind), None)
    options = asdict(codec) if name else None  # type: ignore[call-overload]
    write_json(Path(folder) / SETTINGS_FILE, {"codec": name, "options": options, "lita_spacing": lita_spacing})


def read_settings(folder: str | os.PathLike[str], codec: MomentCodec | None) -> tuple[MomentCodec, bool]:
    """The codec, unless one is given, and ``lita_spacing``; errors as in `TimeTokenizer.from_pretrained`."""
    try:
        settings = read_json(Path(folder) / SETTINGS_FILE, dict, "the settings of time tokens")
        name, options, spacing = (settings[key] for key in ("codec", "options", "lita_spacing"))
        if name is not None and codec is None:
            if "grid" in options:
                options["grid"] = TimeGrid(**options["grid"])
            codec = CODECS[name](**options)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        wanted = "what TimeTokenizer.save_pretrained wrote"
        raise ModelFolderError(f"folder must hold {wanted}, got {str(folder)!r}: {error}") from error
    if codec is None:
        raise ArgumentError(f"codec must be given: {str(folder)!r} was saved with one that is not timetok's")
    return codec, bool(spacing)
