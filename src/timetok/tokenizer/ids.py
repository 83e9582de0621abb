"""Time tokens in a tokenizer, added and found again; ids in the shapes in which callers hold them.

Torch is not imported to recognise a tensor.
"""

import reprlib
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from timetok.codecs import ClockCodec, IndexCodec, MomentCodec, SecondsCodec
from timetok.errors import ArgumentError, TimeRangeError, TokenizerError, raised_as

CodecName: TypeAlias = Literal["index", "seconds", "clock"]
CODECS: dict[str, type[Any]] = {"index": IndexCodec, "seconds": SecondsCodec, "clock": ClockCodec}


def add_tokens(tokenizer: PreTrainedTokenizerBase, codec: MomentCodec, lita_spacing: bool) -> None:
    """Add the codec's tokens unless they are there; TokenizerError as in `TimeTokenizer.wrap`."""
    vocabulary, wanted = tokenizer.get_vocab(), codec.tokens
    present = [token for token in wanted if token in vocabulary]
    if isinstance(codec, IndexCodec):  # the names go on beyond the last one wanted
        before, after = codec.template.split("{}")
        names = (f"{before}{index}{after}" for index in count(codec.first))
        present = list(takewhile(vocabulary.__contains__, names))
    if present and len(present) != len(wanted):
        num = len(present)
        raise TokenizerError(f"T: the tokenizer already carries {num} time tokens, got {len(wanted)}; use T={num}")
    if present:
        first = tokenizer.added_tokens_decoder.get(vocabulary[wanted[0]])
        if getattr(first, "rstrip", False) != lita_spacing:
            raise TokenizerError(f"lita_spacing: the tokenizer carries time tokens added with {not lita_spacing}")
        return
    spaces, name = {"lstrip": lita_spacing, "rstrip": lita_spacing}, type(tokenizer).__name__
    remedy = f"{name} takes no new tokens; load the same files with another class, or wrap with codec='seconds'"
    with raised_as(TokenizerError, f"tokenizer: {remedy}", NotImplementedError):
        tokenizer.add_tokens([AddedToken(token, special=False, normalized=False, **spaces) for token in wanted])


def find_tokens(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> tuple[int, ...]:
    """Ids of time tokens, each tokenised in the ways that `TimeTokenizer` names; else TokenizerError as it says."""
    if not tokens:
        return ()
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in tokens if token not in vocabulary]
    if missing:
        raise TokenizerError(f"tokenizer lacks {missing[0]} and {len(missing) - 1} more; use TimeTokenizer.wrap")
    ids = tuple(vocabulary[token] for token in tokens)
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


def with_durations(rows: Sequence[Any], duration: Any) -> Iterator[tuple[Any, Any]]:
    """Each row with its duration, where there is one for all or one for each; else a TimeRangeError."""
    durations = [duration] * len(rows) if duration is None or np.ndim(duration) == 0 else list(duration)
    if len(durations) != len(rows):
        raise TimeRangeError(f"durations: expected one for all or one for each of {len(rows)}, got {len(durations)}")
    return zip(rows, durations, strict=True)
