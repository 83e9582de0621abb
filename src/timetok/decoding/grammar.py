"""Which characters may come next in an answer made of spans, for any codec: `format` and `parse` tell its moments.

A token of a codec counts as one character, from Unicode's private use area.
"""

import math
import re
from bisect import bisect
from functools import lru_cache
from typing import NamedTuple

from timetok.codecs import MomentCodec, check_num_spans

_DIGITS = "0123456789"
_FIRST_PRIVATE = 0xF0000
ANY_SECONDS = 99_999.0  # a video in which every moment is possible
_BEYOND_SECONDS = 999_999  # the lengths of texts are told up to here
_TICKS = 10**9  # a second, where they are searched
_CONTEXT = 24  # characters of a text that are remembered while they may belong to a number


class State(NamedTuple):
    """Where in an answer a character stands.

    Attributes:
        place: ``start`` or ``end``, in that moment or on the way to it, ``outside`` of a span, or ``text``.
        written: What of the moment is written; of a text, what may still matter: right behind a span its end, too.
        rest: What must be written before anything else.
        earliest: Seconds before which no moment may lie.
        num_spans: Spans that are complete.
    """

    place: str
    written: str = ""
    rest: str = ""
    earliest: float = 0.0
    num_spans: int = 0


class SpanGrammar:
    """Answers of well-formed spans about one video, read character by character; options as in `SpanConstraint`.

    No span lies after ``duration``, the length of the video in seconds. With ``tight``, no spaces are written beside
    moments: see ``lita_spacing`` of `timetok.TimeTokenizer`. The codec must write texts of one length as an odometer
    does: each place runs through its digits by itself.

    Attributes:
        alphabet: Characters an answer without free text is made of.
        own_characters: What stands for the codec's tokens, in their order.
        start: The state before the first character.
        step: ``step(state, character)`` is the next state; None if the character may not be.
    """

    def __init__(
        self,
        codec: MomentCodec,
        duration: float = ANY_SECONDS,
        *,
        min_spans: int = 1,
        max_spans: int | None = 1,
        separator: str = " ",
        free_text: bool = False,
        tight: bool = False,
    ) -> None:
        check_num_spans(min_spans, max_spans)
        self._before, self._between, self._after, self._gap = (
            text.strip(" ") if tight else text for text in [*codec.span.split("{}"), separator]
        )
        self._min, self._max, self._free = min_spans, math.inf if max_spans is None else max_spans, free_text
        self._codec, self._duration = codec, duration
        self.own_characters = "".join(chr(_FIRST_PRIVATE + k) for k in range(len(codec.tokens)))
        self._tokens = re.compile("|".join(map(re.escape, codec.tokens)) or "(?!)")
        self._private = dict(zip(codec.tokens, self.own_characters, strict=True))
        self._names = str.maketrans({character: token for token, character in self._private.items()})
        self._shapes = self._first_and_last()
        self._digits = frozenset(_DIGITS).union(self.own_characters, *map("".join, self._shapes))
        self.alphabet = self._digits.union(" ", self._before, self._between, self._after, self._gap)
        self.start = State("text" if free_text else "outside")
        self._last = self._parse(self._write(duration, duration))[0]
        self._seconds, self._reach = lru_cache(1 << 14)(self._when), lru_cache(1 << 14)(self._latest)
        self._in_reach = [shape for shape in self._shapes if self._seconds(shape[0]) is not None]  # not beyond the end
        self.step = lru_cache(1 << 16)(self._step)

    def _parse(self, text: str) -> list[float]:
        """Seconds of all moments in a text."""
        return self._codec.parse(text.translate(self._names), self._duration)

    def _write(self, seconds: float, duration: float) -> str:
        return self._tokens.sub(lambda token: self._private[token[0]], self._codec.format(seconds, duration))

    def _first_and_last(self) -> list[tuple[str, str]]:
        """The first and the last text of each length: 0.0 and 9.9, 10.0 and 99.9, and so on."""

        def text(tick: int) -> str:
            return self._write(tick / _TICKS, _BEYOND_SECONDS)

        shapes, tick, ticks = [], 0, range(_BEYOND_SECONDS * _TICKS)
        while tick < len(ticks):
            first = text(tick)
            tick = bisect(ticks, len(first), key=lambda later: len(text(later)))
            shapes.append((first, text(tick - 1)))
        return shapes

    def _when(self, text: str) -> float | None:
        """Seconds of a text; None if it is not a moment as the codec writes it in this video."""
        found = self._parse(text)
        is_so = len(found) == 1 and found[0] <= self._last and self._write(found[0], self._duration) == text
        return found[0] if is_so else None

    def _latest(self, prefix: str) -> float:
        """The latest moment, in seconds, whose text begins so; -1 where there is none."""
        n, shapes = len(prefix), self._in_reach if self._digits.issuperset(prefix) else []
        lasts = [last for first, last in shapes if len(first) >= n and self._seconds(prefix + first[n:]) is not None]
        return max((min(self._last, *self._parse(prefix + last[n:])) for last in lasts), default=-1.0)

    def kind(self, character: str) -> str:
        """One name for all characters between which an answer makes no difference; those of moments are their own."""
        if character in self.alphabet:
            return character
        if character.isspace():
            return "space"
        of_a_word, behind = re.match(r"\w", character), self._parse(self._shapes[0][0] + character)
        return f"free: {self._stands_free(character)}, {bool(of_a_word)}, {len(behind)}"

    def accepts(self, state: State) -> bool:
        """Whether an answer may end here."""
        if state.place in ("start", "end"):
            closed = self._close(state)
            return closed is not None and self.accepts(closed)
        return not state.rest and state.num_spans >= self._min

    def _step(self, state: State, character: str) -> State | None:
        if state.place == "text":
            return self._step_in_text(state, character)
        if state.rest:
            return state._replace(rest=state.rest[1:]) if state.rest[0] == character else None
        if state.place == "outside":
            if state.num_spans == self._max:
                return None
            opened = state._replace(place="start", rest=self._gap * (state.num_spans > 0) + self._before)
            # a first word is often a token with a space in front
            return opened if state == self.start and character == " " else self.step(opened, character)
        longer = state._replace(written=state.written + character)
        if self._reach(longer.written) >= state.earliest:
            return longer
        closed = self._close(state)
        return closed and self.step(closed, character)

    def _close(self, state: State) -> State | None:
        """What a moment is followed by; None if it is not complete."""
        seconds, num_spans = self._seconds(state.written), state.num_spans
        if seconds is None or seconds < state.earliest:
            if not self._free or self.own_characters or state.place == "end" or self._parse(state.written):
                return None
            return State("text", self._context(state.written), num_spans=num_spans)  # it was some other number
        if state.place == "start":
            return State("end", rest=self._between, earliest=seconds, num_spans=num_spans)
        if not self._free:
            return State("outside", rest=self._after, num_spans=num_spans + 1)
        return State("text", "" if self.own_characters else state.written, num_spans=num_spans + 1)

    def _step_in_text(self, state: State, character: str) -> State | None:
        written, parse = state.written + character, self._parse
        if span := parse(state.written):  # what follows may make another number of the span's end
            if parse(written) != span:
                return None
            settled = all(parse(written + more)[: len(span)] == span for more in "x1")
            return state._replace(written=self._context(written) if settled else written)
        if state.num_spans < self._max and self._reach(character) >= 0 and self._stands_free(state.written):
            return state._replace(place="start", written=character)
        if character in self.own_characters or parse(written):
            return None
        return state._replace(written=self._context(written))

    def _context(self, text: str) -> str:
        """As much of a text as decides whether what comes next is a moment: few different ones, to be remembered."""
        word = re.split(r"\s", text)[-1]
        if self.own_characters:  # only they are moments, whatever stands around them
            return ""
        if any(map(str.isdigit, word)):
            return word if len(word) <= _CONTEXT else "x" + word[-_CONTEXT:]  # without x it might begin one
        return "" if self._stands_free(word) else "x"

    def _stands_free(self, text: str) -> bool:
        """Whether a moment right behind ``text`` would be read as one."""
        text = re.sub("[0-9]", "1", text[-_CONTEXT:])  # 0:00:05 would pass for 00:05
        parse, first = self._parse, self._shapes[0][0]
        return parse(text + first) == parse(text) + parse(first)
