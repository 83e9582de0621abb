"""How a moment is written: a token of its own, seconds in plain text, what a clock shows; no other room need know."""

import math
import re
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from timetok.errors import ArgumentError, TimeRangeError, check_count
from timetok.timegrid import Span, TimeGrid


class MomentCodec(Protocol):
    """What every way of writing a moment can do; ``duration`` is the length of the video in seconds."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens the codec adds to a tokenizer, in the order of time; empty if it needs none."""

    @property
    def pattern(self) -> str:
        """Regular expression of one moment as `format` writes it, without groups or look-around, which servers lack."""

    @property
    def span(self) -> str:
        """A span, with ``{}`` in the place of either moment: ``"{} {}"`` or ``"from {} to {}"``."""

    def format(self, seconds: float, duration: float | None = None) -> str:
        """Write one moment, clamped to the video."""

    def parse(self, text: str, duration: float | None = None) -> list[float]:
        """Seconds of every moment written in ``text``, in order."""


def format_span(codec: MomentCodec, span: Span, duration: float | None = None) -> str:
    """Write both ends of a span, in the codec's layout; a duration in seconds is for codecs that need it.

    >>> format_span(SecondsCodec(span="from {} to {}"), Span(12.3, 45))
    'from 12.3 to 45.0'
    """
    return codec.span.format(codec.format(span.start, duration), codec.format(span.end, duration))


def check_num_spans(min_spans: int, max_spans: int | None) -> None:
    """Refuse, by an ArgumentError, numbers of spans that no answer can have."""
    if min_spans < 0 or (max_spans is not None and max_spans < max(min_spans, 1)):
        raise ArgumentError(f"min_spans, max_spans: expected 0 <= min <= max >= 1, got {min_spans!r}, {max_spans!r}")


@dataclass(frozen=True)
class IndexCodec:
    """One token for each mark of a ``grid``: ``<t3> <t17>``.

    Args:
        template: A token, with ``{}`` once where its index goes and text on both sides.
        first: The index of the first token; LITA's paper writes ``<1>`` to ``<T>``, its code ``<t0>`` to ``<t99>``.
        span: Layout of a span, with ``{}`` twice. Other values raise ArgumentError.

    >>> IndexCodec(TimeGrid(100), "<{}>", first=1).format(5.0, duration=198)
    '<3>'
    """

    grid: TimeGrid = field(default_factory=TimeGrid)
    template: str = "<t{}>"
    first: int = field(default=0, kw_only=True)
    span: str = field(default="{} {}", kw_only=True)

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1 or not all(self.template.split("{}")) or self.first < 0:
            wanted = "text on both sides of one '{}' and an index that is not negative"
            raise ArgumentError(f"template, first: expected {wanted}, got {self.template!r}, {self.first!r}")
        _check_span(self.span)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The T tokens, in the order of time."""
        return tuple(map(self.token, range(self.grid.num_tokens)))

    @property
    def pattern(self) -> str:
        """One of the T tokens."""
        return f"(?:{'|'.join(map(re.escape, self.tokens))})"

    def format(self, seconds: float, duration: float | None = None) -> str:
        """The token of the mark nearest to ``seconds``; TimeRangeError without a duration or where the grid refuses."""
        return self.token(self.grid.encode(seconds, duration))

    def parse(self, text: str, duration: float | None = None) -> list[float]:
        """Seconds of every time token in ``text``; names beyond the marks are handled by the grid."""
        before, after = map(re.escape, self.template.split("{}"))
        found = re.findall(f"{before}([0-9]{{1,18}}){after}", text)
        return [self.grid.decode(int(number) - self.first, duration) for number in found]

    def token(self, index: int) -> str:
        """The token of a mark; beyond the last one the names go on."""
        return self.template.replace("{}", str(index + self.first))


@dataclass(frozen=True)
class _PlainText:
    """What codecs have in common that write numbers; an argument that makes no sense raises ArgumentError."""

    tokens: ClassVar[tuple[str, ...]] = ()
    decimals: int = 0
    span: str = field(default="{} {}", kw_only=True)

    def __post_init__(self) -> None:
        check_count("decimals", self.decimals, 0)
        _check_span(self.span)

    @property
    def _fraction(self) -> str:
        return rf"\.[0-9]{{{self.decimals}}}" if self.decimals else ""

    def _clamped(self, seconds: float, duration: float | None) -> float:
        if not math.isfinite(seconds):
            raise TimeRangeError(f"seconds must be finite, got {seconds!r}")
        return max(0.0, min(seconds, math.inf if duration is None else duration))


@dataclass(frozen=True)
class SecondsCodec(_PlainText):
    """Seconds in plain text, ``12.3 45.0``; needs no token and no duration.

    Args:
        decimals: Digits after the point; with any, only numbers with a point are moments: "two men, 3 dogs" has none.
        unit: Written behind each number, such as ``" seconds"``; answers are read with or without.
        span: Layout of a span, with ``{}`` twice, such as ``"from {} to {}"``.

    >>> SecondsCodec().parse("from 12.3 to 45.0 seconds, 2 men")
    [12.3, 45.0]
    """

    decimals: int = 1
    unit: str = field(default="", kw_only=True)

    @property
    def pattern(self) -> str:
        """A number with ``decimals`` digits after the point, and the unit."""
        return rf"[0-9]+{self._fraction}{re.escape(self.unit)}"

    def format(self, seconds: float, duration: float | None = None) -> str:
        """The moment, which must be finite, clamped to 0 and a duration, then rounded to ``decimals``."""
        return f"{self._clamped(seconds, duration):.{self.decimals}f}{self.unit}"

    def parse(self, text: str, duration: float | None = None) -> list[float]:
        """Every number that stands by itself, as in ``12.3``, ``12.3s`` or ``3.0-5.0``; none is clamped."""
        fraction = r"\.[0-9]+" if self.decimals else ""
        found = rf"(?a)(?<![\w.:])(?>[0-9]+{fraction})(?=(?:{re.escape(self.unit)}|s)?\b)(?![.:][0-9])"
        return [float(number) for number in re.findall(found, text)]


@dataclass(frozen=True)
class ClockCodec(_PlainText):
    """A moment as a clock shows it, ``01:15`` or ``00:01:15.250``; needs no token and no duration.

    Seconds have ``decimals``; ``span`` is as in `SecondsCodec`. Without ``hours`` minutes go on past 59; both are read.

    Source: ``MM:SS`` is what SmolVLM and Gemma write beside frames.

    >>> ClockCodec().parse("from 01:15 to 1:00:02.")
    [75.0, 3602.0]
    """

    hours: bool = False

    @property
    def pattern(self) -> str:
        """Minutes and seconds, after hours where they are written."""
        minutes = "[0-9][0-9]+:[0-5][0-9]" if self.hours else "[0-9][0-9]+"
        return rf"{minutes}:[0-5][0-9]{self._fraction}"

    def format(self, seconds: float, duration: float | None = None) -> str:
        """The moment, which must be finite, clamped to 0 and a duration, then rounded to ``decimals``."""
        ticks = round(self._clamped(seconds, duration) * 10**self.decimals)  # first, or 59.7 would become 00:60
        whole, part = divmod(ticks, 10**self.decimals)
        minutes, second = divmod(whole, 60)
        front = f"{minutes // 60:02d}:{minutes % 60:02d}" if self.hours else f"{minutes:02d}"
        return f"{front}:{second:02d}" + (f".{part:0{self.decimals}d}" if self.decimals else "")

    def parse(self, text: str, duration: float | None = None) -> list[float]:
        """Every clock reading in ``text``, with hours or without, with a fraction or without; none is clamped."""
        found = re.findall(r"(?a)(?<![\w.:])(?:([0-9]+):)?([0-9]+):([0-5][0-9](?:\.[0-9]+)?)(?![\w:]|\.[0-9])", text)
        return [int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds) for hours, minutes, seconds in found]


def _check_span(span: str) -> None:
    if span.count("{}") != 2 or re.search("[{}]", span.replace("{}", "")):
        raise ArgumentError(f"span must hold '{{}}' twice and no other brace, got {span!r}")
