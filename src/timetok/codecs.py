"""How a moment is written: as a token of its own, or as seconds in plain text.

Every codec turns seconds into text and back, so whoever builds prompts, parses answers or scores them need
not know which one is in use. Two moments are written with one space between them.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Protocol

from timetok.errors import ArgumentError, TimeRangeError
from timetok.timegrid import Span, TimeGrid


class MomentCodec(Protocol):
    """What every way of writing a moment can do; ``duration`` is the length of the video in seconds."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens the codec adds to a tokenizer, in the order of time; empty if it needs none."""

    def format(self, seconds: float, duration: float | None = None) -> str:
        """Write one moment, clamped to the video."""

    def format_span(self, span: Span, duration: float | None = None) -> str:
        """Write the two ends of a span."""

    def parse(self, text: str, duration: float | None = None) -> list[float]:
        """Seconds of every moment written in ``text``, in order."""


@dataclass(frozen=True)
class IndexCodec:
    """One token for each mark of a grid: ``<t3> <t17>``.

    Args:
        grid: The marks.
        template: A token, with ``{}`` where its zero-based index goes.

    Raises:
        ArgumentError: ``template`` does not give every mark a name of its own.

    Example:
        >>> IndexCodec(TimeGrid(100)).format(5.0, duration=198)
        '<t2>'
    """

    grid: TimeGrid = field(default_factory=TimeGrid)
    template: str = "<t{}>"

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1 or not all(self.template.split("{}")):
            raise ArgumentError(f"template must have text on both sides of one '{{}}', got {self.template!r}")

    @property
    def tokens(self) -> tuple[str, ...]:
        """The T tokens, in the order of time."""
        return tuple(self.template.replace("{}", str(index)) for index in range(self.grid.num_tokens))

    def format(self, seconds: float, duration: float | None = None) -> str:
        """The token of the mark nearest to ``seconds``.

        Raises:
            TimeRangeError: There is no duration, or the grid refuses it or the seconds.
        """
        return self.template.replace("{}", str(self.grid.encode(seconds, _needed(duration))))

    def format_span(self, span: Span, duration: float | None = None) -> str:
        """The tokens of both ends, one space between them."""
        return f"{self.format(span.start, duration)} {self.format(span.end, duration)}"

    def parse(self, text: str, duration: float | None = None) -> list[float]:
        """Seconds of every time token in ``text``; names beyond the last mark are handled by the grid."""
        before, after = map(re.escape, self.template.split("{}"))
        found = re.findall(f"{before}([0-9]{{1,18}}){after}", text)
        return [self.grid.decode(int(index), _needed(duration)) for index in found]


@dataclass(frozen=True)
class SecondsCodec:
    """Seconds in plain text, ``12.3 45.0``; needs no token and no duration.

    Args:
        decimals: Digits after the point. With at least one, only numbers that have a point are read as
            moments, so that "two men, 3 dogs" holds none.

    Raises:
        ArgumentError: ``decimals`` is negative.

    Example:
        >>> SecondsCodec().parse("from 12.3 to 45.0 seconds, 2 men")
        [12.3, 45.0]
    """

    decimals: int = 1

    def __post_init__(self) -> None:
        if self.decimals < 0:
            raise ArgumentError(f"decimals must not be negative, got {self.decimals!r}")

    @property
    def tokens(self) -> tuple[str, ...]:
        """Empty: digits are in every vocabulary."""
        return ()

    def format(self, seconds: float, duration: float | None = None) -> str:
        """The moment with ``decimals`` digits, not before 0 and, with a duration, not after it.

        Raises:
            TimeRangeError: ``seconds`` is not finite.
        """
        if not math.isfinite(seconds):
            raise TimeRangeError(f"seconds must be finite, got {seconds!r}")
        latest = math.inf if duration is None else duration
        return f"{max(0.0, min(seconds, latest)):.{self.decimals}f}"

    def format_span(self, span: Span, duration: float | None = None) -> str:
        """Both ends, one space between them."""
        return f"{self.format(span.start, duration)} {self.format(span.end, duration)}"

    def parse(self, text: str, duration: float | None = None) -> list[float]:
        """Every number that stands by itself, as in ``12.3``, ``12.3s`` or ``3.0-5.0``; none is clamped."""
        fraction = r"\.[0-9]+" if self.decimals else ""
        return [float(found) for found in re.findall(rf"(?<![\w.:])(?>[0-9]+{fraction})(?=s?\b)(?![.:]\d)", text)]


def _needed(duration: float | None) -> float:
    if duration is None:
        raise TimeRangeError("duration must be given: time tokens say where in the video, not how many seconds")
    return duration
