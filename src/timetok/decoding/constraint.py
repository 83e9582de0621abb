"""Holding a language model to answers made of well-formed spans, for any codec: its `format` and `parse` tell how.

`SpanGrammar` reads an answer character by character, of which a token of a codec is one, from Unicode's private use
area; `SpanConstraint` knows what each token of a vocabulary adds to it.
"""

import math
import re
from bisect import bisect
from collections.abc import Sequence
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor

from timetok.codecs import IndexCodec, MomentCodec, check_num_spans
from timetok.errors import ArgumentError, MalformedAnswerError, TokenizerError

_ANY_SECONDS = 99_999.0  # a video in which every moment is possible
_BEYOND_SECONDS = 999_999  # the lengths of texts are told up to here
_TICKS = 10**9  # a second, where they are searched
_CONTEXT = 24  # characters of a text that are remembered while they may belong to a number


class State(NamedTuple):
    """Where in an answer a character stands."""

    place: str  # ``start`` or ``end``, in that moment or on the way to it, ``outside`` of a span, or ``text``
    written: str = ""  # of the moment; of a text, what may still matter: right behind a span its end, too
    rest: str = ""  # what must be written before anything else
    earliest: float = 0.0  # seconds before which no moment may lie
    num_spans: int = 0  # those that are complete


class SpanGrammar:
    """Answers of ``least`` to ``most`` well-formed spans about one video; options as in `SpanConstraint`.

    No span lies after ``duration``, the length of the video in seconds. With ``tight``, no spaces are written beside
    moments: see ``lita_spacing`` of `timetok.TimeTokenizer`. The codec must write texts of one length as an odometer
    does, place by place. ``step(state, character)`` is the next state, None if it may not be; ``start`` is the first.
    """

    def __init__(
        self, codec: MomentCodec, duration: float, least: int, most: float, separator: str, free_text: bool, tight: bool
    ) -> None:
        texts = [*codec.span.split("{}"), separator]
        self._before, self._between, self._after, self._gap = (text.strip(" ") if tight else text for text in texts)
        self._codec, self._duration, self._min, self._max, self._free = codec, duration, least, most, free_text
        self.own_characters = "".join(chr(0xF0000 + k) for k in range(len(codec.tokens)))  # private, one a token
        self._tokens = re.compile("|".join(map(re.escape, codec.tokens)) or "(?!)")
        self._private = dict(zip(codec.tokens, self.own_characters, strict=True))
        self._names = str.maketrans({character: token for token, character in self._private.items()})
        self._last = self._parse(self._write(duration, duration))[0]
        self._seconds, self._reach = lru_cache(1 << 14)(self._when), lru_cache(1 << 14)(self._latest)
        self._shapes = self._first_and_last()
        self._digits = frozenset("0123456789").union(self.own_characters, *map("".join, self._shapes))
        # what an answer without free text is made of
        self.alphabet = self._digits.union(" ", self._before, self._between, self._after, self._gap)
        self.start = State("text" if free_text else "outside")
        self.step = lru_cache(1 << 16)(self._step)

    def _parse(self, text: str) -> list[float]:
        return self._codec.parse(text.translate(self._names), self._duration)

    def _write(self, seconds: float, duration: float = _BEYOND_SECONDS) -> str:
        return self._tokens.sub(lambda token: self._private[token[0]], self._codec.format(seconds, duration))

    def _first_and_last(self) -> list[tuple[str, str]]:
        """The first and last text of each length, if the video has the first: 0.0 and 9.9, 10.0 and 99.9, and so on."""
        shapes, tick, ticks = [], 0, range(_BEYOND_SECONDS * _TICKS)
        while tick < len(ticks):
            first = self._write(tick / _TICKS)
            tick = bisect(ticks, len(first), key=lambda later: len(self._write(later / _TICKS)))
            shapes.append((first, self._write((tick - 1) / _TICKS)))
        return [shape for shape in shapes if self._seconds(shape[0]) is not None]

    def _when(self, text: str) -> float | None:
        """Seconds of a text; None if it is not a moment as the codec writes it in this video."""
        found = self._parse(text)
        is_so = len(found) == 1 and found[0] <= self._last and self._write(found[0], self._duration) == text
        return found[0] if is_so else None

    def _latest(self, prefix: str) -> float:
        """The latest moment, in seconds, whose text begins so; -1 where there is none."""
        n, shapes = len(prefix), self._shapes if self._digits.issuperset(prefix) else []
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
        last = self._close(state) if state.place in ("start", "end") else state
        return last is not None and last.place != "end" and not last.rest and last.num_spans >= self._min

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


class SpanConstraint:
    """The answers of spans that a tokenizer can write. Costs a look at the whole vocabulary: make one and keep it.

    Args:
        tt: A `timetok.TimeTokenizer`, with any codec.
        min_spans, max_spans: Bounds of their number, ``separator`` between two; None for any; else ArgumentError.
        free_text: Any text may stand around spans, but a moment in it begins one; of whole seconds, any number does.
        stop_ids: Tokens that end an answer where it may end; the tokenizer's ``eos`` if None, or an ArgumentError.

    >>> constraint = SpanConstraint(tt, max_spans=3)  # doctest: +SKIP
    >>> model.generate(**inputs, logits_processor=[constraint.processor(durations)])  # doctest: +SKIP
    """

    def __init__(
        self, tt: Any, *, min_spans: int = 1, max_spans: int | None = 1, separator: str = " ", free_text: bool = False,
        stop_ids: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        check_num_spans(min_spans, max_spans)
        self.stop_ids = frozenset([tt.tokenizer.eos_token_id] if stop_ids is None else stop_ids) - {None}
        if not self.stop_ids:
            raise ArgumentError("stop_ids must be given: the tokenizer has no eos token")
        # some tokenizers have no token for the space between two: WordPiece, and the one of LITA
        two = tt.tokenizer.encode(" ".join(tt.codec.tokens[:2]), add_special_tokens=False)
        most, layout = max_spans or math.inf, (separator, free_text, len(two) == 2)
        self.grammar = lru_cache(256)(lambda duration: SpanGrammar(tt.codec, duration, min_spans, most, *layout))
        longest = self.grammar(_ANY_SECONDS)
        self._codec, self._texts = tt.codec, _token_texts(tt, longest.own_characters, self.stop_ids)
        examples: dict[str, str] = {}  # of each kind of characters; in the tree they stand for all of it
        example = lru_cache(None)(lambda character: examples.setdefault(longest.kind(character), character))
        # texts of tokens as a tree: the number of a node by its parent, which comes before it, and its character
        self._nodes: dict[tuple[int, str], int] = {}
        ends = {token: 0 for token, text in self._texts.items() if free_text or longest.alphabet.issuperset(text)}
        for token in ends:
            for character in map(example, self._texts[token]):
                ends[token] = self._nodes.setdefault((ends[token], character), len(self._nodes) + 1)
        self._tokens, self._ends = torch.tensor([*ends.items()], dtype=torch.long).reshape(-1, 2).T.contiguous()
        self.mask, self.follow = lru_cache(256)(self._mask), lru_cache(1 << 14)(self._follow)

    def processor(self, durations: Sequence[float] | float | None = None) -> "SpanLogitsProcessor":
        """A logits processor for one call of ``generate``: greedy, sampled, or with beams.

        ``durations`` are lengths of videos in seconds, one a prompt or one for all; spans stay within. Index tokens
        need none. Ids that are there at the first step are the prompt: none where it is given as embeddings.
        """
        each = durations if isinstance(durations, Sequence) else [_ANY_SECONDS if durations is None else durations]
        if isinstance(self._codec, IndexCodec):
            each = [_ANY_SECONDS] * len(each)  # only the order of marks matters: one grammar for all videos
        return SpanLogitsProcessor(self, each)

    def _follow(self, duration: float, state: State | None, token: int) -> State | None:
        """Where an answer stands after a token; None where it is not well-formed."""
        step, text = self.grammar(duration).step, self._texts.get(token, "")
        for character in text:
            state = state and step(state, character)
        return state if text else None

    def _mask(self, duration: float, state: State, size: int, device: torch.device) -> Tensor:
        """Which tokens may come next: bool ``[v]``."""
        grammar = self.grammar(duration)
        states: list[State | None] = [state]
        for parent, character in self._nodes:
            reached = states[parent]
            states.append(reached and grammar.step(reached, character))
        allowed = self._tokens[torch.tensor([reached is not None for reached in states])[self._ends]]
        stops = sorted(self.stop_ids) if grammar.accepts(state) else []
        if not (stops or len(allowed)):
            raise TokenizerError(f"tt: no token of its vocabulary may follow {state.written!r} in {state.place!r}")
        mask = torch.zeros(size, dtype=torch.bool)
        mask[allowed] = mask[stops] = True
        return mask.to(device)


class SpanLogitsProcessor(LogitsProcessor):
    """Leaves only tokens that keep an answer well-formed; made by `SpanConstraint.processor` for one ``generate``."""

    def __init__(self, constraint: SpanConstraint, durations: Sequence[float]) -> None:
        self._constraint, self._durations, self._prompt_length = constraint, durations, -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Set the scores ``[b v]`` of what may not come next to ``-inf``.

        ArgumentError: rows do not divide among the durations; MalformedAnswerError: no row is well-formed so far.
        """
        if self._prompt_length < 0:
            self._prompt_length = input_ids.shape[1]
        rows, each = input_ids[:, self._prompt_length :].tolist(), self._durations
        if len(rows) % len(each):
            raise ArgumentError(f"durations: expected one for each prompt, got {len(each)} for {len(rows)} rows")
        states: list[State | None] = []
        allowed = torch.ones_like(scores, dtype=torch.bool)
        for k, row in enumerate(rows):
            duration = each[k * len(each) // len(rows)]
            if self._constraint.stop_ids.isdisjoint(row):  # else it has ended, and padding follows
                start: State | None = self._constraint.grammar(duration).start
                state = reduce(partial(self._constraint.follow, duration), row, start)
                states.append(state)
                # a beam that is no answer fills up a search with too few others
                allowed[k] = self._constraint.mask(duration, state, scores.shape[1], scores.device) if state else False
        if states and not any(states):
            where = f"behind its first {self._prompt_length} ids; make a processor for each call of generate"
            raise MalformedAnswerError(f"input_ids: no row is a well-formed answer {where}")
        return scores.masked_fill(~allowed, -torch.inf)


def _token_texts(tt: Any, characters: str, stop_ids: frozenset[int]) -> dict[int, str]:
    """What each token adds to a text; the codec's own ones, as in `SpanGrammar`, one of ``characters`` each."""
    own = dict(zip(tt.time_token_ids, characters, strict=True))
    tokenizer, left_out = tt.tokenizer, stop_ids.union(tt.tokenizer.all_special_ids, own)
    ids = sorted(set(tokenizer.get_vocab().values()) - left_out)
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]  # what stands first may lose its space
    front = len(tokenizer.decode(anchor))
    texts = tokenizer.batch_decode([[*anchor, token] for token in ids], clean_up_tokenization_spaces=False)
    return {**{token: text[front:] for token, text in zip(ids, texts, strict=True) if text[front:]}, **own}
