"""Stub until the readers are merged."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from timetok.timegrid import Span


class Event(NamedTuple):
    """What happens or is asked for, in words, and when; a query with several windows is several events."""

    span: Span
    text: str


@dataclass(frozen=True)
class Record:
    """What a file says of a video or an image, or of one question about it."""

    name: str
    vid: str
    media: Path | None
    duration_seconds: float | None
    events: tuple[Event, ...]
    turns: tuple[tuple[str, str], ...]
    subset: str = ""


@dataclass(frozen=True)
class Annotations:
    """Stub."""

    records: tuple[Record, ...]


def read_records(**arguments: object) -> Annotations:
    """Stub."""
    raise NotImplementedError
