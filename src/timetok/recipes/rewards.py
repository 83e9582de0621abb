"""Verifiable rewards for answers in time: plain callables of TRL's signature, for `GRPOTrainer(reward_funcs=[…])`.

Each takes ``completion_ids`` and columns of the data set, one of them ``duration`` in seconds, and gives one number a
completion; moments are read as by ``TimeTokenizer.spans``. Overlong answers: TRL's ``get_soft_overlong_punishment``.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from timetok.metrics import union_iou
from timetok.timegrid import Span
from timetok.tokenizer import TimeTokenizer

Ids: TypeAlias = Sequence[Sequence[int]]  # of each completion
Reward: TypeAlias = Callable[..., list[float]]


def temporal_iou(tt: TimeTokenizer) -> Reward:
    """IoU of the unions of an answer's spans, none: 0, and of the column ``spans``: a pair, or a list, in seconds."""

    def temporal_iou(*, completion_ids: Ids, spans: Sequence[Any], duration: Sequence[float], **_: Any) -> list[float]:
        found = tt.spans(list(map(list, completion_ids)), list(duration))
        truths = [[row] if row and isinstance(row[0], int | float) else row for row in spans]
        return [union_iou(each, [Span(*span) for span in truth]) for each, truth in zip(found, truths, strict=True)]

    return temporal_iou


def well_formed(tt: TimeTokenizer, *, min_spans: int = 1, max_spans: int | None = 1, separator: str = " ") -> Reward:
    """1 for well-formed spans and nothing else, however spaced, else 0. Arguments as in ``TimeTokenizer.regex``."""
    layout = re.compile(tt.regex(min_spans, max_spans, separator=separator).replace(re.escape(" "), r"\s*"))

    def well_formed(*, completion_ids: Ids, duration: Sequence[float], **_: Any) -> list[float]:
        rows = [(list(ids), length) for ids, length in zip(completion_ids, duration, strict=True)]
        alone = [layout.fullmatch(tt.decode(ids).strip()) is not None for ids, _ in rows]
        paired = [len(tt.times(*row)) == 2 * len(tt.spans(*row)) >= 2 * min_spans for row in rows]
        return [float(both) for both in map(all, zip(alone, paired, strict=True))]

    return well_formed
