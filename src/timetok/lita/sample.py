"""The bundled clip: a real mp4 with a question and the true answer."""

import json
from dataclasses import dataclass
from pathlib import Path

from timetok.errors import DataError
from timetok.timegrid import Span

_FOLDER = Path(__file__).parent / "sample"


@dataclass(frozen=True)
class Sample:
    """An mp4, what to ask about it, and the true answer in seconds."""

    path: Path
    question: str
    span: Span


def load_sample() -> Sample:
    """The clip that ships with timetok, which ``recipes.shapes`` wrote; DataError if this installation has none."""
    try:
        entry = json.loads((_FOLDER / "sample.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"sample: this installation of timetok has no bundled clip: {error}") from error
    return Sample(_FOLDER / "clip.mp4", entry["question"], Span(*entry["span"]))
