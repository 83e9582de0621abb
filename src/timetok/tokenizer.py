"""Time on any Hugging Face tokenizer: seconds into text and ids, ids back into spans. Importing it loads no torch."""

import copy
import json
import os
import random
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer
from transformers import BatchEncoding, PreTrainedTokenizerBase

from timetok.atomic import read_json, write_json
from timetok.codecs import ClockCodec, IndexCodec, MomentCodec, SecondsCodec, check_num_spans
from timetok.errors import ArgumentError, MalformedAnswerError, ModelFolderError, TokenizerError, check_count, raised_as
from timetok.timegrid import Number, Numbers, Span, TimeGrid, with_durations

Codec: TypeAlias = Literal["index", "seconds", "clock"] | MomentCodec
CODECS: dict[str, type[Any]] = {"index": IndexCodec, "seconds": SecondsCodec, "clock": ClockCodec}
Malformed: TypeAlias = Literal["drop", "raise", "sort"]
SETTINGS_FILE = "time_tokens.json"
_PRIVATE_USE = range(0xF0000, 0xFFFFE)


class TimeTokenizer:
    """A Hugging Face tokenizer and a way of writing moments; make one with `wrap`.

    Text is trusted or not. In trusted text ``<t12>`` is a time token and, where a duration is given, ``<12.3>`` is a
    moment in seconds. In untrusted text both are the characters a user typed, and the ids are those the tokenizer gave
    before it was wrapped. Durations are lengths of videos in seconds; where there is a batch, one for all or one for
    each of its rows. More or fewer raise TimeRangeError, and so does one that is not positive and finite.

    ``time_token_ids`` are those of the codec's tokens, contiguous and in its order; empty where it has none.
    TokenizerError: one is missing, ids are not contiguous, or the tokenizer does not find every token alone, glued to
    text, glued to another, and at both ends of a text. In methods, text holds plain characters like a time token, which
    takes a ``tokenizers`` backend to tell apart, and there is none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, codec: MomentCodec) -> None:
        self.tokenizer, self.codec = tokenizer, codec
        self.time_token_ids = find_tokens(tokenizer, codec.tokens)
        self._written = re.compile("|".join(map(re.escape, codec.tokens)) or r"(?!)")
        mark = "".join(map(chr, random.SystemRandom().choices(_PRIVATE_USE, k=8)))  # 128 bits: nobody types it
        self._names = {token: f"{mark}{index}{mark}" for index, token in enumerate(codec.tokens)}
        self._named = re.compile("|".join(self._names.values()) or r"(?!)")
        self._last_copy: tuple[tuple[int, ...], Tokenizer] | None = None

    @classmethod
    def wrap(
        cls, hf_tokenizer: PreTrainedTokenizerBase, T: int = 100, *, codec: Codec = "index", lita_spacing: bool = False
    ) -> Self:
        """Put time on a tokenizer, adding tokens to it in place as ``add_tokens`` does. Wrapping twice is harmless.

        Args:
            hf_tokenizer: Any tokenizer that takes new tokens, else TokenizerError is raised; so it is where it carries
                another number of time tokens or ones of another spacing, or does not find them in text.
            T: Number of time tokens, at least 2, ``<t0>`` to ``<t{T-1}>``; for ``codec="index"`` alone.
            codec: ``"index"`` writes a moment as one of T tokens, ``"seconds"`` as a number in plain text and
                ``"clock"`` as ``MM:SS``, which need no token. Or a codec of `timetok.codecs`, or your own.
            lita_spacing: Drop spaces beside time tokens, as LITA did, in decoded text too: ``<t1> <t2>`` are two ids.

        >>> tt = TimeTokenizer.wrap(tokenizer, T=100)  # doctest: +SKIP
        >>> tt.spans(ids, duration=60.0)  # doctest: +SKIP
        """
        if isinstance(codec, str) and codec not in CODECS:
            raise ArgumentError(f"codec must be one of {', '.join(CODECS)} or a codec, got {codec!r}")
        named = CODECS[codec]() if isinstance(codec, str) else codec
        chosen: MomentCodec = IndexCodec(TimeGrid(T)) if codec == "index" else named
        if T not in (TimeGrid().num_tokens, len(chosen.tokens)):
            raise ArgumentError(f"T counts the time tokens of codec='index': leave it out beside {chosen!r}, got {T!r}")
        vocabulary, tokens = hf_tokenizer.get_vocab(), chosen.tokens
        names = map(chosen.token, count()) if isinstance(chosen, IndexCodec) else tokens  # more than those may be there
        if num := len(list(takewhile(vocabulary.__contains__, names))):
            if num != len(tokens):
                told = f"the tokenizer already carries {num} time tokens, got {len(tokens)}; use T={num}"
                raise TokenizerError(f"T: {told}")
            if getattr(hf_tokenizer.added_tokens_decoder.get(vocabulary[tokens[0]]), "rstrip", False) != lita_spacing:
                raise TokenizerError(f"lita_spacing: the tokenizer carries time tokens added with {not lita_spacing}")
            return cls(hf_tokenizer, chosen)
        spaces, name = {"lstrip": lita_spacing, "rstrip": lita_spacing}, type(hf_tokenizer).__name__
        remedy = f"{name} takes no new tokens; load the same files with another class, or wrap with codec='seconds'"
        with raised_as(TokenizerError, f"tokenizer: {remedy}", NotImplementedError):
            hf_tokenizer.add_tokens([AddedToken(token, special=False, normalized=False, **spaces) for token in tokens])
        return cls(hf_tokenizer, chosen)

    @property
    def grid(self) -> TimeGrid:
        """The marks behind the time tokens; TokenizerError if the codec is not an `IndexCodec` and has none."""
        if not isinstance(self.codec, IndexCodec):
            raise TokenizerError(f"grid: {type(self.codec).__name__} has no marks; wrap with codec='index' for a grid")
        return self.codec.grid

    def __call__(
        self, text: str | list[str], duration: Numbers | None = None, *, trusted: bool = True, **hf_kwargs: Any
    ) -> BatchEncoding:
        """Tokenise as the wrapped tokenizer does; pass ``trusted=False``, and no duration, for what a user typed."""
        tokenizer: PreTrainedTokenizerBase = self.tokenizer
        if not trusted:
            if self._has_tokens([text, hf_kwargs.get("text_pair")]):
                tokenizer = self._renamed()
        elif isinstance(text, str):
            text = self.to_tokens(text, duration)
        else:
            text = [self.to_tokens(row, each) for row, each in with_durations(text, duration)]
        return cast(BatchEncoding, tokenizer(text, **hf_kwargs))

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], duration: Number | None = None, **template_kwargs: Any
    ) -> list[int]:
        """Ids of one chat; in what users typed a literal ``<t12>`` or ``<12.3>`` stays plain characters.

        ``messages`` and ``template_kwargs``, such as ``add_generation_prompt=True``, are those of transformers'
        ``apply_chat_template``, but for ``tokenize``. What the system and the assistant say may hold moments, the
        template itself none. A content is a text or a list of ``{"type": "text", "text": …}``.
        """

        def named(value: Any) -> Any:
            if isinstance(value, str):
                return self._written.sub(lambda token: self._names[token[0]], self.to_tokens(value, duration))
            if isinstance(value, Mapping):
                return {key: named(each) for key, each in value.items()}
            return [named(each) for each in value] if isinstance(value, list | tuple) else value

        # a template may cut, reorder or repeat what it is given, and the names go through it unharmed
        shown: list[Any] = [named(turn) if turn["role"] in ("system", "assistant") else turn for turn in messages]
        text = str(self.tokenizer.apply_chat_template(shown, tokenize=False, **template_kwargs))
        if self._written.search(text):  # plain characters
            return list(self._renamed().encode(text, add_special_tokens=False))
        return list(self.tokenizer.encode(self._with_tokens(text), add_special_tokens=False))

    def encode_time(self, seconds: Numbers, duration: Number) -> list[int]:
        """Ids that write one timestamp in seconds or several, without any text: one id each with ``codec="index"``."""
        if isinstance(self.codec, IndexCodec):
            return [self.time_token_ids[index] for index in np.atleast_1d(self.grid.encode(seconds, duration))]
        moments, length = np.atleast_1d(np.asarray(seconds, dtype=np.float64)), float(TimeGrid(2).decode(1, duration))
        written = " ".join(self.codec.format(moment, length) for moment in moments.tolist())
        return list(self.tokenizer.encode(written, add_special_tokens=False))

    def decode_time(self, ids: Any, duration: Numbers) -> Any:
        """Seconds at which time tokens stand: a float for one id, a float64 array of the same shape for ids of any.

        Ids that also hold text are for `times` and `spans`: here one that is no time token raises ArgumentError. For
        other codecs than ``"index"`` ids are those of one text.
        """
        numbers = as_integers(ids)
        if not isinstance(self.codec, IndexCodec):
            return np.array(self.times(np.atleast_1d(numbers), duration), dtype=np.float64)
        if (wrong := numbers[~self._is_time(numbers)]).size:
            between = f"{self.time_token_ids[0]} to {self.time_token_ids[-1]}"
            raise ArgumentError(f"ids must be time tokens, {between}, got {wrong.flat[0]}; see spans, times")
        return self.grid.decode(numbers - self.time_token_ids[0], duration)

    def to_tokens(self, text: str, duration: Any) -> str:
        """Write ``<12.3>`` of a trusted text, seconds, as the codec does: ``<t20>``; without a duration leave it."""
        if duration is None:
            return text
        length = float(TimeGrid(2).decode(1, duration))
        return re.sub(r"<(-?[0-9]+(?:\.[0-9]+)?)>", lambda mark: self.codec.format(float(mark[1]), length), text)

    def decode(self, ids: Any, duration: Number | None = None) -> str:
        """Text of the ids of one sequence, its time tokens written in seconds as ``<12.34>``, which `to_tokens` reads.

        Negative ids (-100) and special tokens are left out; without a duration time tokens keep their names.
        """
        row = as_row(ids)
        text, pattern = str(self.tokenizer.decode(row.tolist(), skip_special_tokens=True)), self._written
        marks = int(self._is_time(row).sum())
        if duration is None or not marks:
            return text
        if len(pattern.findall(text)) != marks:  # some are plain characters: tell them apart by other names
            text, pattern = str(self._renamed().decode(row.tolist(), skip_special_tokens=True)), self._named
        length = float(TimeGrid(2).decode(1, duration))

        def in_seconds(run: re.Match[str]) -> str:
            return "".join(f"<{t:.2f}>" for t in self.codec.parse(self._with_tokens(run[0]), length))

        return re.sub(f"(?:{pattern.pattern})+", in_seconds, text)

    def batch_decode(self, ids: Iterable[Any], duration: Numbers | None = None) -> list[str]:
        """`decode` for each row of a batch."""
        return [self.decode(row, each) for row, each in with_durations(list(ids), duration)]

    def times(self, ids: Any, duration: Numbers, *, prompt_length: int = 0) -> list[float]:
        """Every moment of one sequence of ids in seconds, as it is written: neither sorted nor paired; see `spans`.

        Moments written as tokens lie within the video; in plain text they are what it says.
        """
        check_count("prompt_length", prompt_length, 0)
        length = float(TimeGrid(2).decode(1, duration))
        row = as_row(ids[prompt_length:])
        if not isinstance(self.codec, IndexCodec):
            names = dict(zip(self.time_token_ids, self.codec.tokens, strict=True))
            # its own tokens, with a line break wherever something else stood between them
            own = "".join(names.get(token, "\n") for token in row.tolist())
            return self.codec.parse(own if names else self.decode(row), length)
        return list(self.grid.decode(row[self._is_time(row)] - self.time_token_ids[0], length).tolist())

    def spans(self, ids: Any, duration: Numbers, *, prompt_length: int = 0, malformed: Malformed = "drop") -> list[Any]:
        """Spans of generated ids: the first moment with the second, the third with the fourth, and so on.

        ``ids`` are one sequence or, nested, a batch, which gives nested lists: integers in lists, numpy arrays or torch
        tensors, else an ArgumentError. Negative ones (-100) are left out, and so are the first ``prompt_length`` of
        each row: a prompt's own time tokens are not answers. A ``malformed`` pair, which ends before it starts, is
        dropped, raises MalformedAnswerError, or is sorted; a last moment without a partner raises or is dropped.
        """
        if malformed not in get_args(Malformed):
            raise ArgumentError(f"malformed must be 'drop', 'raise' or 'sort', got {malformed!r}")
        if getattr(ids, "ndim", 1) > 1 or (len(ids) and np.ndim(ids[0])):  # a batch
            rows = with_durations(ids, duration)
            return [self.spans(row, each, prompt_length=prompt_length, malformed=malformed) for row, each in rows]
        moments = self.times(ids, duration, prompt_length=prompt_length)
        pairs = list(zip(moments[::2], moments[1::2], strict=False))
        if malformed == "raise" and (len(moments) % 2 or any(start > end for start, end in pairs)):
            raise MalformedAnswerError(f"ids: expected pairs of moments with start <= end, got {moments} seconds")
        return [Span(*sorted(pair)) for pair in pairs if malformed == "sort" or pair[0] <= pair[1]]

    def regex(self, min_spans: int = 1, max_spans: int | None = 1, *, separator: str = " ") -> str:
        """Regular expression of an answer made of spans, for servers with structured output; no groups, no look-around.

        It cannot say that a span ends after it starts; `timetok.decoding` can. With ``min_spans=0`` the answer may be
        empty, with ``max_spans=None`` it may hold any number; numbers that no answer can have raise ArgumentError.
        """
        check_num_spans(min_spans, max_spans)
        span = self.codec.pattern.join(map(re.escape, self.codec.span.split("{}")))
        most = "" if max_spans is None else max_spans - 1
        more = "" if most == 0 else f"(?:{re.escape(separator)}{span}){{{max(min_spans - 1, 0)},{most}}}"
        return span + more if min_spans else f"(?:{span}{more})?"

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer's files and, last and at once, ``time_tokens.json``, which names no codec of your own."""
        self.tokenizer.save_pretrained(folder)
        name = next((name for name, kind in CODECS.items() if type(self.codec) is kind), None)
        options: Any = asdict(self.codec) if name else None  # type: ignore[call-overload]
        write_json(Path(folder) / SETTINGS_FILE, {"codec": name, "options": options})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Load what `save_pretrained` wrote; ModelFolderError if it did not, or the codec was one of your own."""
        told = f"folder must hold what TimeTokenizer.save_pretrained wrote, got {str(folder)!r}"
        with raised_as(ModelFolderError, told, OSError, ValueError, TypeError, KeyError, AttributeError):
            settings = read_json(Path(folder) / SETTINGS_FILE, dict, "the settings of time tokens")
            if settings["codec"] is None:
                raise TokenizerError("saved with a codec of your own: load its tokenizer and wrap it again")
            options = settings["options"]
            if "grid" in options:
                options["grid"] = TimeGrid(**options["grid"])
            codec = CODECS[settings["codec"]](**options)
        from transformers import AutoTokenizer  # which loads torch

        return cls(AutoTokenizer.from_pretrained(os.fspath(folder)), codec)

    def _is_time(self, row: NDArray[np.int64]) -> NDArray[np.bool_]:
        first, last = (self.time_token_ids[0], self.time_token_ids[-1]) if self.time_token_ids else (0, -1)
        return (row >= first) & (row <= last)

    def _has_tokens(self, value: Any) -> bool:
        return bool(self._written.search(value)) if isinstance(value, str) else any(map(self._has_tokens, value or ()))

    def _with_tokens(self, text: str) -> str:
        """The text, the names that `_renamed` gives to time tokens undone."""
        tokens = {name: token for token, name in self._names.items()}
        return self._named.sub(lambda name: tokens[name[0]], text)

    def _renamed(self) -> PreTrainedTokenizerBase:
        """A copy whose time tokens have names that no text holds, and the same ids: there ``<t12>`` is plain text."""
        backend: Tokenizer | None = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            lacks = f"{type(self.tokenizer).__name__} has no `tokenizers` backend to keep a typed time token plain text"
            raise TokenizerError(f"tokenizer: {lacks}; load a fast tokenizer or rephrase the text")
        key = tuple(backend.get_added_tokens_decoder())
        if self._last_copy is None or self._last_copy[0] != key:  # else that of the text before still serves
            description = json.loads(backend.to_str())
            for token in description["added_tokens"]:
                token["content"] = self._names.get(token["content"], token["content"])
            plain = Tokenizer.from_str(json.dumps(description))
            if any(plain.token_to_id(new) != backend.token_to_id(old) for old, new in self._names.items()):
                raise TokenizerError("tokenizer: its time tokens are part of its model, and not told from plain text")
            self._last_copy = key, plain
        self._last_copy[1].post_processor = backend.post_processor  # changes when a user sets add_bos_token
        tokenizer = copy.copy(self.tokenizer)
        tokenizer._tokenizer = self._last_copy[1]
        return tokenizer


def find_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> tuple[int, ...]:
    """Ids of time tokens, each tokenised in the ways that `TimeTokenizer` names; else TokenizerError as it says."""
    if not tokens:
        return ()
    with raised_as(TokenizerError, "tokenizer lacks time tokens; use TimeTokenizer.wrap", KeyError):
        ids = tuple(map(tokenizer.get_vocab().__getitem__, tokens))
    if ids != tuple(range(ids[0], ids[0] + len(ids))):
        found = f"{ids[0]} to {ids[-1]} for {len(ids)} tokens; wrap a tokenizer that does not have some of them yet"
        raise TokenizerError(f"time tokens must have contiguous ids in the order of time, got {found}")
    texts = [("glued to each other", "".join(tokens), ids), ("glued to text", f"a{'a'.join(tokens)}b", ids)]
    texts += [("alone", token, (own,)) for token, own in zip(tokens, ids, strict=True)]
    rows = tokenizer([text for _, text, _ in texts], add_special_tokens=False)["input_ids"]
    for (where, text, expected), row in zip(texts, rows, strict=True):
        if tuple(token for token in row if ids[0] <= token <= ids[-1]) != expected:
            name, example = type(tokenizer).__name__, reprlib.repr(text)
            raise TokenizerError(f"tokenizer: {name} does not find time tokens {where}, as in {example}")
    return ids


def as_integers(ids: Any) -> NDArray[np.int64]:
    """Ids of any shape and kind as int64; ArgumentError if they are not integers."""
    array = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids)
    if array.dtype.kind not in "iu" and array.size:
        raise ArgumentError(f"ids must be integers, got {type(ids).__name__} of {array.dtype}")
    return array.astype(np.int64)


def as_row(ids: Any) -> NDArray[np.int64]:
    """Ids of one sequence without the negative ones, which are padding; ArgumentError if they are anything else."""
    row = as_integers(ids)
    if row.ndim != 1:
        raise ArgumentError(f"ids must be one sequence, got shape {row.shape}; use batch_decode or spans for a batch")
    return row[row >= 0]
