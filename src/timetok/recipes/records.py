"""Stub until the readers are merged."""

from dataclasses import dataclass
from pathlib import Path

from timetok.errors import DataError
from timetok.timegrid import Span


@dataclass(frozen=True)
class Event:
    """What happens or is asked for, in words, and when.

    >>> Event("A dog barks.", (Span(1.0, 2.5),)).span
    Span(start=1.0, end=2.5)
    """

    text: str
    spans: tuple[Span, ...]

    @property
    def span(self) -> Span:
        """Its only span; DataError where it has several."""
        if len(self.spans) != 1:
            raise DataError(f"event {self.text!r} has {len(self.spans)} spans, expected one")
        return self.spans[0]


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
