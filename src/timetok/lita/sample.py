"""The bundled clip: a real mp4 with a question and the true answer."""

from dataclasses import dataclass
from pathlib import Path

from timetok.atomic import read_json
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
    entry = read_json(_FOLDER / "sample.json", dict, "the bundled clip's question and answer")
    return Sample(_FOLDER / "clip.mp4", entry["question"], Span(*entry["span"]))
